"""The head of a request comes within a time and a size, or its connection is closed; bodies and idle connections may take longer."""

import asyncio
import socket

import pytest
import uvicorn

from mirepoix.serving.local import heads


async def _app(scope, receive, send):
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _ask(monkeypatch, *parts: bytes, pause: float = 0.0, wait: float = 0.6) -> bytes:
    """What a server answers to parts of what a client sends; it has closed the connection at the end, or `open` is added."""
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.3)

    async def work():
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(_app, http=heads.BoundedHeads, log_config=None, lifespan="off", timeout_keep_alive=1))
        serving = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        answer = b""
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            async with asyncio.timeout(wait):
                while piece := await reader.read(1000):
                    answer += piece
        except TimeoutError:
            answer += b"open"
        except ConnectionError:
            pass
        writer.close()
        server.should_exit = True
        await serving
        return answer

    return asyncio.run(work())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /"])
def test_a_head_that_does_not_come_to_its_end_closes_the_connection(monkeypatch, sent):
    answer = _ask(monkeypatch, sent)
    assert not answer.endswith(b"open") and answer.count(b"200 OK") == sent.count(b"\r\n\r\n")


def test_a_connection_without_a_request_under_way_and_a_slow_body_stay(monkeypatch):
    assert _ask(monkeypatch, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"open")
    slow = (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", b"a", b"b", b"c")
    assert b"200 OK" in _ask(monkeypatch, *slow, pause=0.2)


GET, EARLY = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize("parts", [(GET, b"\r\n"), (EARLY, b"a"), (EARLY, b"a", b"b")], ids=["an empty line", "a byte", "two bytes"])
def test_after_a_reply_what_is_no_request_does_not_keep_a_connection(monkeypatch, parts):
    answer = _ask(monkeypatch, *parts, pause=0.1, wait=2)
    assert b"200 OK" in answer and not answer.endswith(b"open")


def test_the_rest_of_a_body_that_was_refused_may_come_and_then_the_next_request(monkeypatch):
    answer = _ask(monkeypatch, EARLY, b"abc", GET, pause=0.1)
    assert answer.count(b"200 OK") == 2 and answer.endswith(b"open")


def test_a_head_without_an_end_is_refused(monkeypatch):
    answer = _ask(monkeypatch, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", *[b"x" * 2**16] * 9)
    assert not answer.endswith(b"open") and b"200 OK" not in answer
