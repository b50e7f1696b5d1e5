"""The guard in front of the routes: who is let in, how many at once, and what becomes of clients that leave."""

import asyncio

import pytest

from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.guard import Figures, Guard
from mirepoix.serving.http.limits_config import Limits

HEADERS = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]


class App:
    """An application that answers after a while, and knows what it was given and whether it was cancelled."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.bodies, self.cancelled = seconds, [], 0

    async def __call__(self, scope, receive, send):
        self.bodies.append((await receive()).get("body"))
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


class Client:
    """One request; it leaves after `leaves_s`, if that is given."""

    def __init__(self, body=b"{}", leaves_s=None, pieces=1, pause=0.0):
        self.body, self.leaves_s, self.pieces, self.pause = body, leaves_s, pieces, pause
        self.sent, self.status, self.headers = 0, 0, {}

    async def receive(self):
        if self.sent < self.pieces:
            await asyncio.sleep(self.pause)
            self.sent += 1
            return {"type": "http.request", "body": self.body, "more_body": self.sent < self.pieces}
        await asyncio.sleep(self.leaves_s if self.leaves_s is not None else 60)
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])

    async def ask(self, guard, path="/v1/search", method="POST", headers=HEADERS):
        await guard({"type": "http", "path": path, "method": method, "headers": headers}, self.receive, self.send)
        return self


def guard(app, excess=0.0, **limits):
    return Guard(app, Figures(), None, Limits(**limits), Admission(lambda count: excess), lambda: "abc")


def logged(caplog):
    """What we logged; another test may have left a thread that logs."""
    return [record for record in caplog.records if record.name.startswith("mirepoix")]


def counted(guard, status):
    return f'status="{status}"' in guard.figures.text().decode()


def test_a_request_that_is_answered_names_the_release():
    app = App()
    one = guard(app)
    client = asyncio.run(Client(b'{"text": 1}').ask(one))
    assert (
        client.status == 200 and one.bodies.held == 0 and app.bodies == [b'{"text": 1}'] and client.headers[b"x-mirepoix-release"] == b"abc"
    )


def test_a_reply_says_what_it_took_since_the_whole_request_was_there():
    client = Client(b"x", pieces=4, pause=0.1)
    asyncio.run(client.ask(guard(App(0.05))))
    name, _, milliseconds = client.headers[b"server-timing"].partition(b"=")
    assert name == b"total;dur" and 50 <= float(milliseconds) < 300


def test_while_the_encoders_are_behind_a_request_is_refused_before_its_body_is_read():
    app, client = App(), Client()
    asyncio.run(client.ask(guard(app, excess=3.4)))
    assert client.status == 503 and client.headers[b"retry-after"] == b"4" and client.sent == 0 and not app.bodies
    page = asyncio.run(Client(b"").ask(guard(app, excess=3.4), "/health", "GET"))
    assert page.status == 200, "what encodes nothing is answered"


def test_the_body_is_counted_while_it_streams():
    app = App()
    whole, endless = Client(b"x" * 1001), Client(b"x" * 100, pieces=10**6)
    for client in (whole, endless):
        asyncio.run(client.ask(guard(app, max_body=1000)))
        assert client.status == 413 and not app.bodies
    assert endless.sent == 11, "it is refused with the first byte beyond"


def test_a_request_below_a_prefix_is_guarded_as_any_other():
    def asked(client, headers=HEADERS):
        scope = {"type": "http", "root_path": "/api", "path": "/api/v1/search", "method": "POST", "headers": headers}
        asyncio.run(guard(App(), max_body=1000)(scope, client.receive, client.send))
        return client.status

    assert asked(Client()) == 200 and asked(Client(b"x" * 1001)) == 413
    assert asked(Client(), [(b"host", b"elsewhere.example")]) == 403


def test_slow_bodies_take_no_place_from_requests_that_are_there():
    app = App()

    async def work():
        one = guard(app, max_in_flight=2, body_s=0.3)
        slow = [asyncio.create_task(Client(b"x", pieces=100, pause=0.05).ask(one)) for _ in range(20)]
        await asyncio.sleep(0.1)
        quick = [await Client().ask(one) for _ in range(5)]
        return [client.status for client in quick], [client.status for client in await asyncio.gather(*slow)]

    quick, slow = asyncio.run(work())
    assert quick == [200] * 5 and slow == [408] * 20


@pytest.mark.parametrize("method", ["POST"])
def test_a_client_that_leaves_is_counted_as_such_and_its_work_is_cancelled(method, caplog):
    app = App(seconds=30)
    one = guard(app)
    client = asyncio.run(asyncio.wait_for(Client(leaves_s=0.05).ask(one, method=method), 5))
    assert app.cancelled == 1 and client.status == 0 and counted(one, 499) and not counted(one, 500) and not logged(caplog)
    assert one.in_flight == {"/v1/": 0, "open": 0}


def test_a_request_that_the_server_in_front_cancels_is_counted_as_one_whose_client_left(caplog):
    app = App(seconds=30)
    one = guard(app)

    async def work():
        task = asyncio.create_task(Client().ask(one))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert counted(one, 499) and app.cancelled == 1 and one.in_flight["/v1/"] == 0 and not logged(caplog)


def test_a_client_that_leaves_within_its_body_is_no_error():
    one = guard(App())
    client = Client(pieces=2, pause=0.0)

    async def gone():
        client.sent += 1
        return {"type": "http.request", "body": b"x", "more_body": True} if client.sent == 1 else {"type": "http.disconnect"}

    client.receive = gone
    asyncio.run(client.ask(one))
    assert client.status == 0 and counted(one, 499)


def test_bodies_of_requests_that_are_being_answered_are_bounded_together():
    async def work():
        one = guard(App(seconds=0.2), max_reading_bytes=1000)
        asked = [asyncio.create_task(Client(b"x" * 400).ask(one)) for _ in range(4)]
        statuses = sorted(client.status for client in await asyncio.gather(*asked))
        return statuses, (await Client(b"x" * 400).ask(one)).status

    assert asyncio.run(work()) == ([200, 200, 503, 503], 200)
