"""Middleware before every route: the key, the limits, the timeout, metrics, and one form for every error.

In this order, each step before the next costs anything: whether the path needs a key, and has it; whether the encoders are too far behind
for any request; the body, read within limits of its own; a place among the requests that are answered; the answer. A request whose client
leaves is cancelled wherever it is, and counted with the status 499.
"""

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirepoix.serving.engine.telemetry.metrics import Figures, Reason
from mirepoix.serving.engine.telemetry.tracing import Tracer
from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.body import BodyReader, BodyRefused, Gone, replayed
from mirepoix.serving.http.keys import Key, Keys
from mirepoix.serving.http.limits_config import Limits

_LOG = logging.getLogger(__name__)
RELEASE_HEADER = b"x-mirepoix-release"
"""The version of the release that answered; every reply of ours has it, so that Ray's own replies are told from them."""
TIMING = b"server-timing"
"""The header with the milliseconds from when a whole request was here to the begin of its reply; browsers show it."""
_READ = "mirepoix.read"
"""The key of a request's scope under which the time is when its body had been read."""
RELEASE = "mirepoix.release"
"""The key of a request's scope under which a route puts the version of the release that it holds."""
KEY = "mirepoix.key"
"""The key of a request's scope under which the guard puts the Key that was sent."""
GONE = 499
"""The status of a request whose client left before its answer, as nginx counts it."""
_CLOSE = {"Connection": "close"}
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class ApiError(Exception):
    """An error in the form of OpenAI's API: a one-line message, the parameter at fault, a code."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(status, message, param, code, headers)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def error_reply(error: ApiError) -> JSONResponse:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if error.status >= 500 else kinds.get(error.status, "invalid_request_error")
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, status_code=error.status, headers=dict(error.headers or {}))


@lru_cache(maxsize=64)
def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        figures: Figures,
        keys: Keys | None,
        limits: Limits,
        admission: Admission | None = None,
        release: Callable[[], str] = lambda: "",
        tracer: Tracer | None = None,
    ):
        self.app, self.figures, self.keys, self.limits = app, figures, keys, limits
        self.admission = admission or Admission()
        self.release = release
        self.tracer = tracer or Tracer(figures)
        self.bodies = BodyReader(limits)
        self.in_flight = {"/v1/": 0, "open": 0}  # counted apart, so that cheap requests take no room from those that encode
        for lane in self.in_flight:
            figures.in_flight.labels(lane).set_function(partial(self.in_flight.__getitem__, lane))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def recording(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"total;dur={(time.perf_counter() - scope.get(_READ, start)) * 1000:.1f}"
                own = [(RELEASE_HEADER, (scope.get(RELEASE) or self.release()).encode()), (TIMING, took.encode()), *HEADERS]
                names = {name for name, _ in message.get("headers", [])}
                message = {**message, "headers": [*message.get("headers", []), *(each for each in own if each[0] not in names)]}
            await send(message)

        with self.tracer.request(scope) as traced:
            try:
                refusal = await self._admitted(scope, receive, recording)
                if refusal is not None and not status:
                    await error_reply(refusal)(scope, receive, recording)
            except Gone:
                status = GONE
            except asyncio.CancelledError:  # Ray's proxy cancels the requests of clients that have left
                status = status or GONE
                raise
            finally:
                self.admission.leave(scope)
                route, release = getattr(scope.get("route"), "path", "none"), scope.get(RELEASE, "")
                self.figures.requests.labels(route, status, release).inc()
                self.figures.seconds.labels(route).observe(time.perf_counter() - start)
                traced.answered(route, status, release)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """None if the application answered, else the error to reply with."""
        refusal = self._refusal(scope)
        if refusal is not None:
            return self._rejected("key" if refusal.status == 401 else "host", refusal)
        lane = "/v1/" if _path(scope).startswith("/v1/") else "open"
        key: Key | None = scope.get(KEY)
        if key is None or lane != "/v1/" or scope["method"] != "POST":
            return await self._placed(lane, scope, receive, send)
        if (wait_s := key.admit_request(time.monotonic())) > 0:
            return self._rejected("rate_limit", too_many(f"{key.entry.requests_per_minute} requests a minute", wait_s))
        if not key.enter():
            return self._rejected("rate_limit", too_many(f"{key.entry.in_flight} requests at once", 1.0))
        try:
            return await self._placed(lane, scope, receive, send)
        finally:
            key.leave()

    async def _placed(self, lane: str, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """The answer to a request that its key may send: its body is read, and it has a place among those that are answered."""
        if lane != "/v1/" or scope["method"] != "POST":
            return await self._counted(lane, scope, receive, send)
        if not self.admission.entered(scope) and (late_s := self.admission.late_s) > 0:
            return self._rejected("deadline", busy(late_s))
        try:
            with self.tracer.part("read"):
                body = await self.bodies.read(dict(scope["headers"]), receive)
        except BodyRefused as refused:
            return self._body_refusal(refused.reason)
        scope[_READ] = time.perf_counter()
        self.admission.enter(scope)
        with self.bodies.holding(body):
            return await self._counted(lane, scope, replayed(body, receive), send)

    async def _counted(self, lane: str, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        if self.in_flight[lane] >= self.limits.max_in_flight:
            return self._rejected("busy", busy(max(1.0, self.admission.late_s)))
        self.in_flight[lane] += 1
        try:
            return await self._answered(scope, receive, send)
        finally:
            self.in_flight[lane] -= 1

    def _rejected(self, reason: Reason, refusal: ApiError) -> ApiError:
        self.figures.rejected.labels(reason).inc()
        return refusal

    def _body_refusal(self, reason: str) -> ApiError:
        if reason == "too_large":
            line = f"the request has more than {self.limits.max_body} bytes; send less at once"
            return self._rejected("body_large", ApiError(413, line, headers=_CLOSE))
        if reason == "too_slow":
            line = f"the body came too slowly; send it within {self.limits.body_s:g} seconds, or at {self.limits.body_rate} bytes a second"
            return self._rejected("body_slow", ApiError(408, line, headers=_CLOSE))
        if reason == "encoded":
            line = "the body has a Content-Encoding, and is read as it comes; send it without one"
            return self._rejected("body_encoded", ApiError(415, line, headers=_CLOSE))
        line = "too many bodies are being read; try again"
        return self._rejected("busy", ApiError(503, line, code="busy", headers={"Retry-After": "1", **_CLOSE}))

    def _refusal(self, scope: Scope) -> ApiError | None:
        # The search page holds no data of the corpus, and load balancers request /health without a key.
        if not _path(scope).startswith(("/v1/", "/metrics")):
            return None
        if self.keys is None:
            # Without a key only this machine is served. The Host header stops DNS rebinding: a foreign page keeps its own host name.
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not _names_this_machine(host):
                return ApiError(
                    403,
                    "without a key this server answers to localhost only; set MIREPOIX_API_KEY, or give --keys FILE, for another name",
                )
        else:
            given = dict(scope["headers"]).get(b"authorization", b"")
            scope[KEY] = self.keys.find(given)
            if scope[KEY] is None:
                return ApiError(
                    401, "this server requires a key; send the header Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"}
                )
        return None

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """None if the application answered, else the error to reply with; Gone where the client left before."""
        answer = asyncio.ensure_future(self._within_time(scope, receive, send))
        if scope["method"] != "POST":  # a disconnect is watched for POST only
            return await answer
        left = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait([answer, left], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise Gone
        finally:
            for task in (answer, left):
                task.cancel()
            await asyncio.gather(answer, left, return_exceptions=True)

    async def _within_time(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                await self.app(scope, receive, send)
        except TimeoutError:
            line = f"no answer within {self.limits.timeout_s:g} seconds; send fewer inputs at once, or try again"
            return ApiError(503, line, headers={"Retry-After": "5"})
        except Exception:  # noqa: BLE001 a fault of the server: the trace goes to the log, and nothing of it into the reply
            _LOG.exception("a request failed")
            return ApiError(500, "the server failed; its log says why")
        return None


def _path(scope: Scope) -> str:
    """The path that routes are found by: below the prefix at which Ray Serve may have the application."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def starting() -> ApiError:
    """The refusal of a request before a release answers."""
    return ApiError(503, "the server is starting; try again", code="starting", headers={"Retry-After": "2"})


def busy(late_s: float) -> ApiError:
    """The refusal of a request that would be late by so many seconds, with the seconds after which it would not be."""
    return ApiError(503, "the server is busy; try again", code="busy", headers={"Retry-After": str(max(1, math.ceil(late_s)))})


def too_many(limit: str, wait_s: float) -> ApiError:
    """The refusal of a request beyond a limit of its key, with the seconds after which it will not be."""
    seconds = max(1, math.ceil(wait_s))
    return ApiError(
        429, f"this key may send {limit}; try again in {seconds} s", code="rate_limit_exceeded", headers={"Retry-After": str(seconds)}
    )


async def _left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
