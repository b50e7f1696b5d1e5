"""The served release: the real replicas, the real clients, and the refusals of a start that cannot succeed."""

import asyncio
import base64
import json
import shutil
import socket
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.memory import Room
from mirepoix.serving.http.client import search_endpoint
from mirepoix.serving.ray_serve import app
from mirepoix.serving.ray_serve.app import check_port, start
from mirepoix.serving.ray_serve.replicas import Place, Prepared
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import publish
from tests.serving.fixtures import corpus, drawing, free_port, golden_of, published


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served}/v1", api_key="unused", max_retries=0)


def test_health_names_the_release_that_is_served(served, release_folder):
    reply = httpx.get(f"{served}/health")
    assert reply.status_code == 200 and reply.json()["release"] == open_release(release_folder).version
    for path in ("/live", "/ready", "/health"):
        asked = httpx.head(f"{served}{path}")
        assert asked.status_code == 200 and not asked.content


def test_the_official_client_reads_the_vectors_of_the_encoder(client, release_folder):
    texts = ["a red disc", "A square painted in colour number 4.", "two\nlines"]
    encoder = open_release(release_folder).open_encoder()
    expected = encoder.encode([Item("x", text) for text in texts]).rows_NTD[:, 0].numpy()
    for form in (openai.NOT_GIVEN, "float", "base64"):
        reply = client.embeddings.create(model="tiny", input=texts, encoding_format=form)
        given = [np.frombuffer(base64.b64decode(d.embedding), "<f4") if isinstance(d.embedding, str) else d.embedding for d in reply.data]
        assert np.abs(np.array(given) - expected).max() < 1e-5
        assert [d.index for d in reply.data] == [0, 1, 2] and reply.usage.prompt_tokens == reply.usage.total_tokens > 3


def test_many_requests_at_once_are_encoded_together_and_each_gets_its_own(served, release_folder):
    items = corpus()[:20]

    async def ask() -> list[dict]:
        async with httpx.AsyncClient(base_url=served, timeout=60) as http:
            replies = await asyncio.gather(
                *(http.post("/v1/search", json={"text": item.text, "k": 1, "instruction": ""}) for item in items)
            )
        return [reply.json() for reply in replies]

    found = [reply["results"][0]["id"] for reply in asyncio.run(ask())]
    assert found == [item.id for item in items]
    sizes = [line for line in httpx.get(f"{served}/metrics").text.splitlines() if line.startswith("mirepoix_batch_size_sum")]
    counts = [line for line in httpx.get(f"{served}/metrics").text.splitlines() if line.startswith("mirepoix_batch_size_count")]
    assert float(sizes[0].split()[-1]) > float(counts[0].split()[-1])


def test_a_picture_finds_itself_through_the_client(served):
    reply = search_endpoint(served, image=drawing("square", 1 / 20), k=3)
    assert reply["object"] == "search" and len(reply["results"]) == 3
    shown = httpx.get(served + next(result["image"] for result in reply["results"] if result["image"]))
    assert shown.status_code == 200 and shown.headers["content-type"].startswith("image/")


def test_the_client_passes_on_why_the_server_declined(served):
    with pytest.raises(Refused, match="declined \\(400\\): k is 0"):
        search_endpoint(served, "x", k=0)


def test_the_client_refuses_an_address_where_nothing_answers():
    with pytest.raises(Refused, match="nothing answers"):
        search_endpoint("http://127.0.0.1:9", "x")
    with pytest.raises(Refused, match="is no address"):
        search_endpoint("localhost", "x")


def test_a_body_that_is_too_large_is_refused_through_the_proxy(served):
    reply = httpx.post(f"{served}/v1/search", content=b" " * (33 * 2**20), timeout=60)
    assert reply.status_code == 413 and reply.json()["error"]["type"] == "invalid_request_error"


def test_a_second_port_is_refused_while_the_first_is_open(served, release_folder):
    with pytest.raises(Refused, match="does not listen at port"):
        start(str(release_folder), ServeConfig(port=free_port()))


def test_a_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Refused, match=r"is in use; .* --port"):
            check_port(ServeConfig(port=other.getsockname()[1]), running=False)
    check_port(ServeConfig(port=free_port()), running=False)


def test_where_any_port_will_do_another_is_tried_if_one_was_taken_meanwhile(monkeypatch):
    asked, ended = [], []

    def serve_start(http_options, **_):
        asked.append(http_options["port"])
        if len(asked) < 3:
            raise RuntimeError(f"Failed to bind to address '127.0.0.1:{asked[-1]}'.")

    ports = iter([46160, 46161, 46162])
    monkeypatch.setattr(app, "free_port", lambda host: next(ports))
    monkeypatch.setattr(app.serve, "start", serve_start)
    monkeypatch.setattr(app.serve, "shutdown", lambda: ended.append(True))
    assert app._open_port(ServeConfig(port=46159), 5).port == 46161
    assert asked == [46159, 46160, 46161] and len(ended) == 2
    asked.clear()
    with pytest.raises(RuntimeError, match="Failed to bind"):
        app._open_port(ServeConfig(port=46159), 1)
    assert asked == [46159], "a port that was given is not replaced"


