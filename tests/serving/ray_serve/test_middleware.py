"""Before Ray's proxy: a request whose replica dies is repeated, and what Ray says in its own words is said in the form of our errors."""

import asyncio
import json
import time

import pytest

from mirepoix.models.options import import_named
from mirepoix.serving.http.guard import RELEASE_HEADER, TIMING
from mirepoix.serving.ray_serve import middleware
from mirepoix.serving.ray_serve.middleware import ProxyMiddleware
from mirepoix.serving.serve_config import MIDDLEWARES


class Proxy:
    """Ray's proxy: answers each try with the next of `answers`: a status of its own, ours, died or left; reads the whole body first."""

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
            return
        if answer == "died":  # as Ray has it: nothing is said, and the server before it makes a 500 of that
            return
        ours = answer == "ours"
        await send(
            {"type": "http.response.start", "status": 200 if ours else answer, "headers": [(RELEASE_HEADER, b"abc")] if ours else []}
        )
        await send({"type": "http.response.body", "body": b"{}" if ours else b"Unexpected error, traceback: ray::ServeReplica"})


def ask(*answers, path="/v1/search", parts=(b"ab", b"cd"), method="POST", kind=Proxy):
    proxy, sent, left = kind(*answers), [], list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)} if left else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    middleware = ProxyMiddleware(proxy)
    asyncio.run(middleware({"type": "http", "path": path, "method": method, "headers": []}, receive, send))
    assert middleware.held == 0, "no body is kept once its request has ended"
    body = b"".join(message.get("body", b"") for message in sent)
    return proxy, sent[0]["status"] if sent else None, json.loads(body) if body else None


def test_ray_finds_the_middleware_by_the_name_that_clusters_are_given():
    assert import_named(MIDDLEWARES)()[0].cls is ProxyMiddleware


def test_an_answer_of_a_replica_is_passed_on():
    assert ask("ours")[1:] == (200, {})


@pytest.mark.parametrize("died", ["died", 500])
@pytest.mark.parametrize("times", [1, 2])
def test_a_request_whose_replica_died_is_repeated_with_its_whole_body(died, times, monkeypatch):
    monkeypatch.setattr(middleware, "PAUSES", (0.02, 0.05))
    began = time.monotonic()
    proxy, status, _ = ask(*[died] * times, "ours")
    assert status == 200 and proxy.bodies == [b"abcd"] * (times + 1)
    assert time.monotonic() - began >= sum(middleware.PAUSES[:times])


