"""Encoders of a server on one machine are killed while clients ask: each request is answered, but for one that kills its encoder."""

import os
import signal
import threading
import time

import httpx
import pytest

from tests.serving.load import MIXED, Load, encoders, parent, unharmed
from tests.serving.local.conftest import until_whole
from tests.serving.local.stub_fork_server import KILL

ITEM_S = 0.01
"""So that the load takes half of the time of one encoder."""


@pytest.fixture(scope="module")
def server(stub_server):
    """Two encoders."""
    return stub_server(ITEM_S, encoders=2)


@pytest.fixture(scope="module")
def single(stub_server):
    """One encoder."""
    return stub_server(ITEM_S)


def kill_one(server) -> int:
    victim = server.pids[0]
    os.kill(victim, signal.SIGKILL)
    return victim


def test_with_two_encoders_a_killed_one_costs_nobody_anything_and_comes_back(server):
    with Load(server.url, *MIXED) as load:
        for _ in range(2):
            time.sleep(0.5)
            victim = kill_one(server)
            time.sleep(1)
            until_whole(server)
            assert victim not in server.pids
    unharmed(load.report, 30)


def test_all_requests_wait_for_the_only_encoder_and_are_answered(single):
    with Load(single.url, *MIXED) as load:
        time.sleep(0.5)
        kill_one(single)
        time.sleep(1.5)
    assert len(load.report.answered) == len(load.report.records) > 20, load.report


def test_a_request_that_kills_its_encoder_each_time_is_given_up_and_the_others_are_served(server):
    replies = []

    def ask() -> None:
        replies.append(httpx.post(f"{server.url}/v1/search", json={"text": KILL}, timeout=30))

    with Load(server.url, *MIXED) as load:
        time.sleep(0.3)
        killer = threading.Thread(target=ask)
        killer.start()
        killer.join()
        until_whole(server)
        time.sleep(0.5)
    (reply,) = replies
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "encoder_died"
    assert len(load.report.answered) == len(load.report.records) > 10, load.report


def test_no_encoder_is_left_behind(server, single):
    until_whole(server)
    assert encoders(os.getpid(), "stub_fork_server") == {*server.pids, *single.pids}


def test_what_forks_the_encoders_is_killed_with_one_of_them_and_both_come_back(server):
    before = parent(server.pids[0])
    with Load(server.url, *MIXED) as load:
        time.sleep(0.3)
        os.kill(before, signal.SIGKILL)
        victim = kill_one(server)
        time.sleep(0.5)
        until_whole(server)
    unharmed(load.report, 10)
    forking = {parent(pid) for pid in server.pids}
    assert victim not in server.pids and before not in forking and os.getpid() in map(parent, forking)
