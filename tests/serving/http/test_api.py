"""The HTTP surface in one process, over the real encoder and index: the shapes that clients know, and every refusal in one shape."""

import asyncio
import base64
import copy
import json
import re
import shlex
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.serving.engine.batcher import Overloaded, TooSlow
from mirepoix.serving.engine.current import About, Starting
from mirepoix.serving.engine.current import about as about_of
from mirepoix.serving.engine.telemetry.metrics import Figures
from mirepoix.serving.engine.telemetry.tracing import Tracer, traces_endpoint
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.engine.work import BatchEncoder, Encoded, EncodeRequest
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import Keys
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.in_process.searcher import Searcher, SearchResult
from mirepoix.serving.pictures_config import PictureLimits
from mirepoix.serving.release import Release, open_release
from tests.serving.engine.telemetry.test_tracing import Collector
from tests.serving.fixtures import INSTRUCTIONS, OneRelease, corpus, drawing
from tests.serving.test_pictures import png_claiming


class InProcess(OneRelease):
    """A release in this process, encoded by no batches; keeps what it was asked to encode."""

    def __init__(self, release: Release, about: About | None = None):
        self.about = about or about_of(release)
        self.encode_together, self.searcher = BatchEncoder(release.open_encoder()), Searcher(release)
        self.asked: list[Item] = []
        self.role: Role | None = None

    def telling(self, about: About) -> "InProcess":
        """The same release with other things told of it."""
        other = copy.copy(self)
        other.about = about
        return other

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate = "end") -> list[Encoded]:
        self.asked[:], self.role = list(items), role
        (encoded,) = self.encode_together([EncodeRequest(list(items), role, truncate)])
        if isinstance(encoded, str):
            raise Refused(encoded)
        return encoded

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        return self.searcher.search(rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return self.searcher.thumbnail(id)


class Caller:
    """Requests to an application in this process."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method: str, path: str, **more) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1") as http:
                return await http.request(method, path, **more)

        return asyncio.run(call())

    def post(self, path: str, body, **more) -> httpx.Response:
        return self("POST", path, json=body, **more)


@pytest.fixture(scope="module")
def release(release_folder) -> Release:
    return open_release(release_folder)


@pytest.fixture(scope="module")
def backend(release, about) -> InProcess:
    return InProcess(release, about)


@pytest.fixture(scope="module")
def about(release) -> About:
    return About(release.name, release.version, release.widths, release.instructions, {"t": 20, "i": 20, "it": 1020})


@pytest.fixture(scope="module")
def call(backend, about) -> Caller:
    return Caller(build_app(backend, Limits()))


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def error_of(reply: httpx.Response, status: int) -> dict:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"} and set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in reply.json()["error"]["message"]
    return reply.json()["error"]


PICTURE = drawing("square", 0.05)
LINK = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}


def test_embeddings_come_in_the_order_of_the_inputs(call, backend):
    texts = ["one", "two", "three"]
    reply = call.post("/v1/embeddings", {"model": "tiny", "input": texts}).json()
    assert (reply["object"], reply["model"], [d["index"] for d in reply["data"]]) == ("list", "tiny", [0, 1, 2])
    alone = [call.post("/v1/embeddings", {"input": text}).json()["data"][0]["embedding"] for text in texts]
    assert np.allclose([d["embedding"] for d in reply["data"]], alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_base64_is_little_endian_float32_of_the_same_vector(call):
    as_list = call.post("/v1/embeddings", {"input": "x", "encoding_format": "float"}).json()["data"][0]["embedding"]
    packed = call.post("/v1/embeddings", {"input": "x", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.array(as_list, np.float32))


def test_usage_counts_tokens(call):
    short, long = (call.post("/v1/embeddings", {"input": text}).json()["usage"] for text in ("a", "a " * 50))
    both = call.post("/v1/embeddings", {"input": ["a", "a " * 50]}).json()["usage"]
    assert long["prompt_tokens"] >= short["prompt_tokens"] + 49
    assert both == {name: short[name] + long[name] for name in short}


def test_a_trained_width_is_cut_and_of_unit_norm_again(call):
    full = np.array(call.post("/v1/embeddings", {"input": "x"}).json()["data"][0]["embedding"])
    cut = np.array(call.post("/v1/embeddings", {"input": "x", "dimensions": 16}).json()["data"][0]["embedding"])
    assert np.allclose(cut, full[:16] / np.linalg.norm(full[:16]), atol=1e-6)
    assert len(call.post("/v1/embeddings", {"input": "x", "dimensions": 32}).json()["data"][0]["embedding"]) == 32


def test_a_width_that_was_not_trained_is_refused(call):
    error = error_of(call.post("/v1/embeddings", {"input": "x", "dimensions": 8}), 400)
    assert error["param"] == "dimensions" and "16, 32" in error["message"]


def test_text_and_picture_in_one_input_is_one_vector(call, backend):
    things = [{"text": "a", "image": uri(PICTURE)}, {"image": uri(PICTURE)}, {"text": "a"}, "a"]
    data = call.post("/v1/embeddings", {"input": things}).json()["data"]
    assert [item.modality.letters for item in backend.asked] == ["it", "i", "t", "t"]
    assert len({tuple(np.round(d["embedding"], 4)) for d in data}) == 3


def test_inputs_are_documents_unless_the_request_says_otherwise_and_what_is_searched_for_is_a_query(call, backend):
    for body, role in (({"input": "a"}, "document"), ({"input": "a", "role": "query"}, "query")):
        call.post("/v1/embeddings", body)
        assert backend.role == role
    backend.role = None
    call.post("/v1/search", {"text": "a"})
    assert backend.role == "query"


def test_messages_make_one_vector_of_all_they_say(call, backend):
    content = [{"type": "image_url", "image_url": {"url": uri(PICTURE)}}, {"type": "text", "text": "what is it"}]
    messages = [{"role": "system", "content": "Represent the question."}, {"role": "user", "content": content}]
    assert len(call.post("/v1/embeddings", {"model": "tiny", "messages": messages}).json()["data"]) == 1
    (item,) = backend.asked
    assert (item.text, item.instruction, item.images) == ("what is it", "Represent the question.", (PICTURE,))


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": "  \n"}, 400, "input"),
        ({"input": ["fine", ""]}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ["x"] * 2049}, 400, "input"),
        ({}, 400, "input"),
        ({"input": "x", "messages": []}, 400, "input"),
        ({"messages": []}, 400, "messages"),
        ({"input": [1, 2, 3]}, 400, "input"),
        ({"input": {"text": "x"}}, 422, "input"),
        ({"input": "x", "role": "judge"}, 422, "role"),
        ({"input": [{"text": "x", "pdf": "y"}]}, 422, "pdf"),
        ({"input": "x", "model": "gpt"}, 404, "model"),
        ({"input": "x", "encoding_format": "int8"}, 422, "encoding_format"),
        ({"input": "x", "dimensions": 0}, 422, "dimensions"),
        ({"input": "x", "truncate": True}, 422, "truncate"),
        ({"input": "x", "truncate": "middle"}, 422, "truncate"),
        ({"input": "x" * 70_000}, 400, "input"),
        ({"input": "x", "instruction": "x" * 70_000}, 400, "instruction"),
        ({"input": [{"image": "https://example.com/cat.png"}]}, 400, "input"),
        ({"input": [{"image": "file:///etc/passwd"}]}, 400, "input"),
        ({"input": [{"image": "data:image/png;base64,@@@"}]}, 400, "input"),
        ({"input": [{"image": "data:text/html;base64,aGk="}]}, 400, "input"),
        ({"input": [{"image": "data:image/png;base64,"}]}, 400, "image"),
        ({"input": [{"image": uri(PICTURE)}] * 33}, 400, "input"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]},
            400,
            "messages",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, 422, "messages"),
    ],
)
def test_an_embeddings_request_that_does_not_fit_is_refused_in_one_line(call, body, status, param):
    assert error_of(call.post("/v1/embeddings", body), status)["param"] == param


def test_a_search_by_text_ranks_documents(call, about):
    reply = call.post("/v1/search", {"text": corpus()[3].text, "k": 4, "instruction": ""}).json()
    assert (reply["object"], reply["release"], reply["model"]) == ("search", about.version, "tiny") and reply["took_ms"] > 0
    assert [result["rank"] for result in reply["results"]] == [1, 2, 3, 4]
    assert reply["results"][0] == {
        "id": "text-03",
        "score": pytest.approx(1, abs=1e-4),
        "rank": 1,
        "modality": "t",
        "text": corpus()[3].text,
        "image": None,
        "source": "shop/produkte.csv:5",
    }
    scores = [result["score"] for result in reply["results"]]
    assert scores == sorted(scores, reverse=True)


def test_a_search_by_picture_is_the_same_as_data_uri_and_as_upload(call):
    item = corpus()[20 + 7]
    sent = call.post("/v1/search", {"image": uri(item.images[0]), "instruction": "", "k": 5}).json()
    form = call(
        "POST", "/v1/search", files={"image": ("x.png", item.images[0])}, data={"k": "5", "instruction": "", "text": "", "target": ""}
    ).json()
    assert sent["results"][0]["id"] == item.id
    assert sent["results"][0]["image"] == f"/v1/items/{item.id}/image"
    assert sent["results"][0]["source"] == "emoji/Travel & Places/07.png"
    assert len(form["results"]) == 5


def test_text_and_picture_search_together(call, backend):
    item = corpus()[45]
    files = {"image": ("x.png", item.images[0])}
    assert call("POST", "/v1/search", files=files, data={"text": item.text}).status_code == 200
    assert backend.asked[0].modality.letters == "it"
    found = call.post("/v1/search", {"text": item.text, "image": uri(item.images[0]), "instruction": "", "k": 1}).json()["results"]
    assert found[0]["id"] == item.id and found[0]["source"] is None


@pytest.mark.parametrize("target", ["t", "i", "it"])
def test_a_target_finds_only_items_of_exactly_that_modality(call, target):
    results = call.post("/v1/search", {"text": "disc", "target": target, "k": 100}).json()["results"]
    assert len(results) == 20 and {result["modality"] for result in results} == {target}


def test_a_target_of_which_there_is_no_document_is_said_beside_the_empty_results(call):
    reply = call.post("/v1/search", {"text": "disc", "target": "v"}).json()
    assert (reply["results"], reply["warnings"]) == (
        [],
        ["the release has no clips; it has 20 texts, 20 pictures, 1,020 pictures with text"],
    )
    assert "warnings" not in call.post("/v1/search", {"text": "disc", "target": "i"}).json()


def test_letters_of_a_target_come_in_any_order(call):
    assert len(call.post("/v1/search", {"text": "disc", "target": "ti", "k": 100}).json()["results"]) == 20


@pytest.mark.parametrize(
    ("body", "wording"),
    [
        ({"text": "x", "target": "i"}, INSTRUCTIONS["t->i"]),
        ({"image": uri(PICTURE), "target": "t"}, INSTRUCTIONS["i->t"]),
        ({"text": "x"}, INSTRUCTIONS[""]),
        ({"text": "x", "target": "it"}, INSTRUCTIONS[""]),
        ({"text": "x", "target": "i", "instruction": "Mine."}, "Mine."),
        ({"text": "x", "target": "i", "instruction": ""}, ""),
    ],
)
def test_a_query_gets_the_wording_that_its_task_was_trained_with(call, backend, body, wording):
    assert call.post("/v1/search", body).status_code == 200
    assert backend.asked[0].instruction == wording


def test_without_trained_wordings_a_query_has_none(backend, about):
    plain = Caller(build_app(backend.telling(replace(about, instructions={})), Limits()))
    assert plain.post("/v1/search", {"text": "x", "target": "i"}).status_code == 200
    assert backend.asked[0].instruction == ""


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "text"),
        ({"text": " "}, 400, "text"),
        ({"text": "x", "k": 0}, 400, "k"),
        ({"text": "x", "k": 101}, 400, "k"),
        ({"text": "x", "k": "many"}, 422, "k"),
        ({"text": "x", "target": "q"}, 400, "target"),
        ({"text": "x", "target": ""}, 400, "target"),
        ({"text": "x", "limit": 3}, 422, "limit"),
        ({"text": "x", "truncate": "right"}, 422, "truncate"),
        ({"text": 3}, 422, "text"),
        ({"text": "x", "model": "other"}, 404, "model"),
        ({"image": "https://example.com/a.png"}, 400, "image"),
        ({"text": "x" * 70_000}, 400, "text"),
        (["x"], 422, None),
        ("x", 422, None),
    ],
)
def test_a_search_that_does_not_fit_is_refused_in_one_line(call, body, status, param):
    assert error_of(call.post("/v1/search", body), status)["param"] == param


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"hello there, no picture", "unknown_format"),
        (PICTURE[: len(PICTURE) // 2], "damaged"),
        (png_claiming(20_000, 20_000), "too_many_pixels"),
        (png_claiming(10, 10_000), "too_thin"),
    ],
)
def test_a_bad_picture_is_refused_with_a_fixed_code(call, data, code):
    for reply in (call.post("/v1/search", {"image": uri(data)}), call("POST", "/v1/search", files={"image": ("x.png", data)})):
        assert error_of(reply, 400)["code"] == code


def test_a_picture_of_too_many_bytes_is_too_large(backend, about):
    small = Caller(build_app(backend, Limits(picture=PictureLimits(max_bytes=100))))
    assert error_of(small.post("/v1/search", {"image": uri(PICTURE)}), 413)["code"] == "too_many_bytes"


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{", b"\xff\xfe", b'{"text": "\\ud800"}', b"[" * 100_000, b'{"text": NaN}', b'{"k": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_refused(call, body):
    reply = call("POST", "/v1/search", content=body)
    assert reply.status_code in (400, 422) and error_of(reply, reply.status_code)


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b"garbage", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"garbage", "headers": {"content-type": "multipart/form-data"}},
        {"files": [("image", ("a", PICTURE)), ("image", ("b", PICTURE))]},
        {"files": {"movie": ("a", PICTURE)}},
        {"files": {"image": ("a", PICTURE)}, "data": {"image": "data:image/png;base64,xx"}},
        {"files": {"image": ("a", PICTURE)}, "data": {"colour": "red"}},
        {"files": {"image": ("a", b"")}},
    ],
)
def test_a_form_that_does_not_fit_is_refused(call, sent):
    reply = call("POST", "/v1/search", **sent)
    assert reply.status_code in (400, 422) and error_of(reply, reply.status_code)


def test_a_lied_about_length_is_refused(call):
    error_of(call("POST", "/v1/search", content=b"{}", headers={"content-length": "9" * 30}), 413)


def test_the_picture_of_an_item_is_served_by_any_id(call):
    item = corpus()[-1]
    path = next(r["image"] for r in call.post("/v1/search", {"text": item.text, "k": 100}).json()["results"] if r["id"] == item.id)
    reply = call("GET", path)
    assert reply.headers["content-type"] == "image/png" and reply.content.startswith(b"\x89PNG")
    assert call("GET", "/v1/items/both/03/image").status_code == 200
    assert call("GET", "/v1/items/picture-00/image").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    "path", ["/v1/items/text-01/image", "/v1/items/nobody/image", "/v1/items/../../etc/passwd/image", "/nothing", "/v1/", "/docs"]
)
def test_what_is_not_there_is_not_found(call, path):
    error_of(call("GET", path), 404)


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/search", "POST"), ("DELETE", "/health", "GET, HEAD")])
def test_a_wrong_method_is_refused_with_the_one_that_the_path_takes(call, method, path, allowed):
    reply = call(method, path)
    assert error_of(reply, 405)["message"] == f"this path takes {allowed}" and reply.headers["allow"] == allowed


def told(kind: Any) -> Any:
    """What a reply consists of: names in their order, and the types of values."""
    if isinstance(kind, dict):
        return [(name, told(value)) for name, value in kind.items()]
    return [told(each) for each in kind] if isinstance(kind, list) else type(kind)


def test_the_requests_in_the_docs_are_answered_as_the_docs_say(call, tmp_path, monkeypatch):
    """docs/endpoint.md: each request as `curl` sends it, and the reply below it, but for version, time and score."""
    monkeypatch.chdir(tmp_path)
    Path("query.png").write_bytes(corpus()[27].images[0])
    page = (Path(__file__).resolve().parents[3] / "docs" / "endpoint.md").read_text()
    examples = re.findall(r"^```\n(curl .*?)```\n.*?^```json\n(.*?)```", page, re.M | re.S)
    assert len(examples) == 2
    for command, said in examples:
        words = shlex.split(command.replace("\\\n", " "))
        given = [(words[number], words[number + 1]) for number in range(2, len(words), 2)]
        assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/search"] and {option for option, _ in given} <= {"-d", "-H", "-F"}
        fields = [value.partition("=")[::2] for option, value in given if option == "-F"]
        files = [(name, (None, value) if value[0] != "@" else ("file", Path(value[1:]).read_bytes())) for name, value in fields]
        headers = dict(value.split(": ") for option, value in given if option == "-H")
        content = "".join(value for option, value in given if option == "-d").encode()
        reply = call("POST", "/v1/search", headers=headers, **({"files": files} if files else {"content": content}))
        expected, found = json.loads(said), reply.json()
        assert reply.status_code == 200 and told(found) == told(expected), found
        (first,), (wanted,) = found["results"], expected["results"]
        assert wanted == first | {"score": wanted["score"]}, "a text and a picture of the release find themselves"


def test_models_lists_the_one_that_is_served(call, about):
    (model,) = call("GET", "/v1/models").json()["data"]
    assert (model["id"], model["object"], model["release"], model["dimensions"]) == ("tiny", "model", about.version, [16, 32])
    assert model["documents"] == {"t": 20, "i": 20, "it": 1020}


def test_health_returns_the_release_and_fails_while_none_answers(call, backend):
    reply = call("GET", "/health")
    assert reply.status_code == 200 and reply.json() == {"status": "ok", "release": backend.about.version, "model": "tiny", "key": False}
    assert call("GET", "/ready").json() == reply.json()

    class None_(InProcess):
        @asynccontextmanager
        async def held(self):
            raise Starting
            yield

    starting = copy.copy(backend)
    starting.__class__ = None_
    early = Caller(build_app(starting, Limits()))
    for method, path in (("GET", "/ready"), ("GET", "/health"), ("GET", "/v1/models")):
        reply = early(method, path)
        assert error_of(reply, 503)["code"] == "starting" and reply.headers["retry-after"] == "2"
    assert error_of(early.post("/v1/search", {"text": "x"}), 503)["code"] == "starting"
    assert early("GET", "/live").status_code == 200, "the port is open"


def test_it_is_not_ready_while_its_only_encoder_is_started_again(backend):
    without = copy.copy(backend)
    without.ready = False
    call = Caller(build_app(without, Limits()))
    assert error_of(call("GET", "/ready"), 503)["code"] == "starting" and call("GET", "/live").status_code == 200


async def at_once(app, *paths: str) -> list[int]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        return [reply.status_code for reply in await asyncio.gather(*map(http.get, paths))]


def test_requests_for_health_take_no_slot_from_requests_with_a_key(release):
    class Slow(InProcess):
        @asynccontextmanager
        async def held(self):
            await asyncio.sleep(0.3)
            yield self

    app = build_app(Slow(release), Limits(max_in_flight=2))
    *health, models = asyncio.run(at_once(app, *["/health"] * 6, "/v1/models"))
    assert models == 200
    assert sorted(health) == [200, 200, 503, 503, 503, 503]


def test_figures_count_requests_by_route_and_status(backend, about):
    fresh = Caller(build_app(backend, Limits()))
    fresh.post("/v1/search", {"text": "x"})
    fresh.post("/v1/search", {"text": ""})
    fresh("GET", "/v1/items/nobody/image")
    fresh("GET", "/secret/path")
    text = fresh("GET", "/metrics").text
    counted = re.findall(r'mirepoix_requests_total\{release="\w*",route="(.*)",status="(\d+)"\} 1.0', text)
    assert {("/v1/search", "200"), ("/v1/search", "400"), ("/v1/items/{id:path}/image", "404")} <= {*counted}
    assert 'mirepoix_request_seconds_count{route="/v1/search"} 2.0' in text
    assert "secret" not in text


def test_figures_say_what_requests_took_what_was_encoded_and_why_some_were_rejected(backend, about):
    fresh = Caller(build_app(backend, Limits(), Keys(single="secret")))
    key = {"Authorization": "Bearer secret"}
    fresh.post("/v1/search", {"text": "x", "image": uri(PICTURE)}, headers=key)
    tokens = fresh.post("/v1/embeddings", {"input": ["x", "a longer one"]}, headers=key).json()["usage"]["total_tokens"]
    fresh.post("/v1/embeddings", {"input": "x"})
    text = fresh("GET", "/metrics", headers=key).text
    counts = {"read": 2, "decode": 2, "queue": 2, "encode": 2, "search": 1, "render": 2}
    assert {part: int(float(n)) for part, n in re.findall(r'part_seconds_count\{part="(\w+)"\} (\S+)', text)} == counts
    assert "mirepoix_pictures_total 1.0" in text and float(re.findall(r"^mirepoix_tokens_total (\S+)", text, re.M)[0]) > tokens
    assert 'mirepoix_rejected_total{reason="key"} 1.0' in text and 'mirepoix_rejected_total{reason="busy"} 0.0' in text
    assert 'mirepoix_in_flight{lane="open"} 1.0' in text and 'mirepoix_in_flight{lane="/v1/"} 0.0' in text


def test_a_request_that_the_queue_refuses_as_late_is_a_503_and_counted_among_what_was_rejected(backend):
    async def late(*_: object) -> list[Encoded]:
        raise Overloaded(3.2)

    full = backend.telling(backend.about)
    full.encode = late
    call = Caller(build_app(full, Limits()))
    reply = call.post("/v1/search", {"text": "x"})
    assert reply.status_code == 503 and reply.headers["retry-after"] == "4" and reply.json()["error"]["code"] == "busy"
    assert 'mirepoix_rejected_total{reason="deadline"} 1.0' in call("GET", "/metrics").text


def test_a_request_is_traced_with_its_parts_and_the_last_ones_are_sent_when_the_server_ends(backend, about):
    collector, figures = Collector(), Figures()
    tracer = Tracer(figures, traces_endpoint(collector.url, {}))
    Caller(build_app(backend, Limits(), figures=figures, tracer=tracer)).post("/v1/search", {"text": "a private text"})
    tracer.close()
    collector.stop()
    spans = collector.spans
    assert set(spans) == {"POST /v1/search", "read", "decode", "queue", "encode", "search", "render"}
    assert {span.trace_id for span in spans.values()} == {spans["POST /v1/search"].trace_id}
    assert not any(b"private" in body for _, body in collector.requests)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_without_a_key_it_answers_to_the_names_of_this_machine(call, host):
    assert call("GET", "/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]:80"])
def test_without_a_key_it_answers_to_no_other_name(call, backend, about, host):
    """A page elsewhere, whose name now points here, could otherwise read what is served."""
    for path in ("/v1/models", "/metrics"):
        assert "localhost only" in error_of(call("GET", path, headers={"host": host}), 403)["message"]
    locked = Caller(build_app(backend, Limits(), Keys(single="sesame")))
    assert locked("GET", "/v1/models", headers={"host": host, "authorization": "Bearer sesame"}).status_code == 200


def test_a_key_is_wanted_where_one_is_set(backend, about):
    locked = Caller(build_app(backend, Limits(), Keys(single="sésame")))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sésame".encode()}):
        reply = locked.post("/v1/search", {"text": "x"}, headers=headers)
        assert error_of(reply, 401)["type"] == "authentication_error" and reply.headers["www-authenticate"] == "Bearer"
    assert locked.post("/v1/search", {"text": "x"}, headers={"authorization": "Bearer sésame".encode()}).status_code == 200
    assert locked("GET", "/v1/items/both/03/image").status_code == 401
    assert locked("GET", "/metrics").status_code == 401
    assert locked("GET", "/metrics", headers={"authorization": "Bearer sésame".encode()}).status_code == 200
    assert locked("GET", "/").status_code == 200
    assert locked("GET", "/health", headers={"host": "balancer.example"}).json()["key"] is True


def test_requests_above_the_limit_are_refused(release, about):
    class Slow(InProcess):
        async def encode(self, items, role, truncate):
            await asyncio.sleep(0.3)
            return await super().encode(items, role)

    app = build_app(Slow(release, about), Limits(max_in_flight=2))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            return await asyncio.gather(*(http.post("/v1/search", json={"text": "x"}) for _ in range(5)))

    replies = asyncio.run(ask())
    assert sorted(reply.status_code for reply in replies) == [200, 200, 503, 503, 503]
    assert all(reply.headers["retry-after"] == "1" for reply in replies if reply.status_code == 503)


def test_an_answer_that_takes_too_long_is_given_up(release, about):
    class Stuck(InProcess):
        async def encode(self, items, role, truncate):
            await asyncio.sleep(60)

    stuck = Caller(build_app(Stuck(release, about), Limits(timeout_s=0.1)))
    assert "0.1 seconds" in error_of(stuck.post("/v1/search", {"text": "x"}), 503)["message"]


def test_an_input_that_takes_the_encoder_too_long_is_given_up_without_a_time_to_try_again(release, about):
    class Slow(InProcess):
        async def encode(self, items, role, truncate):
            raise TooSlow

    reply = Caller(build_app(Slow(release, about), Limits())).post("/v1/search", {"text": "x"})
    assert error_of(reply, 503)["code"] == "input_too_slow" and "retry-after" not in reply.headers


def test_a_failure_of_the_server_does_not_show_its_cause(release, about, caplog):
    class Broken(InProcess):
        async def encode(self, items, role, truncate):
            raise RuntimeError("secret at 0x7f00")

    broken = Caller(build_app(Broken(release, about), Limits()))
    assert "secret" not in error_of(broken.post("/v1/search", {"text": "x"}), 500)["message"]
    assert "secret at 0x7f00" in caplog.text


def test_what_the_encoder_refuses_is_answered_with_400(release, about):
    class Choosy(InProcess):
        async def encode(self, items, role, truncate):
            raise Refused("the item needs more tokens than there is room for")

    choosy = Caller(build_app(Choosy(release, about), Limits()))
    error = error_of(choosy.post("/v1/search", {"text": "x"}), 400)
    assert "more tokens" in error["message"] and error["code"] is None


def test_the_page_may_load_nothing_from_elsewhere(call):
    page = call("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"] and page.headers["x-content-type-options"] == "nosniff"
    assert "//" not in page.text.replace("<!doctype html>", "") and "innerHTML" not in call("GET", "/page.js").text
    assert call("GET", "/style.css").headers["content-type"].startswith("text/css")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(
    ["text", "image", "k", "target", "instruction", "input", "messages", "encoding_format", "dimensions", "model", "user"]
)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(["/v1/search", "/v1/embeddings"]), body=st.dictionaries(fields, json_values, max_size=4) | json_values)
def test_no_json_whatever_makes_the_server_fail(call, path, body):
    reply = call("POST", path, content=json.dumps(body))
    assert reply.status_code < 500
    if reply.status_code != 200:
        error_of(reply, reply.status_code)


LONG = "disc " * 1500 + "square " * 1500
"""More tokens than the encoder reads, 2,048."""


def test_a_text_that_is_cut_is_named_in_the_warnings_with_its_tokens(call):
    short, *cut = (call.post("/v1/embeddings", {"input": ["short", LONG], **more}).json() for more in ({}, {}, {"truncate": "start"}))
    end, start = cut
    assert end == short and end["data"] != start["data"]
    assert len(end["warnings"]) == len(start["warnings"]) == 1
    assert re.fullmatch(r"input\[1\] has \d+ tokens and 2048 are read; its end was cut", end["warnings"][0])
    assert start["warnings"][0] == end["warnings"][0].replace("its end", "its start")
    found = call.post("/v1/search", {"text": LONG, "truncate": "start", "target": "v"}).json()["warnings"]
    assert found[0].startswith("the release has no clips") and found[1].startswith("text has ") and found[1].endswith("its start was cut")


@pytest.mark.parametrize(("path", "name"), [("/v1/embeddings", "input"), ("/v1/search", "text")])
def test_a_text_that_may_not_be_cut_is_refused_by_its_name(call, path, name):
    assert call.post(path, {name: "short", "truncate": "none"}).status_code == 200
    error = error_of(call.post(path, {name: LONG, "truncate": "none"}), 400)
    assert re.match(rf"{name} has \d+ tokens and 2048 are read; shorten it", error["message"])
    assert (error["param"], error["code"]) == (name, "too_many_tokens")
