"""Parts are timed for the metrics; a collector gets a span of the request and one below it for each part, and nothing of its content."""

import asyncio
import gzip
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mirepoix.models.errors import Refused
from mirepoix.serving.engine.telemetry import tracing
from mirepoix.serving.engine.telemetry.metrics import PARTS, Figures
from mirepoix.serving.engine.telemetry.tracing import Tracer, traces_endpoint

ROOT = Path(__file__).parents[4]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """An OTLP collector over HTTP that keeps what it is sent."""

    def __init__(self) -> None:
        kept = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append((self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def resources(self) -> list:
        return [each for _, body in self.requests for each in ExportTraceServiceRequest.FromString(body).resource_spans]

    @property
    def spans(self) -> dict[str, Span]:
        return {span.name: span for each in self.resources for scope in each.scope_spans for span in scope.spans}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


def scope(*headers: tuple[bytes, bytes]) -> dict:
    return {"type": "http", "method": "POST", "path": "/v1/search", "headers": [(b"authorization", b"Bearer secret"), *headers]}


def answer(tracer: Tracer, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    """A request whose parts are timed in its task, in a task of its own, in a thread, and elsewhere."""

    async def searched() -> None:
        with tracer.part("search"):
            await asyncio.sleep(0.01)

    def decoded() -> None:
        with tracer.part("decode"):
            time.sleep(0.01)

    async def asked() -> None:
        with tracer.request(scope(*headers)) as traced:
            with tracer.part("read"):
                await asyncio.sleep(0.02)
            await asyncio.to_thread(decoded)
            tracer.spent("queue", 0.5)
            tracer.spent("encode", 0.25)
            await asyncio.create_task(searched())
            with tracer.part("render"):
                pass
            traced.answered("/v1/search", status, "abc")

    asyncio.run(asked())


def attributes(span: Span) -> dict:
    return {one.key: one.value.int_value or one.value.string_value for one in span.attributes}


def test_a_request_is_a_span_that_continues_the_clients_trace_and_its_parts_are_below_it(collector):
    figures = Figures()
    tracer = Tracer(figures, traces_endpoint(collector.url, {}))
    answer(tracer, 200, (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"tracestate", b"vendor=1"))
    tracer.close()
    spans = collector.spans
    assert set(spans) == {"POST /v1/search", *PARTS} and {path for path, _ in collector.requests} == {"/v1/traces"}
    request = spans.pop("POST /v1/search")
    assert request.trace_id.hex() == TRACE and request.parent_span_id.hex() == PARENT and request.kind == Span.SPAN_KIND_SERVER
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/search",
        "http.response.status_code": 200,
        "mirepoix.release": "abc",
    }
    for part, span in spans.items():
        assert span.trace_id == request.trace_id and span.parent_span_id == request.span_id, part
        assert not span.attributes
    assert request.end_time_unix_nano >= spans["render"].end_time_unix_nano >= spans["search"].end_time_unix_nano
    assert (spans["queue"].end_time_unix_nano - spans["queue"].start_time_unix_nano) / 1e9 == pytest.approx(0.5, abs=1e-6)
    (resource,) = collector.resources
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "mirepoix"
    assert not any(b"secret" in body for _, body in collector.requests)


def test_without_a_traceparent_each_request_is_a_trace_of_its_own_and_a_failure_is_an_error(collector):
    tracer = Tracer(Figures(), traces_endpoint(collector.url, {}))
    answer(tracer, 500)
    answer(tracer, 404, (b"traceparent", b"00-nonsense"))
    with tracer.part("encode"):  # not of a request, as when a release is opened
        pass
    tracer.close()
    found = [span for each in collector.resources for one in each.scope_spans for span in one.spans]
    roots = [span for span in found if span.name == "POST /v1/search"]
    assert len(found) == 2 * 7 and len({span.trace_id for span in found}) == 2 and not any(span.parent_span_id for span in roots)
    assert [span.status.code for span in roots] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]


def test_a_client_that_does_not_want_its_trace_recorded_has_none(collector):
    tracer = Tracer(Figures(), traces_endpoint(collector.url, {}))
    answer(tracer, 200, (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode()))
    tracer.close()
    assert not collector.requests


@pytest.mark.parametrize("traced", [True, False])
def test_parts_are_in_the_metrics_with_and_without_traces_also_where_they_fail(traced, collector):
    figures = Figures()
    tracer = Tracer(figures, traces_endpoint(collector.url, {}) if traced else None)
    answer(tracer)
    with pytest.raises(KeyError), tracer.part("decode"):
        raise KeyError
    tracer.close()
    text = figures.text().decode()
    for part, count in {"read": 1, "decode": 2, "queue": 1, "encode": 1, "search": 1, "render": 1}.items():
        assert f'mirepoix_part_seconds_count{{part="{part}"}} {count}.0' in text
    assert 'mirepoix_part_seconds_sum{part="queue"} 0.5' in text
    (read,) = [line for line in text.splitlines() if line.startswith('mirepoix_part_seconds_sum{part="read"}')]
    assert 0.02 <= float(read.split()[-1]) < 1


def test_a_collector_that_is_not_there_fails_no_request_and_holds_up_no_end(monkeypatch):
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.3)
    with socket.socket() as silent:  # it accepts connections, and answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracer = Tracer(Figures(), traces_endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", {}))
        answer(tracer)
        began = time.monotonic()
        tracer.close()
        assert time.monotonic() - began < 2


