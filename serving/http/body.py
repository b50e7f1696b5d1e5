"""Reads the body of a request, within limits of its own, before the request takes a place among those that are answered.

So a client that sends slowly delays no other: it has a connection and the bytes it has sent, for as long as its body may take.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

from mirepoix.serving.http.limits_config import Limits

SHORT = 1 << 16
"""Bytes of a short body, as nearly all have: an eighth of what all bodies may hold is for short ones alone, so that a few clients that send
large ones slowly keep no others out."""
MOST_COMMAS = 2**21
"""Most commas outside of texts: as many token ids as a request may have."""
MOST_PARTS, MOST_BOUNDARY, MOST_HEAD = 17, 70, 8192
"""Of a form: its parts, the bytes of its boundary (as RFC 2046 has it), and those of the headers of a part."""


class BodyRefused(Exception):
    """A body that is not read to its end; `reason` is one of too_large, too_slow, too_many, encoded."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Gone(Exception):
    """The client has left."""


def has_too_many_values(body: bytes, marks: int, commas: int = MOST_COMMAS) -> bool:
    """Whether JSON has more of `[{:` than `marks`, or more commas, outside of its texts: it would take gigabytes and minutes to read.

    A few passes over the bytes, each in one call: a loop over the texts would hold up all other requests for seconds.
    """

    def exceeds(text: bytes) -> bool:
        return sum(map(text.count, (b"[", b"{", b":"))) > marks or text.count(b",") > commas

    if not exceeds(body):
        return False
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    # Each text has two of these, and is a key, a value or an element: of all three there are no more than marks.
    return unescaped.count(b'"') > 4 * marks or exceeds(b"".join(unescaped.split(b'"')[::2]))


class NoForm(Exception):
    """A body is not a form, or one of too many parts."""


def form_parts(content_type: str, body: bytes) -> list[tuple[str, str | None, bytes]]:
    """The parts of a `multipart/form-data` body: the name of each, its file's name (None: a field), and what it holds.

    The body is there as a whole, so it is split in one call; a parser of streams takes seconds for one that is full of beginnings of
    boundaries.
    """
    if len(content_type) > MOST_HEAD:
        raise NoForm
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= MOST_BOUNDARY:
        raise NoForm
    before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST_PARTS + 1)
    if before.strip() or not parts or not parts.pop().startswith(b"--"):
        raise NoForm
    return [_form_part(part) for part in parts]


def _form_part(part: bytes) -> tuple[str, str | None, bytes]:
    head, end, content = part.partition(b"\r\n\r\n")
    if not end or len(head) > MOST_HEAD or head[:2] != b"\r\n":
        raise NoForm
    for line in head[2:].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            options = parse_options_header(value.strip())[1]
            if b"name" in options:
                file = options.get(b"filename")
                return options[b"name"].decode(), None if file is None else file.decode(errors="replace"), content
    raise NoForm


class BodyReader:
    """Reads bodies, and knows how many are being read and how many bytes of them are held."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.reading = 0
        self.held = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body; BodyRefused or Gone where it does not come."""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.limits.max_body:
            raise BodyRefused("too_large")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise BodyRefused("encoded")
        message = await self._first(receive)
        if not message.get("more_body"):  # nearly every body comes whole: no clock is started
            return self._sized(message.get("body", b""))
        if self.reading >= self.limits.max_reading or self.held > self.limits.max_reading_bytes:
            raise BodyRefused("too_many")
        return await self._rest(message, receive)

    async def _first(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self.limits.body_s):
                message = await receive()
        except TimeoutError:
            raise BodyRefused("too_slow") from None
        if message["type"] == "http.disconnect":
            raise Gone
        return message

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        body, began = bytearray(), time.monotonic()
        self.reading += 1
        try:
            while True:
                part = message.get("body", b"")
                body += part
                self.held += len(part)
                if len(body) > self.limits.max_body:
                    raise BodyRefused("too_large")
                if self.held > self._room(len(body)):
                    raise BodyRefused("too_many")
                if not message.get("more_body"):
                    return bytes(body)
                # The time that a body may take grows with what has come: a large one over a slow line is read, one that trickles is not.
                end = began + self.limits.body_s + len(body) / self.limits.body_rate
                try:
                    async with asyncio.timeout(min(self.limits.body_s, max(0.0, end - time.monotonic()))):
                        message = await receive()
                except TimeoutError:
                    raise BodyRefused("too_slow") from None
                if message["type"] == "http.disconnect":
                    raise Gone
        finally:
            self.reading -= 1
            self.held -= len(body)

    def _sized(self, body: bytes) -> bytes:
        if len(body) > self.limits.max_body:
            raise BodyRefused("too_large")
        if self.held + len(body) > self._room(len(body)):
            raise BodyRefused("too_many")
        return body

    def _room(self, length: int) -> int:
        """The bytes that all bodies may hold where one of this length is among them."""
        most = self.limits.max_reading_bytes
        return most if length <= SHORT else most - most // 8

    @contextmanager
    def holding(self, body: bytes) -> Iterator[None]:
        """Counts the bytes of a body that was read until its request has ended."""
        self.held += len(body)
        try:
            yield
        finally:
            self.held -= len(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
