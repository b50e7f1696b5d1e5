"""Every error has one shape, whatever the path, the method and the body; asked over real HTTP, as clients ask."""

import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import Keys
from mirepoix.serving.http.limits_config import Limits
from tests.serving.http.conftest import over_http
from tests.serving.http.test_api import PICTURE, InProcess, uri

PATHS = {
    "/": "GET",
    "/v1/embeddings": "POST",
    "/v1/search": "POST",
    "/v1/models": "GET",
    "/v1/items/both/03/image": "GET",
    "/v1/items/nobody/image": "GET",
    "/health": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/live": "GET, HEAD",
    "/metrics": "GET",
    "/style.css": "GET",
}
NOWHERE = (
    "/nothing",
    "/v1",
    "/v1/",
    "/v1/embeddings/",
    "/health/",
    "//v1/search",
    "/v1/models/tiny",
    "/docs",
    "/%00",
    "/%ff",
    "/../../etc/passwd",
)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def address(encoding):
    with over_http(build_app(encoding, Limits(max_body=20_000, body_s=0.5))) as url:
        yield url


@pytest.fixture(scope="module")
def ask(address) -> Ask:
    """A request, byte for byte: its status, headers and body."""

    def asked(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    return asked


def error_in(found: tuple[int, dict[str, str], bytes], method: str = "POST") -> dict:
    status, headers, body = found
    assert status >= 400 and headers["content-type"] == "application/json" and headers["x-content-type-options"] == "nosniff"
    if method == "HEAD":  # HTTP leaves its body out
        assert body == b"" and int(headers["content-length"]) > 0
        return {}
    (error,) = json.loads(body).values()
    assert json.loads(body) == {"error": error} and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"] and isinstance(error["message"], str)
    assert error["type"] in ("invalid_request_error", "authentication_error", "rate_limit_error", "server_error")
    return error


@pytest.mark.parametrize("method", METHODS)
def test_a_path_answers_its_own_method_and_refuses_every_other_with_that(ask, method):
    for path, own in PATHS.items():
        if method not in own.split(", "):
            found = ask(method, path)
            assert found[0] == 405 and found[1]["allow"] == own, (method, path)
            error_in(found, method)
        elif path == "/v1/items/nobody/image":
            assert error_in(ask(method, path))["message"] == "no item of this id has a picture"


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_is_every_method_is_told_so_and_nothing_is_redirected(ask, method):
    for path in NOWHERE:
        found = ask(method, path)
        assert found[0] == 404 and "location" not in found[1], (method, path)
        error_in(found, method)


@pytest.mark.parametrize("path", ["/live", "/ready", "/health"])
def test_a_probe_may_ask_for_the_headers_alone(ask, path):
    status, headers, body = ask("HEAD", path)
    assert status == 200 and headers["content-type"] == "application/json" and body == b""


@pytest.mark.parametrize("given", ["bytes=5-1", "bytes=999999999-", "lines=1", "bytes=0-0,2-2"])
def test_a_range_of_a_file_of_the_page_is_answered_with_all_of_it(ask, given):
    status, headers, body = ask("GET", "/page.js", range=given)
    assert status == 200 and headers["content-type"].startswith("text/javascript") and len(body) > 1000


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "bad UTF-8": b'{"input": "\xff\xfe"}',
    "UTF-16": '{"input": "x"}'.encode("utf-16"),
    "half a character": b'{"input": "\\ud800"}',
    "a number": b"7",
    "a list": b'["x"]',
    "NaN": b'{"input": NaN}',
    "deep": b'{"input": ' + b"[" * 9000,
    "a long number": b'{"input": [' + b"9" * 9000 + b"]}",
    "two values": b'{"input": "x"} {"input": "y"}',
    "a field of no name": b'{"": 1}',
    "an odd field": json.dumps({"input": "x", "ü" * 99 + "\n": 1}).encode(),
    "a broken picture": json.dumps({"input": uri(PICTURE[: len(PICTURE) // 2])}).encode(),
    "null": b'{"input": null}',
}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/search"])
@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", "multipart/form-data", "image/png", "ü", ""]
)
def test_a_body_of_any_kind_is_refused_in_the_one_shape(ask, path, kind):
    for name, body in BODIES.items():
        found = ask("POST", path, body, content_type=kind)
        assert found[0] in (400, 422), (name, found)
        error_in(found)


def begun(address: str, name: str, value: str, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """The reply to a request of which only these parts are sent."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.putrequest("POST", "/v1/search")
        connection.putheader(name, value)
        connection.endheaders()
        for part in parts:
            connection.send(part)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def test_what_is_too_large_is_413_by_its_length_and_while_it_comes(address):
    chunk = b"%x\r\n%b\r\n" % (9000, b"x" * 9000)
    for found in (begun(address, "Content-Length", "20001"), begun(address, "Transfer-Encoding", "chunked", chunk, chunk, chunk)):
        assert found[0] == 413 and "20000 bytes" in error_in(found)["message"]


def test_a_body_that_is_compressed_is_415(address):
    found = begun(address, "Content-Encoding", "gzip")
    assert found[0] == 415 and "Content-Encoding" in error_in(found)["message"]


def test_a_body_that_does_not_come_is_408(address):
    found = begun(address, "Content-Length", "10", b"{")
    assert found[0] == 408 and "too slowly" in error_in(found)["message"]


def test_a_foreign_host_a_missing_key_and_a_failure_have_the_shape_too(encoding, ask):
    assert error_in(ask("POST", "/v1/search", b"{}", host="evil.example"))["message"].startswith("without a key")

    class Broken(InProcess):
        def __init__(self):
            self.about = encoding.about

        async def encode(self, *_):
            raise ZeroDivisionError("a secret")

    with over_http(build_app(Broken(), Limits(), Keys(single="k"))) as url:
        for headers, status, kind in (({}, 401, "authentication_error"), ({"Authorization": "Bearer k"}, 500, "server_error")):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
            connection.request("POST", "/v1/search", b'{"text": "x"}', headers)
            reply = connection.getresponse()
            found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
            connection.close()
            assert found[0] == status and error_in(found)["type"] == kind and b"secret" not in found[2]