def test_an_address_beyond_this_machine_needs_a_key(ray_cluster, release_folder, monkeypatch):
    monkeypatch.delenv("MIREPOIX_API_KEY", raising=False)
    with pytest.raises(Refused, match="MIREPOIX_API_KEY"):
        start(str(release_folder), ServeConfig(host="0.0.0.0"))


def test_traces_to_no_address_are_refused_before_anything_is_started(ray_cluster, release_folder):
    with pytest.raises(Refused, match="traces is 'collector'; give the address"):
        start(str(release_folder), ServeConfig(port=0, traces="collector"))


def test_a_config_that_cannot_be_is_refused():
    for wrong in ({"port": -1}, {"port": 70_000}, {"encoders": 0}, {"encoders": 3, "most_encoders": 2}, {"ongoing": 0}):
        with pytest.raises(Refused):
            ServeConfig(**wrong)


class Replicas:
    """The replicas of a deployment, as its handle tells of them: what they answer to each call that comes, in turn."""

    def __init__(self, *answers):
        self.answers, self.told = list(answers), []

    def broadcast(self, method, *arguments):
        self.told.append((method, *arguments))
        return self

    def results(self, return_exceptions):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def changed(monkeypatch, *answers, pause=False, wanted=1, there=None):
    """What replicas were told of a change, of which each place has memory for one byte, and what came of it; `there`: what else they answer
    of their places."""
    replicas, dead = Replicas(), ActorDiedError()
    places = [Place(name, "/before", [Room("tiny", wanted, 1, 3.0, name)]) for name in ("a", "b")]
    replicas.answers = [
        answer if isinstance(answer, BaseException) else [dead if one is None else one for one in answer]
        for answer in (there or places, *answers, [])
    ]
    monkeypatch.setattr(app, "_replicas", lambda: replicas)
    try:
        return replicas.told, app._change("/release", "/stored", pause, lambda line: None, "SUCH")
    except (Refused, KeyboardInterrupt, RuntimeError) as error:
        return replicas.told, str(error)


def test_a_replica_that_dies_while_a_release_is_prepared_is_left_out_and_where_all_have_died_nothing_changes(monkeypatch):
    beside = ("place", "/release"), ("prepare", "/release", "/stored")
    told, pause_s = changed(monkeypatch, [Prepared("abc"), None])
    assert told == [*beside, ("switch", "/release")] and pause_s == 0
    told, refusal = changed(monkeypatch, [None])
    assert told == [*beside] and refusal.startswith("no replica is there to prove the release")
    told, refusal = changed(monkeypatch, [None, Prepared("", "it is damaged")])
    assert told == [*beside, ("forget", "/release")] and refusal == "it is damaged"


def test_where_a_replica_cannot_change_over_the_others_go_back(monkeypatch):
    told, said = changed(monkeypatch, [Prepared("abc")], RuntimeError("it is gone"))
    assert told[-2:] == [("switch", "/release"), ("switch", "/before")] and said == "it is gone"


def test_the_refusal_is_said_also_where_what_replicas_were_told_cannot_be_taken_back(monkeypatch, caplog):
    told, refusal = changed(monkeypatch, [Prepared("", "it is damaged")], RayServeException("no controller"))
    assert told[-1] == ("forget", "/release") and refusal == "it is damaged"
    assert "forget failed after a swap that was refused (RayServeException: no controller)" in caplog.text


def test_where_no_replica_is_there_a_change_is_refused(monkeypatch):
    none = DeploymentUnavailableError("Retriever")
    told, refusal = changed(monkeypatch, none, there=none)
    assert [method for method, *_ in told] == ["place", "prepare"] and refusal.startswith(
        "no replica is there to prove the release; try again"
    )


