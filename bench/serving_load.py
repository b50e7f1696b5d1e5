"""Load on an endpoint from a process of its own: clients that do not retry, and what each of their requests saw.

    python bench/serving_load.py http://127.0.0.1:8000 --clients 4 --seconds 10 search picture embed

Clients keep their connections. In a closed loop each asks again once it is answered; in an open loop requests arrive at a rate, however
many are under way, and a request's time counts from when it was due. A request has failed if its answer is not 2xx, if it got none, if it
took longer than `stall`, or if its answer names two releases.

From Python, `Load` starts the process, tells it the plan as one line of JSON, and reads its records as one line of JSON:

    with Load(url, Clients(("search", "picture"), clients=4)) as load:
        ...  # what is done meanwhile
    assert not load.report.failures

It imports the standard library alone: a request costs the process a fifth of what one of httpx does.
"""

import argparse
import asyncio
import base64
import json
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

KINDS = ("health", "search", "picture", "embed", "bulk", "large", "slow", "leave", "abort")
LEFT = "left"
"""The error of a request whose client went away, as it was meant to; it has not failed."""
PLAN_ENDED = "the process of the load ended before its plan did"
RELEASE = re.compile(rb'"release": ?"([^"]*)"')
STALL = 2.0


@dataclass(frozen=True)
class Clients:
    """Clients of one kind, or that ask for several kinds in turn.

    health, search (a text), picture (a search by a picture), embed (one input), bulk (`inputs` of them), large (`inputs` pictures of 25
    megapixels), slow (an embedding whose body comes byte by byte, in `seconds_of_body`), leave and abort (a bulk request whose client goes
    away after `leave_after` seconds, when it has sent all of it or the half).
    """

    kinds: Sequence[str] = ("search",)
    clients: int = 1  # in an open loop, the most that ask at once
    rate: float | None = None  # arrivals a second: an open loop
    seconds: float | None = None  # None: until the load is stopped
    requests: int | None = None  # of each client; in an open loop, of all
    inputs: int = 32
    seconds_of_body: float = 60.0
    leave_after: float = 0.05
    stall: float | None = STALL  # None: a request may take as long as it wants
    timeout: float = 60.0
    obey: bool = False  # what is rejected with Retry-After is asked again after that time, and recorded as a request of its own
    delay: float = 0.0  # until the first request
    name: str = ""
    path: str = ""  # another path than that of the kind

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds are {self.kinds}; give some of {', '.join(KINDS)}")
        object.__setattr__(self, "name", self.name or "+".join(self.kinds))


class Record(NamedTuple):
    """One request: when it began (seconds since the load did) and how long it took, its status (0: none), its release, its error."""

    name: str
    kind: str
    client: int
    start: float
    seconds: float
    status: int
    release: str
    error: str
    retry_after: float | None
    again: bool  # it was asked after the time that an earlier one's Retry-After named

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Report:
    """The records of all requests, and the CPU seconds of the process that made them."""

    records: Sequence[Record]
    stalls: dict[str, float | None] = field(default_factory=dict)
    cpu: float = 0.0

    def of(self, name: str) -> "Report":
        """Those of the clients of a name."""
        return Report([record for record in self.records if record.name == name], self.stalls, self.cpu)

    def between(self, begin: float, end: float) -> "Report":
        """Those that began in a span of time."""
        return Report([record for record in self.records if begin <= record.start < end], self.stalls, self.cpu)

    @property
    def failures(self) -> list[Record]:
        return [record for record in self.records if self._failed(record)]

    @property
    def answered(self) -> list[Record]:
        """Those with an answer of 2xx, however late."""
        return [record for record in self.records if 200 <= record.status < 300 and not record.error]

    @property
    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(record.status for record in self.records).items()))

    def seconds(self, share: float) -> float:
        """A quantile of the time of those with an answer of 2xx; nan without any."""
        times = sorted(record.seconds for record in self.answered)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")

    @property
    def longest(self) -> float:
        """The longest that a client waited, for whatever became of its request."""
        return max((record.seconds for record in self.records if record.error != LEFT), default=0.0)

    @property
    def span(self) -> float:
        """From the first request's begin to the last one's end."""
        return max((record.end for record in self.records), default=0.0) - min((record.start for record in self.records), default=0.0)

    @property
    def rate(self) -> float:
        """Answers of 2xx a second."""
        return len(self.answered) / self.span if self.records else 0.0

    @property
    def releases(self) -> list[str]:
        """The releases that answered, in the order in which they first did."""
        return list(dict.fromkeys(record.release for record in sorted(self.records, key=lambda record: record.end) if record.release))

    @property
    def sequences(self) -> set[tuple[str, ...]]:
        """What each client saw of the releases, one after the other; in a closed loop its requests do not overlap."""
        seen: dict[tuple[str, int], list[str]] = {}
        for record in sorted(self.records, key=lambda record: record.start):
            own = seen.setdefault((record.name, record.client), [])
            if record.release and own[-1:] != [record.release]:
                own.append(record.release)
        return {tuple(own) for own in seen.values() if own}

    def __str__(self) -> str:
        lines = []
        for name in dict.fromkeys(record.name for record in self.records):
            part = self.of(name)
            times = ", ".join(f"{what} {part.seconds(share) * 1000:.1f}" for what, share in (("p50", 0.5), ("p99", 0.99)))
            lines.append(
                f"{name}: {len(part.records)} requests, {len(part.failures)} failed, statuses {part.statuses}; ms: {times}, "
                f"longest {part.longest * 1000:.1f}; {part.rate:.1f} a second; releases {', '.join(part.releases) or 'none'}"
            )
            lines += [f"  at {one.start:.2f} s: {one.status or 'none'} after {one.seconds:.2f} s {one.error}" for one in part.failures[:10]]
        return "\n".join(lines)

    def _failed(self, record: Record) -> bool:
        if record.error:
            return record.error != LEFT
        stall = self.stalls.get(record.name, STALL)
        return not 200 <= record.status < 300 or (stall is not None and record.seconds > stall)


