"""Times the parts of requests, for the metrics and, where it is asked for, as OpenTelemetry traces.

    with tracer.request(scope) as traced:
        with tracer.part("encode"):
            ...
        traced.answered("/v1/search", 200, "20737bf0ae9f")

Without an endpoint opentelemetry is not imported, and a part costs what its metric does. With one, a trace has a span for the request,
which continues the W3C `traceparent` of the client, and one below it for each part. Spans hold the method, the route, the status and the
release, and nothing of what was asked or answered.
"""

import os
import re
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from prometheus_client import Histogram
from starlette.types import Scope

from mirepoix.models.errors import Refused
from mirepoix.models.options import import_named
from mirepoix.serving.engine.telemetry.metrics import PARTS, Figures, Part

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
CLOSE_SECONDS = 3.0
"""How long the last spans have to be sent when a server ends; a collector that does not answer holds nothing up."""


def traces_endpoint(given: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL that spans are sent to, from the settings or from OpenTelemetry's own variables; None: there are no traces.

    Refused where it is no URL of HTTP, and where the exporter is not installed.
    """
    url, said = (given, f"traces is {_shown(given)!r}") if given else _of_environment(environment)
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{said}; give the address of an OTLP collector over HTTP, such as http://127.0.0.1:4318")
    if not _installed():
        cure = "leave it out" if given else "set OTEL_TRACES_EXPORTER=none"
        raise Refused(f"{said} and the exporter of traces is not installed; pip install 'mirepoix[traces]', or {cure}")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/v1/traces"


def _of_environment(environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The URL, and the words for where it is from."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None, ""
    for name in VARIABLES:
        if url := environment.get(name):
            protocol = next(filter(None, map(environment.get, PROTOCOLS)), "http/protobuf")
            if protocol != "http/protobuf":
                raise Refused(
                    f"{name} is set for the protocol {protocol!r}, and traces are sent as http/protobuf; give --traces URL, "
                    "or set OTEL_TRACES_EXPORTER=none"
                )
            # OpenTelemetry appends the path to the general variable, whatever path it has, and takes the other as it is.
            return (url if name == VARIABLES[0] else f"{url.rstrip('/')}/v1/traces"), f"{name} is {_shown(url)!r}"
    return None, ""


def _shown(url: str) -> str:
    """A URL without the user and the password that it may name."""
    return re.sub(r"//[^/@]*@", "//", url)


def _installed() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        return False


class Traced(Protocol):
    """The request that is being answered."""

    def __enter__(self) -> "Traced": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def answered(self, route: str, status: int, release: str) -> None: ...


class Tracer:
    """Times parts of requests."""

    def __init__(self, figures: Figures, endpoint: str | None = None):
        self._seconds = {part: figures.part_seconds.labels(part) for part in PARTS}
        self._spans = Spans(endpoint) if endpoint else None

    def request(self, scope: Scope) -> Traced:
        """A block in which a request is answered; parts belong to the request in whose block they are timed."""
        return _UNTRACED if self._spans is None else self._spans.request(scope)

    def part(self, name: Part) -> "_Timed":
        """A block that is a part of a request."""
        return _Timed(name, self._seconds[name], self._spans)

    def spent(self, name: Part, seconds: float) -> None:
        """Records a part that took so long and ends now, where it was timed elsewhere, as in another process."""
        self._seconds[name].observe(seconds)
        if self._spans is not None:
            self._spans.ended(name, seconds)

    def close(self) -> None:
        """Sends the last spans."""
        if self._spans is not None:
            self._spans.close()


class _Timed:
    """One part of one request."""

    __slots__ = ("_name", "_seconds", "_span", "_spans", "_start")

    def __init__(self, name: Part, seconds: Histogram, spans: "Spans | None"):
        self._name, self._seconds, self._spans = name, seconds, spans

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._span = None if self._spans is None else self._spans.begun(self._name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._seconds.observe(time.perf_counter() - self._start)
        if self._span is not None:
            self._span.end()


class _Untraced:
    """A request without a trace."""

    def __enter__(self) -> "_Untraced":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def answered(self, route: str, status: int, release: str) -> None:
        pass


_UNTRACED = _Untraced()


class Spans:
    """Makes spans, and sends them to a collector in a thread of its own; what it cannot send is dropped."""

    def __init__(self, endpoint: str):
        from opentelemetry import context, trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.context, self.trace = context, trace
        self.propagator = TraceContextTextMapPropagator()
        resource = Resource.create({})  # of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "mirepoix"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = import_named(f"{EXPORTER}.trace_exporter:OTLPSpanExporter")
        self._provider.add_span_processor(BatchSpanProcessor(exporter(endpoint=endpoint)))
        self.tracer = self._provider.get_tracer("mirepoix")

    def request(self, scope: Scope) -> "_TracedRequest":
        return _TracedRequest(self, scope)

    def begun(self, name: str, start: int | None = None) -> Any:
        """A span below the request's, from now or from a time in nanoseconds; None outside of a request."""
        if not self.trace.get_current_span().get_span_context().is_valid:
            return None
        return self.tracer.start_span(name, start_time=start)

    def ended(self, name: str, seconds: float) -> None:
        now = time.time_ns()
        if (span := self.begun(name, now - int(seconds * 1e9))) is not None:
            span.end(now)

    def close(self) -> None:
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


class _TracedRequest:
    """The span of a request, which those of its parts are below."""

    def __init__(self, spans: Spans, scope: Scope):
        self.spans, self.method = spans, str(scope["method"])
        sent = {name: value for name, value in scope["headers"] if name in (b"traceparent", b"tracestate")}
        carrier = {name.decode(): value.decode("latin-1") for name, value in sent.items()}
        # A context of its own: what surrounds the server, as Ray's, is no parent of a request.
        parent = spans.propagator.extract(carrier, spans.context.Context())
        attributes = {"http.request.method": self.method}
        self.span = spans.tracer.start_span(self.method, parent, spans.trace.SpanKind.SERVER, attributes)

    def __enter__(self) -> "_TracedRequest":
        self._token = self.spans.context.attach(self.spans.trace.set_span_in_context(self.span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.spans.context.detach(self._token)
        self.span.end()

    def answered(self, route: str, status: int, release: str) -> None:
        self.span.update_name(f"{self.method} {route}")
        self.span.set_attributes({"http.route": route, "http.response.status_code": status, "mirepoix.release": release})
        if status >= 500:
            self.span.set_status(self.spans.trace.StatusCode.ERROR)
