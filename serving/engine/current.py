"""The release that answers, and its change for another one while requests go on.

A request holds one release from its begin to its end. A swap opens another release beside the one that answers, proves it by its golden
vectors, and changes one reference: requests that come in then hold the new one. The old one is closed when no request holds it any longer.
A release that cannot be opened or proved changes nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.serving.engine.batcher import Batcher
from mirepoix.serving.engine.freeing import collect_and_freeze, freeze
from mirepoix.serving.engine.rate import Rate
from mirepoix.serving.engine.telemetry.metrics import Figures
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.in_process.searcher import Searcher, SearchResult
from mirepoix.serving.release import Release, open_release, published_version


@dataclass(frozen=True)
class About:
    """What is told of a release: its name, and the widths and instructions that requests use."""

    name: str
    version: str
    widths: tuple[int, ...]
    instructions: dict[str, str]
    documents: dict[str, int] = field(default_factory=dict)  # how many there are of each modality, by its letters


def about(release: Release) -> About:
    """What is told of a release; for a million documents it takes a quarter of a second."""
    codes, counts = np.unique(release.items()["modality"].to_numpy(), return_counts=True)
    documents = {Modality(code).letters: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)}
    return About(release.name, release.version, release.widths, release.instructions, documents)


class Closable(Protocol):
    """A part of an opened release that is closed with it: an encoder, the record that it is served."""

    async def close(self) -> None: ...


class OpenRelease:
    """An opened release: its queue to the encoders, its index and its documents."""

    def __init__(self, target: str, about: About, searcher: Searcher, batcher: Batcher, parts: Sequence[Closable]):
        self.target, self.about = target, about
        self._searcher: Searcher | None = searcher
        self.batcher, self._parts = batcher, parts
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def ready(self) -> bool:
        """Whether an encoder is there; while the only one is started again, requests wait for it."""
        return any(worker.alive for worker in self.batcher.workers)

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate = "end", patient: bool = False) -> list[Encoded]:
        """The items with their rows; Overloaded where they would wait too long, unless they are of a patient request."""
        self._open_searcher()
        return await self.batcher.encode(items, role, truncate, patient)

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        return await asyncio.to_thread(self._open_searcher().search, rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return self._open_searcher().thumbnail(id)

    def _open_searcher(self) -> Searcher:
        if self._searcher is None:
            raise Starting
        return self._searcher

    async def close(self) -> None:
        """Ends the queue and the other parts, and drops them: a request that is still rendering its reply refers to this object.

        Of the requests of a server that is stopped, those that still ask of the release are told that none answers.
        """
        parts, self._parts, self._searcher = self._parts, (), None
        await self.batcher.close()
        for part in parts:
            await part.close()


class Awaited:
    """A release, for a request that has waited for it in the pause of a swap, and so is not refused because of the others that did."""

    def __init__(self, release: OpenRelease):
        self._release, self.target, self.about = release, release.target, release.about

    @property
    def ready(self) -> bool:
        return self._release.ready

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate = "end") -> list[Encoded]:
        return await self._release.encode(items, role, truncate, patient=True)

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        return await self._release.search(rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return await self._release.thumbnail(id)


class Starting(Exception):
    """No release answers: not yet, or no longer."""


Open = Callable[[str], Awaitable[OpenRelease]]
"""Opens the release at a path or URI, and proves it by its golden vectors; Refused where that fails."""
Version = Callable[[str], str | None]
"""The version of the release that is at a path or URI now; None where it cannot be read."""


class CurrentRelease:
    """The release that answers."""

    def __init__(self, open_one: Open, figures: Figures | None = None, wait_s: float = 0.0, version: Version = published_version):
        self._published = version
        self._open, self._figures, self.wait_s = open_one, figures or Figures(), wait_s
        self._now: OpenRelease | None = None
        self._there = asyncio.Event()
        self._prepared: dict[str, OpenRelease] = {}  # by target
        self._rate: Rate | None = None  # of the release that answers, or answered last
        self._closing: set[asyncio.Task[None]] = set()
        self._swapping = asyncio.Lock()

    def excess(self, entering: int = 0) -> float:
        """By how many seconds the next short request would be late if so many others came before; 0 or less if it would not."""
        return 0.0 if self._now is None else self._now.batcher.excess(entering=entering)

    def version(self) -> str:
        """The version of the release that answers; empty while none does."""
        return "" if self._now is None else self._now.about.version

    def waiting(self) -> Mapping[str, int]:
        """The items that wait, of interactive and of bulk requests."""
        return {} if self._now is None else self._now.batcher.waiting

    @property
    def now(self) -> OpenRelease | None:
        """The release that answers; None while none does."""
        return self._now

    @asynccontextmanager
    async def held(self) -> AsyncIterator[OpenRelease | Awaited]:
        """The release that answers, which stays open within the block; Starting where none does, and none comes in `wait_s`."""
        waited = self._now is None
        if waited and self.wait_s:
            try:
                async with asyncio.timeout(self.wait_s):
                    await self._there.wait()
            except TimeoutError:
                pass
        release = self._now
        if release is None:
            raise Starting
        release.in_flight += 1
        release.idle.clear()
        try:
            yield Awaited(release) if waited else release
        finally:
            release.in_flight -= 1
            if not release.in_flight:
                release.idle.set()

    async def prepare(self, target: str) -> str:
        """Opens and proves a release beside the one that answers, and returns its version; one that is open already is kept.

        Another one that was prepared is closed first: memory was looked at for one.
        """
        async with self._swapping:
            return (await self._opened(target)).about.version

    async def candidate(self, target: str, trust_remote_code: bool) -> Release:
        """A release that is to be opened, before that is begun; one that is refused counts as a swap that failed."""
        try:
            release = await asyncio.to_thread(open_release, target)
            release.refuse_code(trust_remote_code)
        except Refused:
            self._figures.swaps.labels("failed").inc()
            raise
        return release

    async def is_open(self, target: str) -> bool:
        """Whether a change to a release takes no time: it is open already, and no other version was published in its place since."""
        return await self._found(target) is not None

    async def _found(self, target: str) -> OpenRelease | None:
        there = [one for one in (self._prepared.get(target), self._now) if one is not None and one.target == target]
        if not there:
            return None
        version = await asyncio.to_thread(self._published, target)
        return next((one for one in there if version in (None, one.about.version)), None)

    async def switch(self, target: str) -> None:
        """Lets a release answer from now on, which is opened and proved first where it is not."""
        async with self._swapping:
            release = await self._opened(target)
            if release is not self._now:
                self._prepared.pop(target)
                if self._now is not None:
                    self._figures.swaps.labels("swapped").inc()
                self._change(release)

    async def _opened(self, target: str) -> OpenRelease:
        if (there := await self._found(target)) is not None:
            return there
        await self._close_prepared()
        self._prepared[target] = release = await self._proved(target)
        return release

    async def _close_prepared(self) -> None:
        while self._prepared:
            _, release = self._prepared.popitem()
            await release.close()

    async def forget(self, target: str) -> None:
        """Closes a release that was prepared, and does not answer."""
        async with self._swapping:
            if (release := self._prepared.pop(target, None)) is not None:
                await release.close()

    async def replace(self, target: str) -> float:
        """As `switch`, where memory does not hold two: the old release is closed first, and opened again where the new one is refused.

        Returns the seconds in which none answered; requests wait meanwhile. One that is open already answers at once.
        """
        if await self.is_open(target):
            await self.switch(target)
            return 0.0
        async with self._swapping:
            await self._close_prepared()
            old, began, before = self._now, time.monotonic(), ""
            self._now = None
            self._there.clear()
            if old is not None:
                try:
                    await old.idle.wait()
                except asyncio.CancelledError:
                    self._change(old)
                    raise
                await old.close()
                before, old = old.target, None  # its memory is what the new one needs
                collect_and_freeze()
            try:
                self._change(await self._proved(target), is_collected=bool(before))
            except Exception:
                if before:
                    self._change(await self._open(before))
                raise
            if before:
                self._figures.swaps.labels("swapped").inc()
            return time.monotonic() - began

    async def close(self) -> None:
        """Closes every release."""
        await asyncio.gather(*self._closing)
        for release in [*self._prepared.values(), *([self._now] if self._now else [])]:
            await release.close()
        self._now = None
        self._prepared.clear()

    async def _proved(self, target: str) -> OpenRelease:
        try:
            return await self._open(target)
        except Exception:
            self._figures.swaps.labels("failed").inc()
            raise

    def _change(self, release: OpenRelease, is_collected: bool = False) -> None:
        old, self._now = self._now, release
        if self._rate is not None:
            release.batcher.rate.begin_as(self._rate)  # under overload a rate that is not known yet would let everything in
        self._rate = release.batcher.rate
        self._there.set()
        self._figures.use_release(release.about.version, release.about.name)
        if old is None:
            (freeze if is_collected else collect_and_freeze)()
        else:
            task = asyncio.create_task(_close_when_idle(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close_when_idle(release: OpenRelease) -> None:
    await release.idle.wait()
    await release.close()
    del release
    collect_and_freeze()
