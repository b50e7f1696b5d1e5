"""HTTP connections whose request heads must come within a time and a size; the HTTP library bounds neither.

A client that sends its head slowly, or without an end, would have a connection and memory for as long as it likes.
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

    _timer: asyncio.TimerHandle | None = None  # while a head is awaited
    _head = 0  # bytes since that began

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._timer is not None and self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_came()
        self._await_head()

    def on_headers_complete(self) -> None:
        self.head_came()
        super().on_headers_complete()

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