class Load:
    """A process that sends the requests of a plan; within the block it runs, and after it `report` has the records."""

    def __init__(self, url: str, *clients: Clients, key: str | None = None):
        assert len({each.name for each in clients}) == len(clients), "clients of two groups have the same name"
        self.clients = clients
        self.report = Report([])
        self._plan = json.dumps({"url": url, "key": key, "clients": [asdict(each) for each in clients]})

    def __enter__(self) -> "Load":
        # Isolated and without site-packages: it starts in 50 ms, whatever the environment imports at its start.
        self._process = subprocess.Popen([sys.executable, "-I", "-S", __file__, "--plan"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._say(self._plan)
            assert self._pipe.readline() == b"begun\n", PLAN_ENDED
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._say("stop")
                self.wait()
        finally:
            self._end()

    def wait(self) -> Report:
        """Waits until the plan is at its end, which it is by itself only where all clients have `seconds` or `requests`."""
        if not self.report.records:
            line = self._pipe.readline()
            assert line, PLAN_ENDED
            said = json.loads(line)
            self.report = Report([Record(*one) for one in said["records"]], {one.name: one.stall for one in self.clients}, said["cpu"])
        return self.report

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended by itself; what it said is still to be read
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def run(url: str, *clients: Clients, key: str | None = None) -> Report:
    """The report of clients that end by themselves."""
    assert all(one.seconds is not None or one.requests is not None for one in clients), "give seconds or requests; these would never end"
    with Load(url, *clients, key=key) as load:
        return load.wait()


# The process


class Reply(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Connection:
    """One connection of a client, opened when it is needed."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.close()  # the server closed it while it was idle, which every client notices before it asks
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
        return self._streams

    async def read(self) -> Reply:
        assert self._streams is not None
        reader, _ = self._streams
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:] if line)}
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            body = b"".join([part async for part in _chunks(reader)])
        elif b"content-length" in headers:
            body = await reader.readexactly(int(headers[b"content-length"]))
        else:
            body = await reader.read()
        if headers.get(b"connection", b"").lower() == b"close" or reader.at_eof():
            self.close()
        return Reply(int(lines[0].split(b" ", 2)[1]), headers, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


class Requests:
    """The bytes of the requests of each kind; they are made once, and then sent in turn."""

    def __init__(self, host: str, key: str | None, clients: Clients):
        self.clients = clients
        self._head = f"host: {host}\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")
        self._made = {kind: [self._request(kind, number) for number in range(8)] for kind in dict.fromkeys(clients.kinds)}
        self._sent = 0

    def next(self) -> tuple[str, bytes]:
        """A kind and its bytes."""
        kind = self.clients.kinds[self._sent % len(self.clients.kinds)]
        self._sent += 1
        return kind, self._made[kind][self._sent // len(self.clients.kinds) % 8]

    def _request(self, kind: str, number: int) -> bytes:
        method, path, body = _request_of(kind, number, self.clients.inputs)
        more = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        return f"{method} {self.clients.path or path} HTTP/1.1\r\n{self._head}{more}\r\n".encode() + body


def text(number: int) -> str:
    """The words of a request, which no other request has."""
    texts = ["two small red stars at night", "a large blue disc on snow", "the green square", "a bar painted yellow, seen from far away"]
    return f"{texts[number % 4]} number {number}"


def _request_of(kind: str, number: int, inputs: int) -> tuple[str, str, bytes]:
    if kind == "health":
        return "GET", "/health", b""
    if kind == "search":
        return "POST", "/v1/search", json.dumps({"text": text(number), "k": 10}).encode()
    if kind == "picture":
        return "POST", "/v1/search", json.dumps({"image": _uri(png(320, 240, number)), "k": 10}).encode()
    if kind == "large":
        return "POST", "/v1/embeddings", json.dumps({"input": [{"image": _uri(png(5000, 5000))}] * inputs}).encode()
    count = 1 if kind in ("embed", "slow") else inputs
    given = {"input": [text(number * count + n) for n in range(count)], "encoding_format": "base64"}
    return "POST", "/v1/embeddings", json.dumps(given).encode()


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@cache
def png(width: int, height: int, seed: int | None = None) -> bytes:
    """A picture of random blocks of 8 x 8 pixels; without a seed, of one colour, so that its file is small."""
    draw, packed = random.Random(seed), zlib.compressobj()

    def row() -> bytes:
        colours = [b"\x30\x60\x90" if seed is None else draw.randbytes(3) for _ in range(0, width, 8)]
        return b"\0" + b"".join(colour * 8 for colour in colours)[: 3 * width]

    data, band = b"", row()
    for y in range(height):
        band = row() if seed is not None and y % 8 == 0 else band
        data += packed.compress(band)
    data += packed.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Group:
    """The clients of one group, and what their requests saw."""

    def __init__(self, url: str, key: str | None, clients: Clients, began: float, stopped: asyncio.Event):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.clients, self.began, self.stopped = clients, began, stopped
        self.requests = Requests(parts.netloc, key, clients)
        self.records: list[Record] = []

    async def run(self) -> None:
        await self._pause(self.clients.delay)
        await (self._open_loop() if self.clients.rate is not None else self._closed_loop())

    async def _closed_loop(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.clients.clients)))

    async def _client(self, number: int) -> None:
        connection, asked = Connection(self.host, self.port), 0
        end = self._end()
        while not self._over(end) and asked != self.clients.requests:
            await self._ask(connection, number)
            asked += 1
        connection.close()

    async def _open_loop(self) -> None:
        assert self.clients.rate is not None
        arrivals, end, due = random.Random(0), self._end(), time.perf_counter()
        idle = [(Connection(self.host, self.port), number) for number in reversed(range(self.clients.clients))]
        under_way: set[asyncio.Task[None]] = set()
        sent = 0

        async def one(due: float) -> None:
            connection, number = idle.pop()
            await self._ask(connection, number, due)
            idle.append((connection, number))

        while sent != self.clients.requests:
            due += arrivals.expovariate(self.clients.rate)
            await self._pause(due - time.perf_counter())
            if self._over(end):
                break
            if not idle:
                self._record("none", -1, due, "all clients of the load were waiting; give it more")
            else:
                task = asyncio.create_task(one(due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.sleep(0)  # it takes its connection
            sent += 1
        await asyncio.gather(*under_way)
        for connection, _ in idle:
            connection.close()

    async def _ask(self, connection: Connection, number: int, due: float | None = None) -> None:
        """One request; where the clients obey Retry-After, it is asked again until it is answered."""
        kind, request = self.requests.next()
        again = False
        while True:
            wait = await self._once(connection, number, kind, request, due, again)
            if wait is None or not self.clients.obey or self.stopped.is_set():
                return
            await self._pause(wait)
            due, again = None, True

    async def _once(self, connection: Connection, number: int, kind: str, request: bytes, due: float | None, again: bool) -> float | None:
        """Records a request; the seconds that its answer asked to wait."""
        start, reply, error = time.perf_counter() if due is None else due, None, ""
        try:
            async with asyncio.timeout(self.clients.timeout):
                reply = await self._exchange(connection, kind, request)
        except TimeoutError:
            error = f"no answer within {self.clients.timeout:g} seconds"
        except (OSError, asyncio.IncompleteReadError, ValueError) as problem:
            error = f"disconnected: {type(problem).__name__}" if not isinstance(problem, ConnectionRefusedError) else "refused"
        if reply is None:
            connection.close()
            self._record(kind, number, start, error or LEFT, again=again)
            return None
        named = {release.decode() for release in (reply.headers.get(b"x-mirepoix-release"), _release_of(reply.body)) if release}
        if len(named) > 1:
            error = f"the header and the body name two releases, {' and '.join(sorted(named))}"
        wait = reply.headers.get(b"retry-after", b"")
        wait_s = float(wait) if wait.replace(b".", b"", 1).isdigit() else None
        self._record(kind, number, start, error, reply.status, min(named, default=""), wait_s, again)
        return wait_s if reply.status in (429, 503) else None

    async def _exchange(self, connection: Connection, kind: str, request: bytes) -> Reply | None:
        """The reply; None to a client that goes away."""
        _, writer = await connection.streams()
        if kind == "slow":
            return await self._trickled(connection, request)
        writer.write(request if kind != "abort" else request[: len(request) // 2])
        if kind in ("leave", "abort"):
            await asyncio.sleep(self.clients.leave_after)
            return None
        return await connection.read()

    async def _trickled(self, connection: Connection, request: bytes) -> Reply:
        """The reply to a request whose body is sent byte by byte; it may come before the body is at its end."""
        _, writer = await connection.streams()
        head, _, body = request.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        reading = asyncio.create_task(connection.read())
        try:
            for byte in body:
                writer.write(bytes([byte]))
                await asyncio.wait([reading], timeout=self.clients.seconds_of_body / len(body))
                if reading.done():
                    break
            return await reading
        finally:
            reading.cancel()
            connection.close()  # the rest of a body may be missing

    def _record(
        self,
        kind: str,
        number: int,
        start: float,
        error: str,
        status: int = 0,
        release: str = "",
        retry_after: float | None = None,
        again: bool = False,
    ) -> None:
        seconds = time.perf_counter() - start
        self.records.append(
            Record(self.clients.name, kind, number, start - self.began, seconds, status, release, error, retry_after, again)
        )

    async def _pause(self, seconds: float) -> None:
        """Returns after so long, or once the load is stopped."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), seconds)

    def _end(self) -> float | None:
        return None if self.clients.seconds is None else time.perf_counter() + self.clients.seconds

    def _over(self, end: float | None) -> bool:
        return self.stopped.is_set() or (end is not None and time.perf_counter() >= end)


def _release_of(body: bytes) -> bytes | None:
    found = RELEASE.search(body, 0, 4096)  # it stands before the results; in a text of a result its quotes would be escaped
    return found[1] if found else None


async def loaded(url: str, key: str | None, clients: Iterable[Clients], stopped: asyncio.Event) -> list[Record]:
    """The records of all requests of all clients."""
    began = time.perf_counter()
    groups = [Group(url, key, each, began, stopped) for each in clients]
    print("begun", flush=True)
    await asyncio.gather(*(group.run() for group in groups))
    return [record for group in groups for record in group.records]


async def follow(plan: dict[str, Any]) -> None:
    """Carries a plan out until it is at its end, or until a line comes or the pipe of them is closed; prints the records."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        stopped.set()
        loop.remove_reader(sys.stdin.fileno())

    loop.add_reader(sys.stdin.fileno(), stop)
    records = await loaded(plan["url"], plan["key"], [Clients(**each) for each in plan["clients"]], stopped)
    print(json.dumps({"records": records, "cpu": time.process_time()}), flush=True)


def main(arguments: list[str]) -> int:
    if arguments == ["--plan"]:
        asyncio.run(follow(json.loads(sys.stdin.buffer.raw.readline())))  # unbuffered: the line that stops it is not read with the plan
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("kinds", nargs="*", default=["search"], help=f"{', '.join(KINDS)}, in turn (default: search)")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float, help="arrivals a second, in an open loop of at most --clients requests at once")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--inputs", type=int, default=32, help="inputs of a bulk request, pictures of a large one")
    parser.add_argument("--key", help="the server's key")
    asked = parser.parse_intermixed_args(arguments)
    clients = Clients(asked.kinds, asked.clients, asked.rate, asked.seconds, inputs=asked.inputs)
    report = run(asked.url, clients, key=asked.key)
    print(f"{report}\n{report.cpu / max(1, len(report.records)) * 1000:.2f} CPU ms a request in the process of the load")
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
