"""Requests that are refused as too many are answered before they are parsed; every other one is uvicorn's."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn

from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.guard import busy
from mirepoix.serving.local.protocol import BusyProtocol, _whole, whole_reply

BODY = b'{"text": "x"}'


def request(path: str = "/v1/search", method: str = "POST", body: bytes = BODY, headers: tuple[str, ...] = ()) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """uvicorn with the protocol over an application that remembers the bodies it was given."""

    def __init__(self) -> None:
        self.busy = False
        self.bodies: list[bytes] = []
        self.admission = Admission()

    def refusal(self) -> bytes | None:
        return whole_reply(busy(2.2), {"x-mirepoix-release": "abc"}) if self.busy else None

    async def app(self, scope, receive, send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        assert self.admission.count == self.admission.entered(scope)
        self.admission.leave(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    @asynccontextmanager
    async def listening(self):
        protocol = type("Protocol", (BusyProtocol,), {"refusal": staticmethod(self.refusal), "admission": self.admission})
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(self.app, http=protocol, interface="asgi3", lifespan="off", log_config=None))
            task = asyncio.create_task(server._serve([listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            try:
                yield await asyncio.open_connection(*listener.getsockname())
            finally:
                server.should_exit = True
                await task


async def answer(reader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def test_while_there_are_too_many_a_request_is_refused_in_our_form_and_its_connection_goes_on():
    server = Server()

    async def work():
        async with server.listening() as (reader, writer):
            seen = []
            for too_many in (False, True, True, False):
                server.busy = too_many
                writer.write(request())
                seen.append(await answer(reader))
            writer.close()
            return seen

    first, refused, again, last = asyncio.run(work())
    assert first[0] == last[0] == 200 and server.bodies == [BODY, BODY]
    for status, headers, body in (refused, again):
        assert status == 503 and headers["retry-after"] == "3" and headers["x-mirepoix-release"] == "abc"
        assert json.loads(body)["error"]["code"] == "busy"
    assert server.admission.count == 0


@pytest.mark.parametrize(
    "other",
    [
        request("/health", "GET", b""),
        request("/v1/models", "GET", b""),
        request(headers=("Expect: 100-continue",)),
        request(headers=("Connection: close",)),
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    ],
    ids=["health", "models", "expect", "close", "chunked"],
)
def test_what_is_no_plain_request_to_the_encoders_is_parsed(other):
    server = Server()
    server.busy = True

    async def work():
        async with server.listening() as (reader, writer):
            writer.write(other)
            if b"Expect" in other:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            found = await answer(reader)
            writer.close()
            return found

    assert asyncio.run(work())[0] == 200 and len(server.bodies) == 1


def test_a_client_that_reads_none_of_its_refusals_is_cut_off(monkeypatch):
    server = Server()
    server.busy = True
    monkeypatch.setattr(Server, "refusal", lambda self: b"x" * 100_000)

    async def work():
        async with server.listening() as (_, writer):
            with pytest.raises(ConnectionError):
                for _ in range(10_000):
                    writer.write(request())
                    await writer.drain()
                    await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(work(), 30))


def test_a_request_that_comes_in_parts_or_with_the_next_one_is_parsed():
    server = Server()
    server.busy = True

    async def work():
        async with server.listening() as (reader, writer):
            whole = request()
            for part in (whole[:30], whole[30:-4], whole[-4:]):
                writer.write(part)
                await asyncio.sleep(0.02)
            parted = await answer(reader)
            writer.write(request() + request())
            pipelined = [await answer(reader) for _ in range(2)]
            writer.write(request())
            alone = await answer(reader)
            writer.close()
            return parted, pipelined, alone

    parted, pipelined, alone = asyncio.run(work())
    assert parted[0] == 200 and [each[0] for each in pipelined] == [200, 200] and alone[0] == 503
    assert server.bodies == [BODY] * 3


def test_only_a_request_of_one_length_and_all_its_bytes_is_whole():
    assert _whole(request()) and _whole(request(body=b""))
    assert not _whole(request()[:-1]) and not _whole(request() + b"x") and not _whole(b"POST /v1/search HTTP/1.1\r\n")
    assert not _whole(request(headers=("Content-Length: 13",))), "two lengths are an attack on proxies"
