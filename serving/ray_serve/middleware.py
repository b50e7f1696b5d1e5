"""Middleware of Ray Serve's HTTP proxy, which stands before every replica.

Named to Ray by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` in the environment in which a cluster is started. A request whose replica dies
is repeated, as no request of ours changes anything. What Ray says in its own words is said in the form of our errors: every reply of a
replica has our header, so that a reply without it is Ray's. `/live` is answered here, as soon as the port is open.

What the proxy and the calls to replicas cannot keep up with is refused here, for it waits where no replica sees it.
"""

import asyncio
import re
import time

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirepoix.serving.http.guard import RELEASE_HEADER, TIMING, ApiError, busy, error_reply, starting

DIED = (0, 500)
"""Ray's status of a request whose replica died; 0: it ends without a reply, which the server before it would make a 500."""
PAUSES = 0.2, 1.0
"""Seconds from the begin of a try to the next one, at least: the proxy takes a moment to learn that a replica is gone, and would give the
request to it again. After the last try a request is given up: it may be what kills the replicas."""
_TIMING = re.compile(rb"total;dur=([\d.]+)")
READY, READY_SECONDS = ("/ready", "/health"), 2.0
"""What asks whether a release answers, and after how long that is denied: where no replica is there, Ray lets requests wait for one."""
MOST_HELD = 512 * 2**20
"""Bytes of requests that are held to be repeated; a request beyond is answered, but not repeated."""

MOST_UNDER_WAY, MOST_SECONDS = 128, 0.5
"""With so many requests under way, of which short ones take longer than that to their replica and back, another one is refused.

Under ten times overload (`bench/serving.py overload --servers "after, on Ray"`) the accepted then wait 4 to 5 s; with 512 and 1 s it was 6.
"""
TIMES_AWAY, MOST_AWAY = 12, 10.0
"""Who is refused is to come back after so many times what the way takes, or so many seconds where that is less.

Those who are answered ask again at once, so there is room for few who come back: the longer they stay away, the fewer come at a time. Of
320 clients that obey (the same bench), with 12 six of seven are answered when they come back, with 6 and with 1 three of four.
"""
SHORT, AVERAGING = 4096, 0.05
"""Bytes of a short request; its share in the average of how long the way is."""
UNMEASURED_SECONDS = 1.0
"""The average counts in full for so long after a short request was answered, and half after each such time more: it is measured by requests
that are let through alone, so one that stayed would refuse all for ever."""


def middlewares() -> list[Middleware]:
    """What Ray is to put before its proxy."""
    return [Middleware(ProxyMiddleware)]


class _Recorded:
    """The body of a request: what has come is kept, and given again to the next try."""

    def __init__(self, middleware: "ProxyMiddleware", receive: Receive):
        self.middleware, self._receive = middleware, receive
        self._first: asyncio.Future[Message] | None = None  # that is waited for, or has come and was not kept
        self.parts: list[Message] = []
        self.bytes = 0
        self.whole = True  # whether all that has come is kept
        self.left = False  # whether the client has left
        self.sent_at: float | None = None  # when the client had sent all of it; None also where the reply began before
        self.answered_at: float | None = None  # when the reply began, or the request ended without one

    async def begin(self) -> None:
        """Takes what of the body has come with the head: of a short request all, which is then counted in the moment in which it is let in.

        Otherwise all requests that come in one round of the event loop, many in an overload, would be let in before one is counted.
        """
        self._first = asyncio.ensure_future(self._receive())
        await asyncio.sleep(0)
        if self._first.done():
            self._keep(self._first.result())
            if self.parts:
                self._first = None

    async def _next(self) -> Message:
        first, self._first = self._first, None
        return await (self._receive() if first is None else first)

    def again(self) -> Receive:
        """A `receive` from the beginning."""
        place = 0

        async def receive() -> Message:
            nonlocal place
            if place < len(self.parts):
                place += 1
                return self.parts[place - 1]
            message = await self._next()
            self._keep(message)
            place = len(self.parts)
            return message

        return receive

    def _keep(self, message: Message) -> None:
        self.left = self.left or message["type"] == "http.disconnect"
        is_last = message["type"] == "http.request" and not message.get("more_body", False)
        if is_last and self.sent_at is None and self.answered_at is None:
            self.sent_at = time.monotonic()
            self.middleware.under_way += 1
        if message["type"] != "http.request" or not self.whole:
            return
        size = len(message.get("body", b""))
        if self.middleware.held + size > MOST_HELD:
            self.whole = False
            self.release()
            return
        self.parts.append(message)
        self.bytes += size
        self.middleware.held += size

    def answered(self) -> None:
        """Counts the request among those under way no longer."""
        if self.answered_at is None:
            self.answered_at = time.monotonic()
            self.middleware.under_way -= self.sent_at is not None

    def release(self) -> None:
        """Lets go of what is kept."""
        if self._first is not None:
            self._first.cancel()
        self.middleware.held -= self.bytes
        self.bytes = 0
        self.parts.clear()


