"""A request holds one release; another one is proved beside it, then answers, and the old one ends when nobody holds it."""

import asyncio
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine import current as module
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.batcher import MEASURED, Batcher, Overloaded
from mirepoix.serving.engine.current import About, CurrentRelease, OpenRelease, Starting
from mirepoix.serving.engine.rate import Rate
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.engine.worker import ThreadWorker
from mirepoix.serving.http import api
from mirepoix.serving.http.limits_config import Limits


class Opened:
    """A release that has nothing but its name, and says whether it is closed."""

    def __init__(self, target: str, version: str):
        self.target = target
        self.about = type("About", (), {"version": version, "name": target})
        self.in_flight, self.closed = 0, False
        self.batcher = SimpleNamespace(rate=Rate())
        self.idle = asyncio.Event()
        self.idle.set()

    async def close(self) -> None:
        assert not self.in_flight, "a release that is held is not closed"
        self.closed = True


class Shelf:
    """Opens releases by name; those of `refused` are not what they should be."""

    def __init__(self, *refused: str):
        self.refused = refused
        self.opened: list[Opened] = []
        self.made_anew: dict[str, str | None] = {}

    async def __call__(self, target: str) -> Opened:
        await asyncio.sleep(0.01)
        if target == "broken":
            raise KeyError(target)
        if target in self.refused:
            raise Refused(f"{target} does not reproduce its golden vectors")
        self.opened.append(Opened(target, self.version(target) or "unreadable"))
        return self.opened[-1]

    def version(self, target: str) -> str | None:
        return self.made_anew.get(target, f"v{target}")


def run(work, *refused: str, wait_s: float = 0.0):
    async def inner():
        shelf = Shelf(*refused)
        current = CurrentRelease(shelf, wait_s=wait_s, version=shelf.version)
        try:
            return await asyncio.wait_for(work(current, shelf), 10)
        finally:
            await current.close()

    return asyncio.run(inner())


def test_a_request_keeps_the_release_that_it_began_with_and_the_next_has_the_new_one():
    async def work(current, shelf):
        await current.switch("a")
        async with current.held() as first:
            await current.switch("b")
            async with current.held() as second:
                assert (first.target, second.target) == ("a", "b") and current.version() == "vb"
            await asyncio.sleep(0.02)
            assert not first.closed
        await asyncio.sleep(0.02)
        assert first.closed and not second.closed

    run(work)


def test_requests_go_on_while_another_release_is_opened():
    async def work(current, shelf):
        await current.switch("a")
        swap = asyncio.create_task(current.switch("b"))
        seen = []
        while not swap.done():
            async with current.held() as release:
                seen.append(release.target)
            await asyncio.sleep(0.001)
        assert set(seen) == {"a"} and len(seen) > 3 and current.version() == "vb"

    run(work)


def test_a_release_that_does_not_prove_itself_changes_nothing():
    async def work(current, shelf):
        await current.switch("a")
        with pytest.raises(Refused, match="golden"):
            await current.switch("bad")
        async with current.held() as release:
            assert release.target == "a" and not release.closed

    run(work, "bad")


def test_a_release_that_is_prepared_answers_at_once_or_is_forgotten():
    async def work(current, shelf):
        await current.switch("a")
        assert await current.prepare("b") == "vb" and await current.is_open("b") and not await current.is_open("c")
        await current.forget("b")
        assert shelf.opened[1].closed and not await current.is_open("b")
        await current.prepare("c")
        await current.switch("c")
        await current.switch("c")
        assert [each.target for each in shelf.opened] == ["a", "b", "c"], "what is open already is not opened again"

    run(work)