@pytest.mark.parametrize(
    ("answers", "status", "code"),
    [
        (("died", "died", "died"), 503, "replica_died"),
        ((500, 500, 500), 503, "replica_died"),
        ((404,), 503, "starting"),
        ((503,), 503, "busy"),
        ((408,), 503, None),
        ((400,), 400, None),
    ],
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


@pytest.mark.parametrize("most", [1, 3])
def test_a_body_that_is_too_much_to_keep_is_answered_but_not_repeated(monkeypatch, most):
    monkeypatch.setattr(middleware, "MOST_HELD", most)
    for parts in ((b"ab", b"cd"), (b"abcd",)):
        proxy, status, _ = ask("ours", parts=parts)
        assert status == 200 and proxy.bodies == [b"abcd"]
        proxy, status, _ = ask("died", parts=parts)
        assert status == 503 and len(proxy.bodies) == 1


def test_of_a_client_that_has_left_nothing_is_said():
    assert ask("left")[1] is None
    proxy, status, _ = ask("died", "left")
    assert status is None and len(proxy.bodies) == 2


def test_while_no_replica_is_there_a_search_waits_for_one_and_who_asks_whether_the_server_is_ready_is_told_that_it_is_not(monkeypatch):
    monkeypatch.setattr(middleware, "READY_SECONDS", 0.05)

    class Waits(Proxy):
        async def __call__(self, scope, receive, send):
            await asyncio.sleep(0.2)
            await super().__call__(scope, receive, send)

    for path, status in (("/ready", 503), ("/health", 503), ("/v1/search", 200)):
        _, given, body = ask("ours", path=path, method="GET", kind=Waits)
        assert given == status and (status == 200 or body["error"]["code"] == "starting")


@pytest.mark.parametrize(
    ("replica_s", "body", "refused"),
    [(0.0, b"short", True), (0.1, b"short", False), (0.0, b"x" * 5000, False)],
    ids=["the way is long", "the replica takes long", "the body takes long"],
)
def test_of_many_requests_at_once_others_are_refused_if_short_ones_are_long_on_their_way(monkeypatch, replica_s, body, refused):
    monkeypatch.setattr(middleware, "MOST_UNDER_WAY", 3)
    monkeypatch.setattr(middleware, "MOST_SECONDS", 0.05)
    monkeypatch.setattr(middleware, "AVERAGING", 1.0)
    monkeypatch.setattr(middleware, "TIMES_AWAY", 15)
    replies = []

    async def proxy(scope, receive, send):
        await receive()
        await asyncio.sleep(0.1)
        timing = (TIMING.title(), f"total;dur={replica_s * 1000:.1f}".encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(RELEASE_HEADER, b"abc"), timing]})

    async def ask(middleware, method="POST"):
        async def send(message):
            if message["type"] == "http.response.start":
                replies.append((message["status"], dict(message["headers"]).get(b"retry-after")))

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        await middleware({"type": "http", "path": "/v1/search", "method": method, "headers": []}, receive, send)

    async def work():
        middleware = ProxyMiddleware(proxy)
        await asyncio.gather(*(ask(middleware) for _ in range(3)))
        under_way = [asyncio.create_task(ask(middleware)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.gather(ask(middleware, "GET"), ask(middleware))
        await asyncio.gather(*under_way)
        assert sorted(replies) == sorted([(200, None)] * 6 + [(503, b"2") if refused else (200, None)])
        await ask(middleware)
        assert replies[-1][0] == 200 and middleware.under_way == 0

    asyncio.run(work())


class Clients:
    """Clients of one middleware, before a proxy whose replica answers each request at once, or after a while on the way there."""

    def __init__(self, way_s=0.0):
        self.middleware, self.way_s = ProxyMiddleware(self.proxy), way_s

    async def proxy(self, scope, receive, send):
        await asyncio.sleep(0)  # as Ray's, which receives in a task of its own
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        if message["type"] == "http.request":
            await asyncio.sleep(self.way_s)
            own = [(RELEASE_HEADER, b"abc"), (TIMING, b"total;dur=0.0")]
            await send({"type": "http.response.start", "status": 200, "headers": own})
            await send({"type": "http.response.body", "body": b"{}"})

    async def ask(self, body_s=0.0, read_s=0.0, whole=True, body=(b"ab", b"cd")):
        """The status that a client gets whose body, and whose reading of the reply, take so long; it leaves before the body is `whole`."""
        parts, statuses = list(body), []

        async def receive():
            if len(parts) < len(body):
                await asyncio.sleep(body_s)
            if not parts or (len(parts) < len(body) and not whole):
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await asyncio.sleep(read_s)

        await self.middleware({"type": "http", "path": "/v1/search", "method": "POST", "headers": []}, receive, send)
        return statuses[0] if statuses else None


@pytest.mark.parametrize("slow", [{"body_s": 0.2}, {"body_s": 0.2, "whole": False}, {"read_s": 0.2}], ids=["send", "never end", "read"])
def test_clients_that_send_and_read_slowly_keep_no_other_one_out(monkeypatch, slow):
    monkeypatch.setattr(middleware, "MOST_UNDER_WAY", 3)
    monkeypatch.setattr(middleware, "MOST_SECONDS", 0.002)

    async def work():
        clients = Clients()
        for clients.way_s in (0.0, 0.2):  # the latter as after an overload
            assert await clients.ask() == 200
            clients.way_s = 0.0
            many = [asyncio.create_task(clients.ask(**slow)) for _ in range(6)]
            await asyncio.sleep(0.1)
            assert await clients.ask() == 200
            assert set(await asyncio.gather(*many)) == {None if "whole" in slow else 200}
        assert clients.middleware.under_way == 0

    asyncio.run(work())


def test_of_requests_that_come_in_one_round_of_the_event_loop_no_more_are_let_in_than_may_be_under_way(monkeypatch):
    monkeypatch.setattr(middleware, "MOST_UNDER_WAY", 3)
    monkeypatch.setattr(middleware, "MOST_SECONDS", 0.002)

    async def work():
        clients = Clients(way_s=0.2)
        assert await clients.ask() == 200
        assert sorted(await asyncio.gather(*(clients.ask(body=[b"abcd"]) for _ in range(10)))) == [200] * 3 + [503] * 7
        assert clients.middleware.under_way == clients.middleware.held == 0

    asyncio.run(work())


def test_what_was_measured_in_an_overload_is_forgotten_while_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(middleware, "MOST_UNDER_WAY", 3)
    monkeypatch.setattr(middleware, "MOST_SECONDS", 0.25)
    monkeypatch.setattr(middleware, "AVERAGING", 1.0)
    monkeypatch.setattr(middleware, "UNMEASURED_SECONDS", 0.2)

    async def work():
        clients = Clients(way_s=0.5)
        assert await clients.ask() == 200
        clients.way_s = 1.5
        many = [asyncio.create_task(clients.ask()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert await clients.ask() == 503
        await asyncio.sleep(0.8)
        assert await clients.ask() == 200
        await asyncio.gather(*many)

    asyncio.run(work())
