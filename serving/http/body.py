"""Reads the body of a request, within limits of its own, before the request takes a place among those that are answered.

So a client that sends slowly delays no other: it has a connection and the bytes it has sent, for as long as its body may take.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.types import Message, Receive

from mirepoix.serving.http.limits_config import Limits

MOST_COMMAS = 2**21
"""Most commas outside of texts: as many token ids as a request may have."""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class BodyRefused(Exception):
    """A body that is not read to its end; `reason` is one of too_large, too_slow, too_many, encoded."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Gone(Exception):
    """The client has left."""


def has_too_many_values(body: bytes, marks: int, commas: int = MOST_COMMAS) -> bool:
    """Whether JSON has more of `[{:` than `marks`, or more commas, outside of its texts: it would take gigabytes and minutes to read."""

    def exceeds(text: bytes) -> bool:
        return sum(map(text.count, (b"[", b"{", b":"))) > marks or text.count(b",") > commas

    return exceeds(body) and exceeds(_TEXT.sub(b"", body))


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
                if self.held > self.limits.max_reading_bytes:
                    raise BodyRefused("too_many")
                if not message.get("more_body"):
                    return bytes(body)
                # The time that a body may take grows with what has come: a large one over a slow line is read, one that trickles is not.
                end = began + self.limits.body_s + len(body) / self.limits.body_rate
                try:
                    async with asyncio.timeout(max(0.0, end - time.monotonic())):
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
        if self.held + len(body) > self.limits.max_reading_bytes:
            raise BodyRefused("too_many")
        return body

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