def test_a_release_that_was_made_anew_in_its_place_is_opened_and_one_that_cannot_be_read_any_longer_is_kept():
    async def work(current, shelf):
        await current.switch("a")
        await current.prepare("b")
        shelf.made_anew = {"a": "v2", "b": None}
        assert not await current.is_open("a") and await current.is_open("b")
        assert await current.prepare("a") == "v2" and current.version() == "va" and await current.is_open("a")
        shelf.made_anew["a"] = "v3"
        await current.switch("a")
        assert current.version() == "v3"
        shelf.made_anew["a"] = None
        await current.switch("a")
        await asyncio.sleep(0.02)
        assert [(each.about.version, each.closed) for each in shelf.opened] == [("va", True), ("vb", True), ("v2", True), ("v3", False)]

    run(work)


def test_of_releases_that_were_prepared_one_is_open_at_most_and_it_answers_without_a_pause():
    async def work(current, shelf):
        await current.switch("a")
        for target in "bcb":
            await current.prepare(target)
            assert [each.target for each in shelf.opened if not each.closed] == ["a", target]
        assert await current.replace("b") == 0.0 and await _target(current) == "b"
        await asyncio.sleep(0.02)
        await current.prepare("c")
        await current.replace("d")
        assert [each.target for each in shelf.opened if not each.closed] == ["d"]
        assert [each.target for each in shelf.opened] == list("abcbcd")

    run(work)


def test_two_swaps_at_once_end_with_one_release_and_close_the_others():
    async def work(current, shelf):
        await current.switch("a")
        await asyncio.gather(*(current.switch(name) for name in "bcbd"))
        await asyncio.sleep(0.02)
        now = current.now
        assert [each.target for each in shelf.opened if not each.closed] == [now.target]

    run(work)


def test_where_memory_holds_one_release_only_requests_wait_for_the_next():
    async def work(current, shelf):
        await current.switch("a")
        async with current.held() as old:
            replacing = asyncio.create_task(current.replace("b"))
            await asyncio.sleep(0.01)
            assert not old.closed
        asked = asyncio.create_task(_target(current))
        pause = await replacing
        assert old.closed and await asked == "b" and pause > 0

    run(work, wait_s=5.0)


def test_where_memory_holds_one_release_only_the_old_one_comes_back_if_the_new_one_is_refused():
    async def work(current, shelf):
        await current.switch("a")
        with pytest.raises(Refused):
            await current.replace("bad")
        assert await _target(current) == "a" and len(shelf.opened) == 2

    run(work, "bad")


def test_the_old_release_comes_back_also_where_the_new_one_fails_in_another_way_and_where_the_server_is_stopped_meanwhile():
    async def work(current, shelf):
        await current.switch("a")
        with pytest.raises(KeyError):
            await current.replace("broken")
        assert await _target(current) == "a"
        async with current.held() as old:
            replacing = asyncio.create_task(current.replace("b"))
            await asyncio.sleep(0.01)
            replacing.cancel()
            await asyncio.gather(replacing, return_exceptions=True)
            assert current.now is old and not old.closed, "it is there to be closed with the server"

    run(work)


@pytest.mark.parametrize("pause", [False, True])
def test_what_the_old_release_had_is_freed_also_where_it_refers_to_itself(pause):
    async def work(current, shelf):
        await current.switch("a")
        old = weakref.ref(shelf.opened.pop())
        old().own = old()
        await (current.replace("b") if pause else current.switch("b"))
        await asyncio.sleep(0.05)
        return old()

    assert run(work) is None


class Held:
    """The encoder or the searcher of a release, which refers to itself, as models do."""

    def __init__(self) -> None:
        self.own = self

    def __call__(self, requests):
        return [[Encoded(np.ones((1, 4), np.float32), 3) for _ in request.items] for request in requests]


def _opened(target: str, encoder: Callable[..., Any], searcher: Any = None, **config: Any) -> OpenRelease:
    worker = ThreadWorker(encoder)
    return OpenRelease(target, About("tiny", target, (4,), {}), searcher or Held(), Batcher([worker], BatchConfig(**config)), [worker])


