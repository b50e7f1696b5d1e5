"""A release that is served on one machine is swapped, and what may not take its place is refused, while clients ask: no request fails."""

import asyncio
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace

import httpx
import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.engine.batcher import Batcher
from mirepoix.serving.engine.current import about
from mirepoix.serving.http.guard import RELEASE_HEADER
from mirepoix.serving.local import server as module
from mirepoix.serving.local.server import LocalServer
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import publish
from tests.serving.load import LIGHT, MIXED, Checker, Load, Starting, encoders, unharmed, unordered
from tests.serving.local.conftest import until_whole
from tests.serving.local.stub_fork_server import REFUSED

PATIENT = [replace(clients, stall=None) for clients in MIXED]
"""Clients to whom a wait is no failure."""


@pytest.fixture(scope="module")
def started(release_folder):
    """A server of the release, and what its clients were told while it started."""
    server = LocalServer(ServeConfig(port=0))
    with Starting(server.url) as starting:
        server.start(str(release_folder))
    yield server, starting
    server.stop()


@pytest.fixture
def server(started):
    return started[0]


@pytest.fixture(scope="module")
def small(stub_server):
    """A server on a machine that holds one release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "available", lambda: 2**20)
        yield stub_server(0.01)


@pytest.fixture
def versions(release_folder, other_release):
    return [open_release(folder).version for folder in (release_folder, other_release)]


def test_it_lives_as_soon_as_its_port_is_open_and_says_that_it_starts_until_its_release_is_proved(started):
    started[1].check()


def test_under_load_what_is_refused_changes_nothing_another_release_takes_over_and_the_one_before_comes_back(
    server, release_folder, other_release, refused_releases, versions, truth
):
    old, new = versions
    with Checker(server.url, truth, pause=0.1) as checker, Load(server.url, *LIGHT) as load:
        for why, folder in refused_releases.items():
            with pytest.raises(Refused, match=why) as refused:
                server.swap(str(folder))
            assert "\n" not in str(refused.value)
            assert encoders(os.getpid()) == set(server.pids) and checker.seen in ([], [old])
        assert server.swap(str(other_release)).version == new
        time.sleep(0.5)
        assert server.swap(str(release_folder)).version == old
        time.sleep(0.5)
    assert checker.seen == [old, new, old]
    assert not unordered(unharmed(load.report, 15), (old, new, old))
    assert encoders(os.getpid()) == set(server.pids) and len(server.pids) == 1, "the encoders of releases that do not answer have ended"


def test_a_request_that_is_being_encoded_while_the_release_changes_is_searched_in_the_one_that_it_began_with(
    stub_server, other_release, versions
):
    server, replies = stub_server(1.0), []

    def ask() -> None:
        replies.append(httpx.post(f"{server.url}/v1/search", json={"text": "a disc"}, timeout=30))

    first = threading.Thread(target=ask)
    first.start()
    while not server.current.now.in_flight:
        time.sleep(0.01)
    server.swap(str(other_release))
    assert not replies, "the release changed before the request was answered"
    first.join()
    ask()
    for reply, version, others in zip(replies, versions, (False, True), strict=True):
        assert reply.headers[RELEASE_HEADER.decode()] == reply.json()["release"] == version
        assert {result["id"].startswith("other ") for result in reply.json()["results"]} == {others}
    server.stop()


def test_a_release_that_was_made_anew_in_its_place_is_swapped_and_the_same_one_is_not(
    stub_server, release_folder, other_release, versions, tmp_path
):
    server, target = stub_server(0.0), tmp_path / "release"
    for folder, version in zip((release_folder, other_release), versions, strict=True):
        draft = shutil.copytree(folder, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
        publish(draft, target, {}, replace=True)
        assert server.swap(str(target)).version == version == server.current.version()
        pids = server.pids
        assert server.swap(str(target)).version == version and server.pids == pids
    server.stop()


def test_where_one_encoder_is_refused_the_start_of_the_others_ends_before_all_are_closed(release_folder, monkeypatch):
    events = []

    class Started:
        def __init__(self, opening, *_):
            self.number = opening.number

        async def start(self):
            if not self.number:
                raise Refused("the first one is refused")
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                events.append("start ended")

        async def close(self):
            events.append("closed")

    monkeypatch.setattr(module, "ProcessWorker", Started)
    with pytest.raises(Refused, match="the first one"):
        LocalServer(ServeConfig(port=0, encoders=2)).start(str(release_folder))
    assert events == ["start ended", "closed", "closed"]


def test_the_documents_are_counted_beside_the_event_loop(stub_server, release_folder, monkeypatch):
    threads = []
    monkeypatch.setattr(module, "about", lambda release: threads.append(threading.current_thread().name) or about(release))
    server = stub_server(0.0)
    server.stop()
    assert len(threads) == 1 and threads[0] != "server"


def test_what_is_refused_before_it_is_parsed_names_the_release_that_answers_now(stub_server, other_release, versions, monkeypatch):
    server, replies = stub_server(0.0), []
    monkeypatch.setattr(Batcher, "excess", lambda *_, **__: 2.5)
    for target in ("", str(other_release)):
        if target:
            server.swap(target)
        replies += [httpx.post(f"{server.url}/v1/search", json={"text": "a disc"}, timeout=30) for _ in range(2)]
    assert {(reply.status_code, reply.headers["retry-after"], reply.json()["error"]["code"]) for reply in replies} == {(503, "3", "busy")}
    assert [reply.headers[RELEASE_HEADER.decode()] for reply in replies] == [versions[0]] * 2 + [versions[1]] * 2


def test_under_load_the_only_encoder_is_killed_and_every_request_is_answered(server, truth):
    (victim,) = server.pids
    with Checker(server.url, truth), Load(server.url, *[replace(clients, stall=None) for clients in LIGHT]) as load:
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        time.sleep(1)
    assert unharmed(load.report, 5).longest < 15
    assert server.pids and server.pids != [victim]


def test_where_memory_does_not_hold_two_a_swap_is_refused_with_the_pause_that_it_would_be_or_made_with_it(
    small, release_folder, other_release, versions
):
    old, new = versions
    lines, others = [], encoders(os.getpid(), "stub_fork_server") - {*small.pids}
    with Load(small.url, *PATIENT) as load:
        with pytest.raises(
            Refused, match=rf"^tiny {new} needs about [\d,]+ MiB .* 1 MiB are there; with --pause .* about \d+ seconds more$"
        ):
            small.swap(str(other_release))
        time.sleep(0.3)
        swapped = small.swap(str(other_release), pause=True, say=lines.append)
        time.sleep(0.3)
    assert swapped.version == new and 0 < swapped.pause_s < 20
    assert len(lines) == 1 and re.search(
        r"the old one ends first, and requests wait for those under way and about \d+ seconds more$", lines[0]
    )
    assert not unordered(unharmed(load.report, 10), (old, new))
    assert encoders(os.getpid(), "stub_fork_server") - others == {*small.pids} and len(small.pids) == 1


def test_where_memory_does_not_hold_two_and_the_new_one_is_refused_the_old_one_comes_back(small, other_release, tmp_path):
    refused = shutil.copytree(other_release, tmp_path / REFUSED)
    before, others = small.current.version(), encoders(os.getpid(), "stub_fork_server") - {*small.pids}
    with Load(small.url, *PATIENT) as load:
        time.sleep(0.3)
        with pytest.raises(Refused, match="does not reproduce its golden vectors"):
            small.swap(str(refused), pause=True)
        time.sleep(0.3)
    assert unharmed(load.report, 10).releases == [before]
    assert encoders(os.getpid(), "stub_fork_server") - others == {*small.pids} and len(small.pids) == 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_fifty_swaps_in_a_row_fail_no_request_and_leave_nothing_behind(server, release_folder, other_release, truth):
    files, pids = [], set(server.pids)
    with Checker(server.url, truth) as checker, Load(server.url, *MIXED) as load:
        for number in range(50):
            server.swap(str((other_release, release_folder)[number % 2]))
            time.sleep(0.2)
            files.append(len(os.listdir("/proc/self/fd")))
            pids |= set(server.pids)
    unharmed(load.report, 300)
    assert len(checker.seen) == 51 == len(pids)
    assert encoders(os.getpid()) == set(server.pids)
    assert max(files[25:]) < max(files[:25]) + 10, files  # connections of clients come and go; one file a swap would be 25


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_thirty_kills_in_a_row_of_one_of_two_encoders_fail_no_request(release_folder, truth):
    server = LocalServer(ServeConfig(port=0, encoders=2))
    server.start(str(release_folder))
    try:
        with Checker(server.url, truth), Load(server.url, *MIXED) as load:
            for number in range(30):
                until_whole(server)
                os.kill(server.pids[number % 2], signal.SIGKILL)
                time.sleep(1)
        unharmed(load.report, 300)
    finally:
        server.stop()
