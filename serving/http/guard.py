"""Middleware before every route: the key, the limit of concurrent requests, the timeout, metrics, and one form for every error."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Mapping
from functools import partial

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirepoix.serving.http.metrics import Figures, Reason
from mirepoix.serving.http.tracing import Tracer

_LOG = logging.getLogger(__name__)
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class ApiError(Exception):
    """An error in the form of OpenAI's API: a one-line message, the parameter at fault, a code."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(status, message, param, code, headers)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def error_reply(error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status >= 500 else "authentication_error" if error.status == 401 else "invalid_request_error"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, status_code=error.status, headers=dict(error.headers or {}))


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

    def __init__(self, app: ASGIApp, figures: Figures, tracer: Tracer, api_key: str | None, max_in_flight: int, timeout_s: float):
        self.app = app
        self.figures, self.tracer = figures, tracer
        self.api_key = api_key
        self.max_in_flight = max_in_flight
        self.timeout_s = timeout_s
        self.in_flight = {"/v1/": 0, "open": 0}  # counted apart, so that cheap requests take no room from those that encode
        for lane in self.in_flight:
            figures.in_flight.labels(lane).set_function(partial(self.in_flight.__getitem__, lane))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, release = time.perf_counter(), 0, ""
        lane = "/v1/" if scope["path"].startswith("/v1/") else "open"

        async def recording(message: Message) -> None:
            nonlocal status, release
            if message["type"] == "http.response.start":
                status = message["status"]
                release = dict(message.get("headers", [])).get(b"x-mirepoix-release", b"").decode("latin-1")
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        with self.tracer.request(scope) as traced:
            try:
                refusal = self._refusal(scope)
                if refusal is None and self.in_flight[lane] >= self.max_in_flight:
                    refusal = self._rejected("busy", ApiError(503, "the server is busy; try again", headers={"Retry-After": "1"}))
                if refusal is None:
                    self.in_flight[lane] += 1
                    try:
                        refusal = await self._answered(scope, receive, recording)
                    finally:
                        self.in_flight[lane] -= 1
                if refusal is not None and not status:
                    await error_reply(refusal)(scope, receive, recording)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                self.figures.requests.labels(route, status, release).inc()
                self.figures.seconds.labels(route).observe(time.perf_counter() - start)
                traced.answered(route, status, release)

    def _refusal(self, scope: Scope) -> ApiError | None:
        # The search page holds no data of the corpus, and load balancers request /health without a key.
        if not scope["path"].startswith(("/v1/", "/metrics")):
            return None
        if self.api_key is None:
            # Without a key only this machine is served. The Host header stops DNS rebinding: a foreign page keeps its own host name.
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if not _names_this_machine(host):
                message = "without a key this server answers to localhost only; set MIREPOIX_API_KEY to serve under another name"
                return self._rejected("host", ApiError(403, message))
        else:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.api_key}".encode()):
                message = "this server requires a key; send the header Authorization: Bearer KEY"
                return self._rejected("key", ApiError(401, message, headers={"WWW-Authenticate": "Bearer"}))
        return None

    def _rejected(self, reason: Reason, error: ApiError) -> ApiError:
        self.figures.rejected.labels(reason).inc()
        return error

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """None if the application answered, else the error to reply with."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.app(scope, receive, send)
        except TimeoutError:
            return ApiError(503, f"no answer within {self.timeout_s:g} seconds; try again", headers={"Retry-After": "5"})
        except Exception:  # noqa: BLE001 a fault of the server: the trace goes to the log, and nothing of it into the reply
            _LOG.exception("a request failed")
            return ApiError(500, "the server failed; its log says why")
        return None
