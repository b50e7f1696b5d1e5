"""HTTP connections whose request heads must come within a time and a size; the HTTP library bounds neither.

A client that sends its head slowly, or without an end, would have a connection and memory for as long as it likes. So would one that has
its reply, and sends a part of the body that was refused, or empty lines: any byte ends the library's wait for the next request.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""As long as a small body may take (`limits.body_s`): a head is a few hundred bytes, which a slow line brings in a second."""
MOST_HEAD = 2**19
"""Bytes that may come before a head is whole; those of its body that come with it count."""


class BoundedHeads(HttpToolsProtocol):
    """A connection whose heads are bounded."""

    _timer: asyncio.TimerHandle | None = None  # while a head is awaited, or the rest of a body after its reply
    _head = 0  # bytes since that began
    _within = False  # within a request, of which the parser has seen a part
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._is_idle() and self.cycle is not None and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.keep_alive()
        if self._in_head and self._timer is not None and self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._within = self._in_head = True
        self.head_came()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._within = False
        self.head_came()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._within and not self._in_head:  # refused before its body is whole, of which nothing is read any longer
            self._await_head()

    def keep_alive(self) -> None:
        """Waits for the next request, for as long as an idle connection is kept."""
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _is_idle(self) -> bool:
        """Whether the connection is between two requests, and waits for none of them."""
        return not self._within and not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def head_came(self) -> None:
        """No head is awaited any longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