class _Reply:
    """Passes a reply of ours on, and keeps one of Ray's back."""

    def __init__(self, send: Send, body: _Recorded):
        self._send, self._body = send, body
        self.ours = False
        self.status = 0
        self.seconds = 0.0  # what it took the replica

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.ours:
            self.status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            self.ours = RELEASE_HEADER in headers
            if self.ours:
                self._body.answered()
            if (took := _TIMING.fullmatch(headers.get(TIMING, b""))) is not None:
                self.seconds = float(took[1]) / 1000
        if self.ours:
            await self._send(message)


class ProxyMiddleware:
    """The ASGI middleware."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.held = 0
        self.under_way = 0  # requests whose body is here, and to which no reply has begun
        self._average_s, self._measured_at = 0.0, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Ray's own routes
            await self.app(scope, receive, send)
            return
        if scope["path"] == "/live" and scope["method"] in ("GET", "HEAD"):
            await JSONResponse({"status": "live"})(scope, receive, send)
            return
        body = _Recorded(self, receive)
        try:
            async with asyncio.timeout(READY_SECONDS if scope["path"] in READY else None):
                refusal = await self._overload(scope, body) or await self._answered(scope, body, send)
        except TimeoutError:
            refusal = starting()
        finally:
            body.release()
            body.answered()
        if refusal is not None:
            await error_reply(refusal)(scope, receive, send)

    async def _overload(self, scope: Scope, body: _Recorded) -> ApiError | None:
        """The refusal of a request while too many others are under way, and take long."""
        if scope["method"] != "POST":
            return None
        await body.begin()
        others = self.under_way - (body.sent_at is not None)
        return busy(min(MOST_AWAY, TIMES_AWAY * self._way_s)) if others >= MOST_UNDER_WAY and self._way_s > MOST_SECONDS else None

    @property
    def _way_s(self) -> float:
        """How long short requests were on their way to a replica and back, on average, of late; without what a client takes to send its
        request and to read the reply."""
        unmeasured_s = time.monotonic() - self._measured_at - UNMEASURED_SECONDS
        return float(self._average_s * 0.5 ** max(0.0, unmeasured_s / UNMEASURED_SECONDS))

    def _measured(self, way_s: float) -> None:
        before_s = self._way_s
        self._average_s, self._measured_at = before_s + AVERAGING * (way_s - before_s), time.monotonic()

    async def _answered(self, scope: Scope, body: _Recorded, send: Send) -> ApiError | None:
        """None if a replica answered, or the client left; else what to say in place of Ray's words."""
        for pause in (*PAUSES, None):
            began = time.monotonic()
            reply = _Reply(send, body)
            await self.app(dict(scope), body.again(), reply)
            if reply.ours and body.sent_at is not None and body.answered_at is not None and body.whole and body.bytes <= SHORT:
                self._measured(body.answered_at - max(began, body.sent_at) - reply.seconds)
            if reply.ours or body.left:
                return None
            if reply.status not in DIED or not body.whole or pause is None:
                return _in_our_form(reply.status)
            await asyncio.sleep(max(0.0, pause - (time.monotonic() - began)))
        raise AssertionError


def _in_our_form(status: int) -> ApiError:
    if status == 404:  # the application has every path, so there is none yet
        return starting()
    if status == 408:
        return ApiError(503, "no answer in time; try again", headers={"Retry-After": "5"})
    if status in (429, 503):
        return busy(1.0)
    if not status or status >= 500:
        return ApiError(503, "the server lost this request; try again", code="replica_died", headers={"Retry-After": "2"})
    return ApiError(status, "the request is malformed")