def test_off_it_imports_nothing_of_opentelemetry():
    code = """
        import sys
        from mirepoix.serving.engine.telemetry.metrics import Figures
        from mirepoix.serving.engine.telemetry.tracing import Tracer, traces_endpoint
        tracer = Tracer(Figures(), traces_endpoint(None, {}))
        with tracer.request({"method": "GET", "headers": []}) as traced, tracer.part("encode"):
            traced.answered("/", 200, "")
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


HOST = "http://collector:4318"


@pytest.mark.parametrize(
    ("given", "environment", "endpoint"),
    [
        (None, {}, None),
        (HOST, {}, f"{HOST}/v1/traces"),
        (f"{HOST}/", {}, f"{HOST}/v1/traces"),
        (f"{HOST}/other/path", {}, f"{HOST}/other/path"),
        (HOST, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://another"}, f"{HOST}/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST}, f"{HOST}/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{HOST}/tenant"}, f"{HOST}/tenant/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{HOST}/in"}, f"{HOST}/in"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST, "OTEL_SDK_DISABLED": "true"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST, "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_endpoint_is_the_one_that_is_given_or_that_of_opentelemetrys_variables(given, environment, endpoint):
    assert traces_endpoint(given, environment) == endpoint


def test_an_endpoint_that_cannot_be_is_refused():
    with pytest.raises(Refused, match="traces is 'collector:4318'; give the address"):
        traces_endpoint("collector:4318", {})
    with pytest.raises(Refused, match="OTEL_EXPORTER_OTLP_ENDPOINT is 'grpc://host'; give the address"):
        traces_endpoint(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://host"})
    with pytest.raises(Refused, match="traces is 'ftp://host'; give"):
        traces_endpoint("ftp://user:secret@host", {})
    with pytest.raises(Refused, match="protocol 'grpc', and traces are sent as http/protobuf"):
        traces_endpoint(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_without_the_exporter_traces_are_refused_and_no_traces_are_not(monkeypatch):
    for missing in ("opentelemetry.exporter.otlp.proto.nothing", "nothing.at.all"):
        monkeypatch.setattr(tracing, "EXPORTER", missing)
        with pytest.raises(Refused, match=r"is not installed; pip install 'mirepoix\[traces\]'") as refused:
            traces_endpoint(HOST, {})
        assert "\n" not in str(refused.value)
        with pytest.raises(Refused, match=r"or set OTEL_TRACES_EXPORTER=none$"):
            traces_endpoint(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST})
        assert traces_endpoint(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": HOST, "OTEL_TRACES_EXPORTER": "none"}) is None
        assert traces_endpoint(None, {}) is None


def test_a_part_without_traces_costs_microseconds():
    tracer = Tracer(Figures())
    began = time.process_time()
    for _ in range(2000):
        with tracer.part("encode"):
            pass
    assert (time.process_time() - began) / 2000 < 50e-6