def test_what_the_old_release_had_is_freed_though_a_request_still_renders_its_reply(monkeypatch):
    left, body = {}, api.embeddings_body

    async def slow(*arguments):
        await asyncio.sleep(0.2)
        return await body(*arguments)

    monkeypatch.setattr(api, "embeddings_body", slow)

    async def open_one(target):
        encoder, searcher = Held(), Held()
        left[target] = weakref.ref(encoder), weakref.ref(searcher)
        return _opened(target, encoder, searcher)

    async def work():
        current = CurrentRelease(open_one, version=lambda target: target)
        await current.switch("a")
        transport = httpx.ASGITransport(api.build_app(current, Limits()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = asyncio.create_task(client.post("/v1/embeddings", json={"input": "a disc"}))
            while not current.now.in_flight:
                await asyncio.sleep(0.001)
            await current.switch("b")
            assert (await asked).status_code == 200
        there = [[part() is not None for part in left[target]] for target in "ab"]
        await current.close()
        return there

    assert asyncio.run(work()) == [[False, False], [True, True]]


@pytest.mark.parametrize("pause", [False, True])
def test_a_new_release_lets_in_no_more_than_the_one_before_it_while_its_own_rate_is_not_known(pause):
    def encode(requests):
        time.sleep(0.005 * sum(len(request.items) for request in requests))
        return Held()(requests)

    async def open_one(target):
        return _opened(target, encode, interactive_wait_s=0.1)

    async def ask(current, name):
        async with current.held() as release:
            return await release.encode([Item(name, "a disc")], "query")

    async def work():
        current = CurrentRelease(open_one, version=lambda target: target)
        await current.switch("a")
        for n in range(MEASURED):
            await ask(current, f"first{n}")
        await (current.replace("b") if pause else current.switch("b"))
        done = await asyncio.gather(*(ask(current, f"{n}") for n in range(150)), return_exceptions=True)
        await current.close()
        return len([each for each in done if isinstance(each, Overloaded)])

    assert asyncio.run(work()) > 100, "in 0.1 s 20 items are encoded"


def test_requests_that_waited_in_a_pause_are_all_answered_however_many_they_are():
    async def open_one(target):
        await asyncio.sleep(0.05)
        return _opened(target, Held(), interactive_wait_s=0.001, batch_size=8)

    async def ask(current, name):
        async with current.held() as release:
            return await release.encode([Item(name, "a disc")], "query")

    async def work():
        current = CurrentRelease(open_one, version=lambda target: target, wait_s=5.0)
        await current.switch("a")
        for n in range(MEASURED):
            await ask(current, f"first{n}")
        replacing = asyncio.create_task(current.replace("b"))
        await asyncio.sleep(0.01)
        done = await asyncio.gather(*(ask(current, f"{n}") for n in range(200)))
        await replacing
        await current.close()
        return len(done)

    assert asyncio.run(work()) == 200


def test_a_release_that_is_closed_tells_requests_that_none_answers():
    async def work():
        release = _opened("a", Held(), Held())
        await release.encode([Item("a", "a disc")], "query")
        await release.close()
        assert not release.ready
        for ask in (release.encode([Item("a", "a disc")], "query"), release.search(np.ones((1, 4)), 1, None), release.thumbnail("a")):
            with pytest.raises(Starting):
                await ask

    asyncio.run(work())


def test_a_swap_with_a_pause_collects_garbage_once_when_the_old_release_is_closed(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "collect_and_freeze", lambda: calls.append("collect"))
    monkeypatch.setattr(module, "freeze", lambda: calls.append("freeze"))

    async def work(current, shelf):
        await current.switch("a")
        await current.replace("b")
        with pytest.raises(Refused):
            await current.replace("bad")

    run(work, "bad")
    assert calls == ["collect", "collect", "freeze", "collect", "collect"], "after a refusal what was opened in vain is collected too"


def test_before_the_first_release_requests_are_told_that_it_starts():
    async def work(current, shelf):
        with pytest.raises(Starting):
            await _target(current)
        assert current.version() == "" and current.excess() == 0.0

    run(work)


async def _target(current: CurrentRelease) -> str:
    async with current.held() as release:
        return release.target
