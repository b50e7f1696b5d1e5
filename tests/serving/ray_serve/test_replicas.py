"""A replica without a cluster: it tells the metrics of all that answer, and changes the release that it serves."""

import asyncio
import threading
import weakref
from types import SimpleNamespace

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.engine.memory import Room
from mirepoix.serving.engine.rate import Rate
from mirepoix.serving.heartbeat import Mark
from mirepoix.serving.ray_serve import replicas
from mirepoix.serving.ray_serve.replicas import Place, Prepared, Replica, gathered
from mirepoix.serving.serve_config import ServeConfig

HELP = "# HELP mirepoix_tokens_total Tokens encoded\n"


class Replicas:
    """The replicas of a deployment, as its handle tells of them: the metrics of each, or what went wrong."""

    def __init__(self, *told):
        self.told = told

    def broadcast(self, method):
        assert method == "metrics_text"
        return self

    async def results_async(self, timeout_s, return_exceptions):
        assert return_exceptions and 0 < timeout_s < 10
        if isinstance(self.told[0], TimeoutError):
            raise self.told[0]
        return list(self.told)


def metrics(*told):
    return asyncio.run(gathered(("mine", f"{HELP}mirepoix_tokens_total 3.0\n"), Replicas(*told))).decode()


def test_the_metrics_of_all_replicas_are_told_but_for_one_that_does_not_answer():
    other = f"{HELP}mirepoix_tokens_total 4.0\n"
    told = metrics(("mine", f"{HELP}mirepoix_tokens_total 3.0\n"), RuntimeError("it is dead"), ("other", other))
    assert told == f'{HELP}mirepoix_tokens_total{{replica="mine"}} 3.0\nmirepoix_tokens_total{{replica="other"}} 4.0\n'


@pytest.mark.parametrize("end", [TimeoutError("none answers"), RuntimeError("it is dead")])
def test_one_replica_that_answers_alone_tells_its_metrics_without_a_label(end):
    assert metrics(end) == f"{HELP}mirepoix_tokens_total 3.0\n"


class Opened:
    """An opened release of which only the target counts."""

    def __init__(self, target):
        self.target, self.about = target, SimpleNamespace(version=f"version of {target}", name="tiny")
        self.batcher = SimpleNamespace(rate=Rate())
        self.idle = asyncio.Event()
        self.idle.set()

    async def close(self):
        pass


class Alone(Replica.__mro__[1]):  # the class before Serve makes an actor of it
    """A replica that opens a release in as many seconds as `opening_s` has for it, or fails with the error that it has."""

    def __init__(self, **opening_s):
        super().__init__(ServeConfig())
        self.opening_s, self.place_s, self.opened, self.rooms = opening_s, {}, [], []

    async def place(self, target):
        await asyncio.sleep(self.place_s.get(target, 0))
        return Place("alone", self._served, self.rooms)

    async def _open(self, target):
        took = self.opening_s.get(target.strip("/"), 0)
        if isinstance(took, Exception):
            raise took
        await asyncio.sleep(took)
        self.opened.append(target)
        return Opened(target)


@pytest.fixture(autouse=True)
def name(monkeypatch):
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="alone"))
    monkeypatch.setattr(replicas.serve, "get_replica_context", lambda: context)


def test_with_a_pause_the_memory_of_the_release_before_is_free_when_the_next_one_is_opened():
    async def work():
        replica, free = Alone(), []
        await replica.reconfigure({"release": "/a"})
        before = weakref.ref(replica.current.now)
        opening = replica._open

        async def watched(target):
            free.append(before() is None)
            return await opening(target)

        replica.current._open = watched
        assert await replica.replace("/b") == Prepared("version of /b", pause_s=pytest.approx(0, abs=5))
        assert free == [True] and replica._served == "/b"

    asyncio.run(work())


def test_a_release_that_fails_in_a_way_that_is_no_refusal_is_answered_in_one_line_and_the_one_before_goes_on():
    async def work():
        replica = Alone(b=MemoryError("CUDA out of memory\nand more"), c=MemoryError())
        await replica.reconfigure({"release": "/a"})
        refused = await replica.prepare("/b", "/b")
        assert refused == Prepared("", "/b cannot be opened: MemoryError: CUDA out of memory")
        assert await replica.replace("/b", "/b") == refused
        assert await replica.prepare("/c", "/c") == Prepared("", "/c cannot be opened: MemoryError")
        assert replica._served == "/a"

    asyncio.run(work())


@pytest.mark.parametrize("phase", ["place", "open"])
def test_of_two_releases_that_are_deployed_one_after_the_other_the_last_one_answers(phase):
    async def work():
        replica = Alone(b=0.2 if phase == "open" else 0)
        replica.place_s = {"/b": 0.2} if phase == "place" else {}
        await replica.reconfigure({"release": "/a"})
        for target in ("/b", "/c"):
            await replica.reconfigure({"release": target})
            await asyncio.sleep(0.05)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        assert replica._served == "/c" and replica.opened == (["/a", "/c"] if phase == "place" else ["/a", "/b", "/c"])

    asyncio.run(work())


def test_a_deployment_back_to_what_answers_waits_for_no_other_release_and_opens_nothing_again():
    async def work():
        replica = Alone(b=0.3)
        await replica.reconfigure({"release": "/a"})
        await replica.reconfigure({"release": "/b"})
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.1):  # Serve sends no requests meanwhile
            await replica.reconfigure({"release": "/a"})
        await replica._opening
        assert replica._served == "/a" and replica.opened == ["/a", "/b"] and not await replica.current.is_open("/b")

    asyncio.run(work())


def test_a_deployment_for_which_memory_is_short_is_counted_as_refused_and_made_with_a_pause(caplog):
    async def work():
        replica = Alone()
        replica.rooms = [Room("tiny", 2, 1, 3.0, "a node")]
        await replica.reconfigure({"release": "/a"})
        await replica.reconfigure({"release": "/b"})
        await replica._opening
        assert "with pause: true in user_config the old one ends first" in caplog.text
        assert replica._served == "/a" and 'mirepoix_swaps_total{outcome="refused"} 1.0' in replica.figures.text().decode()
        await replica.reconfigure({"release": "/b", "pause": True})
        await replica._opening
        assert replica._served == "/b"

    asyncio.run(work())


def test_the_record_of_a_release_that_cannot_be_opened_is_removed_in_another_thread_than_that_of_the_requests(monkeypatch, tmp_path):
    threads = []

    class Watched(Mark):
        def remove(self):
            threads.append(threading.current_thread())
            super().remove()

    async def work():
        with pytest.raises(Refused):
            await Replica.__mro__[1](ServeConfig())._open(str(tmp_path / "nowhere"))
        assert threads and threads[0] is not threading.current_thread()

    monkeypatch.setattr(replicas, "Mark", Watched)
    asyncio.run(work())
