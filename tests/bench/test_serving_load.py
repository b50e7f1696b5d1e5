"""The load counts each answer, and notices whatever a client would: errors, disconnects, stalls, and answers of two releases."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.serving_load import LEFT, Clients, Load, Record, Report, png, run
from mirepoix.serving.pictures import plain_picture
from mirepoix.serving.pictures_config import PictureLimits
from tests.serving.load import unharmed

Answer = Callable[[str, bytes, asyncio.StreamWriter], Awaitable[bytes | None]]
SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "serving_load.py"


def reply(status: int, body: bytes, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


FOUND = reply(200, b'{"object":"search","release":"one","results":[{"text":"\\"release\\":\\"a text\\""}]}', "x-mirepoix-release: one")


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """The address of a server that gives each request (its line and its body) the bytes of `answer`; None closes the connection."""
    loop = asyncio.new_event_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                found = await answer(head.split("\r\n")[0], await reader.readexactly(length), writer)
                if found is None:
                    break
                writer.write(found)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def every(number: int, other: bytes | None, wait: float = 0.0) -> Answer:
    """Each so manyth request is answered otherwise, or after a time."""
    asked = [0]

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes | None:
        asked[0] += 1
        if asked[0] % number:
            return FOUND
        await asyncio.sleep(wait)
        return other

    return answer


def test_requests_of_all_kinds_are_counted_and_none_fails():
    seen: list[tuple[str, bytes]] = []

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        seen.append((line, body))
        return FOUND if "embeddings" not in line else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

    kinds = ("health", "search", "picture", "embed", "bulk")
    with served(answer) as url:
        report = unharmed(run(url, Clients(kinds, clients=2, requests=10, inputs=40)), least=20)
    assert report.statuses == {200: 20} and report.releases == ["one"] and report.sequences == {("one",)}
    assert sorted({line for line, _ in seen}) == ["get /health http/1.1", "post /v1/embeddings http/1.1", "post /v1/search http/1.1"]
    bodies = [json.loads(body) for line, body in seen if "embeddings" in line]
    assert sorted({len(body["input"]) for body in bodies}) == [1, 40]
    assert sum("image" in json.loads(body) for line, body in seen if "search" in line) == 4
    assert 0 < report.seconds(0.5) <= report.seconds(0.99) <= report.longest < 2 and report.cpu > 0


@pytest.mark.parametrize(
    ("other", "status", "said"),
    [
        (reply(500, b"Internal Server Error"), 500, ""),
        (reply(503, b"{}", "Retry-After: 3"), 503, ""),
        (None, 0, "disconnected: IncompleteReadError"),
        (reply(200, b'{"release":"two"}', "x-mirepoix-release: one"), 200, "the header and the body name two releases, one and two"),
    ],
)
def test_a_bad_answer_is_a_failure_and_is_asked_no_second_time(other, status, said):
    with served(every(5, other)) as url:
        report = run(url, Clients(requests=20))
    assert len(report.records) == 20 and len(report.failures) == 4
    assert {(record.status, record.error) for record in report.failures} == {(status, said)}
    assert len(report.answered) == 16
    with pytest.raises(AssertionError, match="4 of 20 requests failed"):
        unharmed(report)


def test_an_answer_that_is_late_is_a_failure_and_so_is_none():
    with served(every(3, FOUND, wait=0.3)) as url:
        late = run(url, Clients(requests=3, stall=0.2))
        patient = run(url, Clients(requests=3, stall=None))
        none = run(url, Clients(requests=3, timeout=0.1))
    assert [record.status for record in late.failures] == [200] and late.longest > 0.3 and late.seconds(0.5) < 0.2
    assert not patient.failures and patient.longest > 0.3
    assert [record.error for record in none.failures] == ["no answer within 0.1 seconds"]


def test_a_late_answer_is_let_pass_where_all_are_slow_and_not_where_it_alone_is(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))

    def report(name: str, *times: float, status: int = 200) -> Report:
        return Report([Record(name, "search", n, float(n), seconds, status, "one", "", None, False) for n, seconds in enumerate(times)])

    unharmed(report("slow", 1.0, 1.0, 1.0, 3.5), 4)
    with pytest.raises(AssertionError, match=r"1 of 4 requests failed; seconds that one may take: of slow 4\.0"):
        unharmed(report("slow", 1.0, 1.0, 1.0, 4.5))
    fast = report("fast", 0.1, 0.1, 0.1, 3.5)
    with pytest.raises(AssertionError, match=r"1 of 8 requests failed; seconds that one may take: of slow 4\.0, of fast 2\.0"):
        unharmed(Report([*report("slow", 1.0, 1.0, 1.0, 3.5).records, *fast.records]))
    with pytest.raises(AssertionError, match="4 of 4 requests failed"):
        unharmed(report("slow", 1.0, 1.0, 1.0, 3.5, status=503))


def test_nothing_that_listens_is_a_failure_of_each_request():
    with served(every(9, None)) as url:
        pass
    report = run(url, Clients(requests=2))
    assert [record.error for record in report.failures] == ["refused", "refused"]


def test_a_connection_that_the_server_closed_while_it_was_idle_is_opened_again():
    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(FOUND)

    with served(answer) as url:
        report = run(url, Clients(rate=10, requests=3))
    assert not report.failures and len(report.answered) == 3


def test_in_an_open_loop_requests_come_at_their_rate_and_time_counts_from_when_they_were_due():
    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        await asyncio.sleep(0.4)
        return FOUND

    with served(answer) as url:
        many = run(url, Clients(rate=100, clients=100, seconds=1, stall=None))
        few = run(url, Clients(rate=100, clients=10, seconds=1))
    assert 70 < len(many.records) < 140 and len(many.answered) == len(many.records) and many.rate > 40
    assert {record.error for record in few.failures} == {"all clients of the load were waiting; give it more"}


def test_who_obeys_asks_again_after_the_time_that_it_was_told():
    rejected: list[float] = []

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        rejected.append(asyncio.get_running_loop().time())
        return FOUND if len(rejected) % 2 == 0 else reply(429, b"{}", "Retry-After: 0.2")

    with served(answer) as url:
        report = run(url, Clients(requests=2, obey=True))
    assert [(record.status, record.again, record.retry_after) for record in report.records] == [(429, False, 0.2), (200, True, None)] * 2
    assert rejected[1] - rejected[0] >= 0.2


def test_slow_bodies_trickle_until_they_are_answered_and_who_leaves_has_not_failed():
    gone = threading.Event()

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        if b"number 3" in body:  # a bulk request
            await asyncio.sleep(0.3)
            gone.set()
        return FOUND

    with served(answer) as url:
        slow = run(url, Clients(("slow",), requests=1, seconds_of_body=0.5))
        left = run(url, Clients(("leave",), requests=1, leave_after=0.05))
        assert gone.wait(5)
    assert not slow.failures and 0.4 < slow.longest < 2
    assert not left.failures and not left.answered and [record.error for record in left.records] == [LEFT]


def test_a_body_that_is_answered_before_its_end_is_given_up():
    async def hurried(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(408, b"{}", "Connection: close"))
        writer.close()

    async def asked() -> Report:
        server = await asyncio.start_server(hurried, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        report = await asyncio.to_thread(run, url, Clients(("slow",), requests=1, seconds_of_body=30))
        server.close()
        return report

    report = asyncio.run(asked())
    assert [record.status for record in report.failures] == [408] and report.longest < 2


def test_load_goes_on_while_something_is_done_and_its_requests_are_answered_to_the_last():
    releases = ["one", "one", "two"]

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        await asyncio.sleep(0.02)
        release = "one" if len(releases) else "two"
        return reply(200, f'{{"release": "{release}"}}'.encode())

    with served(answer) as url, Load(url, Clients(("health",), clients=3), Clients(clients=1)) as load:
        threading.Event().wait(0.2)
        releases.clear()
        threading.Event().wait(0.2)
    assert not load.report.failures and load.report.releases == ["one", "two"] and load.report.sequences == {("one", "two")}
    assert {record.client for record in load.report.of("health").records} == {0, 1, 2} and len(load.report.of("search").records) > 5


def test_figures_are_of_the_records():
    def record(start: float, seconds: float, status: int = 200, error: str = "", release: str = "", client: int = 0) -> Record:
        return Record("search", "search", client, start, seconds, status, release, error, None, False)

    report = Report([record(n, n / 100) for n in range(100)])
    assert (report.seconds(0.5), report.seconds(0.99), report.longest) == (0.5, 0.99, 0.99)
    assert report.span == pytest.approx(99.99) and report.rate == pytest.approx(100 / 99.99)
    assert len(report.between(10, 20).records) == 10
    assert Report([record(0, 2.1), record(0, 1.9)], {"search": 2.0}).failures == [record(0, 2.1)]
    mixed = Report([record(0, 1, release="a"), record(1, 1, release="b"), record(2, 1, release="a"), record(0, 1, release="b", client=1)])
    assert mixed.sequences == {("a", "b", "a"), ("b",)}


def test_its_large_pictures_have_25_megapixels_and_small_files_and_its_other_pictures_differ():
    assert len(png(5000, 5000)) < 100_000
    assert png(320, 240, 1) != png(320, 240, 2)
    assert plain_picture(png(320, 240, 1), PictureLimits())


def test_from_the_command_line_the_figures_are_printed_and_a_failure_is_the_exit_status():
    with served(every(4, reply(500, b""))) as url:
        words = [sys.executable, str(SCRIPT), url, "--seconds", "0.2", "health"]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1 and "statuses {200: " in ended.stdout and "CPU ms a request" in ended.stdout


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="give some of health, search"):
        Clients(("serach",))
