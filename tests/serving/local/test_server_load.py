"""A server on one machine under more than it can do: short requests pass long ones, what would be late is refused, clients may leave."""

import logging
import time
from collections.abc import Callable

import httpx
import pytest

from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.http.limits_config import Limits
from tests.serving.load import Clients, Load, run, unharmed

ITEM_S, SLOW_ITEM_S = 0.001, 0.025
WAIT_S, BODY_S = 0.5, 2.0
SLACK_S = 1.5
"""For what else a machine does that tests on both of its cores."""


@pytest.fixture(scope="module")
def server(stub_server):
    """One encoder of 1000 items a second."""
    return stub_server(ITEM_S, limits=Limits(body_s=BODY_S))


@pytest.fixture(scope="module")
def slow_server(stub_server):
    """One encoder of 40 items a second, and a queue of half a second."""
    return stub_server(SLOW_ITEM_S, batch=BatchConfig(interactive_wait_s=WAIT_S))


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples whose labels begin with these."""
    wanted = [f'{label}="{value}' for label, value in labels.items()]
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.split()[-1]) for line in lines if all(one in line for one in wanted))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.05)


def test_a_search_passes_a_bulk_request_of_2048_inputs_which_is_answered_too(server):
    search = Clients(("search",), clients=40, rate=15, name="search")
    bulk = Clients(("bulk",), inputs=2048, requests=1, stall=None, delay=0.3, name="bulk")
    with Load(server.url, search, bulk) as load:
        until(lambda: metric(server.url, "mirepoix_queue_items", **{"class": "bulk"}) > 0)
        until(lambda: metric(server.url, "mirepoix_queue_items", **{"class": "bulk"}) == 0)
    (long,) = load.report.of("bulk").answered
    beside = unharmed(load.report.of("search").between(long.start, long.end), 10)
    assert long.seconds > 2048 * ITEM_S > 2 * beside.seconds(0.99), load.report


def test_slow_bodies_take_no_place_from_others_and_are_given_up(server):
    slow = Clients(("slow",), clients=130, seconds_of_body=60, requests=1, stall=None, name="slow")
    with Load(server.url, slow, Clients(("search", "embed"), clients=40, rate=20, delay=0.3, name="normal")) as load:
        time.sleep(BODY_S)
    unharmed(load.report.of("normal"), 20)
    assert load.report.of("slow").statuses == {408: 130} and load.report.of("slow").longest < BODY_S + SLACK_S


def test_of_ten_times_what_it_can_do_the_accepted_are_in_time_and_the_others_are_told_when_to_ask_again(slow_server):
    capacity = 1 / SLOW_ITEM_S
    run(slow_server.url, Clients(("search",), clients=4, requests=5))  # its rate is known then
    report = run(slow_server.url, Clients(("search",), clients=300, rate=10 * capacity, seconds=3, stall=None))
    assert set(report.statuses) == {200, 503} and not any(record.error for record in report.records), report
    assert report.longest < WAIT_S + SLACK_S, report
    assert len(report.answered) > 0.8 * capacity * 3, report
    refused = [record for record in report.records if record.status == 503]
    assert all(record.retry_after is not None and record.retry_after >= 1 and record.retry_after.is_integer() for record in refused)
    until(lambda: metric(slow_server.url, "mirepoix_queue_items") == 0)
    unharmed(run(slow_server.url, Clients(("search",), requests=3)), 3)


def test_the_work_of_clients_that_leave_is_cancelled_and_they_are_no_error_of_the_server(slow_server, caplog):
    url = slow_server.url
    faults = metric(url, "mirepoix_requests_total", status="50")
    with caplog.at_level(logging.DEBUG, "mirepoix"):
        # what these ask for takes half of `bulk_wait_s`, so that none of them is refused as too many
        leaving = Clients(("leave", "abort"), clients=10, requests=4, inputs=100, leave_after=0.3, name="leaving")
        with Load(url, leaving, Clients(("search",), clients=40, rate=5, seconds=1.5, name="others")) as load:
            load.wait()
            gone = time.monotonic()
        until(lambda: metric(url, "mirepoix_queue_items") == 0)
    assert time.monotonic() - gone < 5 < 10 * 100 * SLOW_ITEM_S, "what nobody waits for is not encoded"
    assert {record.error for record in load.report.of("leaving").records} == {"left"}
    unharmed(load.report.of("others"), 3)
    until(lambda: metric(url, "mirepoix_requests_total", status="499") >= 20)  # of 40; on a busy machine some leave before they are seen
    assert metric(url, "mirepoix_requests_total", status="50") == faults
    assert not caplog.records