@pytest.mark.parametrize("error", [RuntimeError(), RayServeException("it is gone")])
def test_what_ray_says_of_a_start_that_fails_is_one_line_also_where_it_says_nothing(monkeypatch, release_folder, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(app, "_serve_address", lambda: ("127.0.0.1", 8000))
    monkeypatch.setattr(app, "check_port", lambda *_: None)
    monkeypatch.setattr(app, "_open_port", fail)
    with pytest.raises(Refused, match=r"^release tiny did not start: (RuntimeError|it is gone)$"):
        start(str(release_folder), ServeConfig())


def test_replicas_are_told_of_a_folder_by_its_absolute_path(monkeypatch, release_folder):
    told = []

    def change(target, lies, *_):
        told.append((target, lies))
        raise RuntimeError("seen")

    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(app, "_serve_address", lambda: ("127.0.0.1", 8000))
    monkeypatch.setattr(app.serve, "status", lambda: SimpleNamespace(applications={app.APPLICATION: None}))
    monkeypatch.setattr(app, "check_port", lambda *_: None)
    monkeypatch.setattr(app, "_open_port", lambda config, _: config)
    monkeypatch.setattr(app, "_change", change)
    monkeypatch.chdir(release_folder.parent)
    with pytest.raises(Refused, match="seen"):
        start(release_folder.name, ServeConfig())
    assert told == [(str(release_folder), str(release_folder))]


def test_with_a_pause_one_replica_goes_first_and_where_any_refuses_all_have_the_release_before_again(monkeypatch):
    told, refusal = changed(monkeypatch, wanted=2)
    assert len(told) == 1 and "with SUCH the old one ends first" in refusal
    first, others = ("replace", "/release", "/stored", "a", ""), ("replace", "/release", "/stored", "", "a")
    done, refused = Prepared("abc", pause_s=2.0), Prepared("", "it is damaged")
    told, pause_s = changed(monkeypatch, [done, Prepared("old")], [Prepared("abc"), Prepared("abc", pause_s=3.0)], pause=True, wanted=2)
    assert told[1:] == [first, others] and pause_s == 3
    told, refusal = changed(monkeypatch, [None], [None], pause=True, wanted=2)
    assert told[1:] == [first, others] and refusal.startswith("no replica is there to prove the release")
    told, refusal = changed(monkeypatch, [refused, Prepared("old")], pause=True, wanted=2)
    assert told[1:] == [first, ("replace", "/before")] and refusal == "it is damaged"
    told, refusal = changed(monkeypatch, [done, Prepared("old")], [done, refused], pause=True, wanted=2)
    assert told[1:] == [first, others, ("replace", "/before")] and refusal == "it is damaged"


@pytest.mark.parametrize("end", [KeyboardInterrupt("stopped"), RuntimeError("stopped"), [RuntimeError("stopped"), Prepared("abc")]])
def test_a_change_that_ends_midway_leaves_no_release_open_and_all_replicas_with_the_one_before(monkeypatch, end):
    told, said = changed(monkeypatch, end)
    assert said == "stopped" and told[-1] == ("forget", "/release")
    done = [Prepared("abc", pause_s=2.0), Prepared("old")]
    for answers in ([end], [done, end]):
        told, said = changed(monkeypatch, *answers, pause=True, wanted=2)
        assert said == "stopped" and told[-1] == ("replace", "/before") and len(told) == 2 + len(answers)


def test_the_refusal_of_a_replica_at_the_first_start_is_one_line_too(ray_cluster, release_folder, tmp_path, monkeypatch):
    draft = shutil.copytree(release_folder, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    golden = json.loads((draft / "golden.json").read_text())
    (draft / "golden.json").write_text(json.dumps({**golden, "vectors": golden["vectors"][::-1]}))
    publish(draft, tmp_path / "release", {})

    def fail(*arguments, **options):
        raise RuntimeError("Deploying application mirepoix failed:\nTraceback (most recent call last):\n  in a replica")

    monkeypatch.setattr(app.serve, "run", fail)
    monkeypatch.setattr(app, "_open_port", lambda config, tries: config)
    monkeypatch.setattr(app, "_serve_address", lambda: None)
    monkeypatch.setattr(app.serve, "shutdown", lambda: None)
    with pytest.raises(Refused, match=r"^release tiny .* golden item .* comes out at cosine") as refused:
        start(str(tmp_path / "release"), ServeConfig(port=0))
    assert "\n" not in str(refused.value)
    with pytest.raises(Refused, match=r"^release tiny did not start: in a replica$"):
        start(str(release_folder), ServeConfig(port=0))


def replicas() -> list[str]:
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in names if "mirepoix#Retriever#" in name]


def test_another_release_takes_the_place_of_the_one_before_in_the_replicas_that_run_though_its_port_is_any(served, parts, tmp_path_factory):
    before, running = httpx.get(f"{served}/health").json()["release"], replicas()
    other = published(tmp_path_factory.mktemp("other"), parts, golden=golden_of(parts, corpus()[:1]))
    server = start(str(other), ServeConfig(port=0))
    assert server.url == served and server.version != before
    assert replicas() == running, "no replica is started for a swap"
    assert search_endpoint(served, "a disc", k=2)["release"] == server.version
