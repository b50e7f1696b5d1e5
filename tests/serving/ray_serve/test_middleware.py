"""Before Ray's proxy: a request whose replica dies is repeated, and what Ray says in its own words is said in the form of our errors."""

import asyncio
import json

import pytest

from mirepoix.models.options import import_named
from mirepoix.serving.http.guard import RELEASE_HEADER
from mirepoix.serving.ray_serve import middleware
from mirepoix.serving.ray_serve.middleware import Front
from mirepoix.serving.serve_config import MIDDLEWARES


class Proxy:
    """Ray's proxy: answers each try with the next of `answers`: a status of its own, "ours", or nothing at all, as where the replica "died"
    or the client "left". It reads the whole body first."""

    def __init__(self, *answers):
        self.answers, self.bodies = list(answers), []

    async def __call__(self, scope, receive, send):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        answer = self.answers.pop(0)
        if answer == "left":
            assert (await receive())["type"] == "http.disconnect"
        if answer in ("left", "died"):
            return
        ours = answer == "ours"
        await send(
            {"type": "http.response.start", "status": 200 if ours else answer, "headers": [(RELEASE_HEADER, b"abc")] if ours else []}
        )
        await send({"type": "http.response.body", "body": b"{}" if ours else b"Unexpected error, traceback: ray::ServeReplica"})


def ask(*answers, path="/v1/search", parts=(b"ab", b"cd"), method="POST"):
    proxy, sent, left = Proxy(*answers), [], list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)} if left else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    front = Front(proxy)
    asyncio.run(front({"type": "http", "path": path, "method": method, "headers": []}, receive, send))
    assert front.held == 0, "no body is kept once its request has ended"
    body = b"".join(message.get("body", b"") for message in sent)
    return proxy, sent[0]["status"] if sent else None, json.loads(body) if body else None


def test_ray_finds_the_middleware_by_the_name_that_clusters_are_given():
    assert import_named(MIDDLEWARES)()[0].cls is Front


def test_an_answer_of_a_replica_is_passed_on():
    assert ask("ours")[1:] == (200, {})


@pytest.mark.parametrize("end", ["died", 500])
def test_a_request_whose_replica_died_is_repeated_with_its_whole_body(end):
    proxy, status, _ = ask(end, "ours")
    assert status == 200 and proxy.bodies == [b"abcd", b"abcd"]


@pytest.mark.parametrize(
    ("answers", "status", "code"),
    [((500, "died"), 503, "replica_died"), ((404,), 503, "starting"), ((503,), 503, "busy"), ((408,), 503, None), ((400,), 400, None)],
)
def test_what_ray_says_itself_is_said_in_our_form_and_with_none_of_its_words(answers, status, code):
    _, found, body = ask(*answers)
    assert found == status and set(body["error"]) == {"message", "type", "param", "code"} and body["error"]["code"] == code
    assert "ray" not in json.dumps(body).lower().replace("traceback", "")


def test_live_is_answered_before_there_is_a_replica_and_rays_own_routes_are_rays():
    proxy, status, body = ask(path="/live", method="GET")
    assert (status, body, proxy.bodies) == (200, {"status": "live"}, [])
    with pytest.raises(json.JSONDecodeError):  # in its own words
        ask(200, path="/-/healthz", parts=(b"",), method="GET")


def test_a_body_that_is_too_much_to_keep_is_answered_but_not_repeated(monkeypatch):
    monkeypatch.setattr(middleware, "MOST_HELD", 3)
    assert ask("ours")[1] == 200
    assert ask(500)[1] == 503


def test_of_a_client_that_has_left_nothing_is_said():
    assert ask("left")[1] is None
