"""The hub is asked with a limit of time, and its answers are told apart; what is in the cache is not asked for."""

import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.hub import HubModel, find_models, snapshot

MODEL = HubModel("backbone.name", "open/model", None)


@contextmanager
def hub(answers):
    """A hub that answers paths with a status and a code; others with 404 and RepoNotFound."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append((self.path, self.headers.get("Authorization")))
            status, code = answers.get(self.path.rpartition("/")[2], (404, "RepoNotFound"))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            if status in (302, 307):
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def state(answers, model=MODEL):
    with hub(answers) as (url, asked):
        ((state, detail),) = find_models([model, model], {"HF_ENDPOINT": url}).values()
        return state, detail, asked


def test_a_model_that_the_hub_has_is_reached_by_one_question_about_its_revision(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    found = state({"config.json": (200, "")}, MODEL._replace(revision="refs/pr/1"))
    assert found == ("reached", "", [("/open/model/resolve/refs%2Fpr%2F1/config.json", "Bearer secret")])


def test_a_model_without_the_first_file_is_asked_for_the_next(monkeypatch):
    found = state({"config.json": (404, "EntryNotFound"), "modules.json": (200, "")})
    assert found[0] == "reached" and len(found[2]) == 2
    assert state(dict.fromkeys(("config.json", "modules.json", "adapter_config.json"), (404, "EntryNotFound")))[0] == "unknown id"


def test_a_redirection_counts_as_an_answer_and_is_not_followed_with_a_token():
    assert state({"config.json": (307, "")})[0] == "reached"


@pytest.mark.parametrize(
    ("status", "code", "expected", "detail"),
    [
        (404, "RepoNotFound", "unknown id", "there is no such model, or it is private"),
        (401, "RepoNotFound", "unknown id", "there is no such model, or it is private"),
        (404, "RevisionNotFound", "unknown id", "there is no revision None of it"),
        (401, "", "not allowed", "answers 401 to a request without a token"),
        (403, "GatedRepo", "not allowed", "this token may not read it"),
        (401, "GatedRepo", "not allowed", "answers 401: this token may not read it"),
        (503, "", "no answer", "answers 503"),
    ],
)
def test_what_the_hub_answers_is_told_apart(status, code, expected, detail, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    found = state({"config.json": (status, code)})
    assert found[0] == expected and detail in found[1]


def test_a_host_that_does_not_answer_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        models = [MODEL, MODEL._replace(id="open/other")]
        found = find_models(models, {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}, seconds=0.3)
        assert {state for state, _ in found.values()} == {"no answer"}
        assert time.monotonic() - began < 1.5


def test_a_hub_that_is_not_there_is_named():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ((state, detail),) = find_models([MODEL], {"HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}"}).values()
    assert state == "no answer" and "cannot be reached (Connection refused)" in detail


def test_offline_nothing_is_asked():
    with hub({}) as (url, asked):
        assert find_models([MODEL], {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "1"}) == {MODEL: ("offline", "HF_HUB_OFFLINE is set")}
        assert not asked


def test_a_model_in_the_cache_is_here_once_its_weights_are(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--open--model"
    folder = home / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    (folder / "config.json").write_text("{}")
    assert snapshot("open/model", None) is None
    (folder / "model.safetensors").write_bytes(b"")
    assert snapshot("open/model", None) == folder == snapshot("open/model", "a" * 40)
    assert snapshot("open/model", "other") is None
    assert find_models([MODEL], {"HF_HUB_OFFLINE": "1"}) == {MODEL: ("here", "")}


def test_what_is_no_hub_id_is_refused_as_that():
    with pytest.raises(Refused, match="is neither a folder here nor a hub id"):
        snapshot("a/b/c", None)
