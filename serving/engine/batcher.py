"""The queue before the encoders: requests are cut into batches, and short ones pass long ones.

A request of a few items is interactive, one of many is bulk. A batch takes interactive items first, in the order of their requests, and
fills up with items of the bulk requests in turn, so that no bulk request waits for another one to end. While interactive requests come in,
the bulk part of a batch is kept short, as an interactive request has to wait for the batch that is being encoded.

Nothing waits for a batch to fill while an encoder is idle. Batches form while encoders are busy; one that has just encoded a full batch
waits some milliseconds for the next requests of the same clients.

What would wait too long by the measured rate is refused at once, with the seconds after which it would not be.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.rate import Rate, Units, total, units
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.engine.work import Encoded, EncodeRequest

RECENT_SECONDS = 2.0
"""For so long after an interactive request the bulk part of a batch is kept short."""
AVERAGING = 0.05
"""Weight of the newest request in the moving average of what interactive requests take."""
MEASURED = 5
"""Batches after which the rate is known: the first ones of a release take a multiple of the others where the machine has more to do."""
AHEAD = 0.75
"""A next batch is handed over early only if it has at least this share of the current batch's items."""
MOST_PASSES = 8
"""After so many batches without any bulk item, one takes a bulk part though interactive items would fill it."""
MOST_DEATHS = 2
"""A request survives so many deaths of an encoder; at the next one it is given up, as it may be the cause."""


class Overloaded(Exception):
    """The request would have to wait too long; `after_s`: when it would not, as far as is known."""

    def __init__(self, after_s: float):
        super().__init__(after_s)
        self.after_s = after_s


class EncoderDied(Exception):
    """An encoder ended while it had a batch; another one, or a new one, encodes it again."""


class Worker(Protocol):
    """An encoder that encodes one batch at a time."""

    @property
    def alive(self) -> bool:
        """Whether it can encode now."""

    @property
    def ahead(self) -> bool:
        """Whether it takes the next batch while it encodes one; the answers come in the order of the batches."""

    async def revive(self) -> None:
        """Returns when it can encode: at once, or if it has died, when another one is there in its place."""

    async def encode(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        """The encoded items of each request or why it is refused; raises EncoderDied, after which it is to be revived."""


@dataclass(eq=False)
class _Job:
    """A request in the queue."""

    items: Sequence[Item]
    role: Role
    truncate: Truncate
    units: list[Units]
    done: asyncio.Future[list[Encoded]]
    encoded: list[Encoded | None] = field(default_factory=list)
    next: int = 0  # the first item that is in no batch yet
    deaths: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        return len(self.items) - self.next


class _Lane:
    """Requests of one class that have items in no batch yet, in turn, with what they have in all."""

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.items = 0
        self.units: Units = (0.0, 0.0)

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def add(self, job: _Job) -> None:
        self.jobs.append(job)
        self._count(job.left, total(job.units))

    def take(self, job: _Job, count: int) -> "_Slice":
        """The next items of a request, at most so many, for a batch; it leaves the lane with its last one."""
        start, job.next = job.next, min(len(job.items), job.next + count)
        taken = total(job.units[start : job.next])
        self._count(start - job.next, (-taken[0], -taken[1]))
        if not job.left:
            self.jobs.remove(job)
        return _Slice(job, start, job.next)

    def drop(self, job: _Job) -> None:
        """Takes what is left of a request out."""
        if job in self.jobs:
            self.take(job, job.left)

    def _count(self, items: int, more: Units) -> None:
        self.items += items
        # Rounding of many sums does not add up to a queue that is never empty.
        self.units = (self.units[0] + more[0], self.units[1] + more[1]) if self.items else (0.0, 0.0)


@dataclass(frozen=True)
class _Slice:
    """Items of a request that are in one batch."""

    job: _Job
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def request(self) -> EncodeRequest:
        return EncodeRequest(list(self.job.items[self.start : self.end]), self.job.role, self.job.truncate)


@dataclass(frozen=True)
class _Flight:
    """A batch that a worker has: when it got it, the seconds that it should take, and its items."""

    began: float
    seconds: float
    items: int


Observe = Callable[[int], None]
"""Told of each batch how many items it has."""


class Batcher:
    """Hands the items of requests to encoders, in batches."""

    def __init__(self, workers: Sequence[Worker], config: BatchConfig, observe: Observe | None = None):
        self.config, self.rate, self.workers = config, Rate(), workers
        self._observe = observe
        self._interactive, self._bulk = _Lane(), _Lane()
        self._interactive_s = 0.0  # what an interactive request takes, on average
        self._again: deque[list[_Slice]] = deque()  # batches whose encoder died
        self._flying: dict[tuple[int, int], _Flight] = {}  # by worker and turn
        self._arrived = asyncio.Event()
        self._last_interactive = -RECENT_SECONDS
        self._passes = 0
        self._free_at: dict[int, float] = {}  # of each worker: when its last batch ended
        self._tasks = [
            asyncio.create_task(self._work((number, turn), worker))
            for number, worker in enumerate(workers)
            for turn in range(2 if worker.ahead else 1)
        ]

    async def close(self) -> None:
        """Ends the tasks of the workers; requests that are in the queue are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs():
            job.done.cancel()

    # Requests

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate = "end") -> list[Encoded]:
        """The encoded items of a request; Overloaded where it would wait too long. A request that is cancelled leaves the queue."""
        job = _Job(
            items, role, truncate, [units([item]) for item in items], asyncio.get_running_loop().create_future(), [None] * len(items)
        )
        if (after_s := self.excess(job.units)) > 0:
            raise Overloaded(after_s)
        interactive = len(items) <= self.config.interactive_items
        if interactive:
            self._last_interactive = job.began
            seconds = self.rate.seconds(total(job.units))
            self._interactive_s += (AVERAGING if self._interactive_s else 1.0) * (seconds - self._interactive_s)
        (self._interactive if interactive else self._bulk).add(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            if not job.done.done() or job.done.cancelled():
                self._forget(job)

    def excess(self, wanted: Sequence[Units] = ((0.0, 0.0),), entering: int = 0) -> float:
        """By how many seconds a request of these items would be late, behind so many short ones that are on their way to the queue.

        0 or less where it would be in time.

        An interactive request waits for interactive ones and for a short bulk part, a bulk request for everything. What takes long by
        itself is late by no more than what is before it: where that is nothing it is taken, and the rate is learnt from it.
        """
        if self.rate.batches < MEASURED:
            return 0.0
        interactive = len(wanted) <= self.config.interactive_items
        ahead = self.rate.seconds(self._interactive.units) + (0.0 if interactive else self.rate.seconds(self._bulk.units))
        ahead += sum(self.rate.seconds(_units_of(batch)) for batch in self._again) + entering * self._interactive_s
        now = time.monotonic()
        ahead += sum(max(0.0, each.began + each.seconds - now) for each in self._flying.values())
        encoders = max(1, sum(worker.alive for worker in self.workers))
        own = self.rate.seconds(total(wanted))
        longest_s = self.config.interactive_wait_s if interactive else self.config.bulk_wait_s
        return min(ahead, ahead + own - longest_s * encoders) / encoders

    @property
    def waiting(self) -> dict[str, int]:
        """The items that wait, of interactive and of bulk requests."""
        again = sum(each.size for batch in self._again for each in batch)
        return {"interactive": self._interactive.items + again, "bulk": self._bulk.items}

    def _jobs(self) -> Iterator[_Job]:
        yield from self._interactive.jobs
        yield from self._bulk.jobs
        yield from (each.job for batch in self._again for each in batch)

    def _forget(self, job: _Job) -> None:
        """Takes what is left of a request out of the queue."""
        for lane in (self._interactive, self._bulk):
            lane.drop(job)

    # Batches

    async def _work(self, place: tuple[int, int], worker: Worker) -> None:
        number, last = place[0], 0
        while True:
            batch = await self._next(place, worker, last)
            last = sum(each.size for each in batch)
            given = _units_of(batch)
            began = time.monotonic()
            self._flying[place] = _Flight(began, self.rate.seconds(given), last)
            try:
                results = await worker.encode([each.request for each in batch])
            except EncoderDied:
                self._returned(batch)
                continue
            except Exception as error:  # noqa: BLE001 a fault of the encoder is one of the requests of its batch, and the next go on
                for each in batch:
                    self._settle(each.job, error)
                continue
            finally:
                self._flying.pop(place, None)
                self._arrived.set()  # for the other turn of the worker
            ended = time.monotonic()
            self.rate.observe(given, ended - max(began, self._free_at.get(number, 0.0)))
            self._free_at[number] = ended
            if self._observe is not None:
                self._observe(last)
            for each, result in zip(batch, results, strict=True):
                self._deliver(each, result, began - each.job.began)

    async def _next(self, place: tuple[int, int], worker: Worker, last: int) -> list[_Slice]:
        """The next batch, as soon as there is something to encode and the worker can; `last`: the items of the batch before."""
        other = (place[0], 1 - place[1])
        while True:
            if other in self._flying:
                last = 0
            elif last > 1 and self._queued() < last and not self._again:
                # The clients of a batch get their replies at one moment, and those that go on ask again at one moment.
                await self._filled(last)
            if not worker.alive:
                await worker.revive()  # before it takes a batch, which another encoder may have meanwhile
            if self._is_wanted(self._flying.get(other)) and (batch := self._taken()):
                return batch
            self._arrived.clear()
            last = 0
            await self._arrived.wait()

    def _is_wanted(self, before: "_Flight | None") -> bool:
        """Whether a worker takes a batch, of which it encodes one already: the next is there when that has ended, if it is as large.

        A bulk part is not taken ahead while interactive requests come in, which would have to wait for both.
        """
        if before is None or self._again:
            return True
        return self._interactive.items >= AHEAD * before.items or (bool(self._bulk) and not self._is_interactive())

    async def _filled(self, wanted: int) -> None:
        """Returns when so many items wait, or after the wait of the config."""
        end = time.monotonic() + self.config.batch_wait_s
        while self._queued() < wanted and (left := end - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _queued(self) -> int:
        return self._interactive.items + self._bulk.items

    def _taken(self) -> list[_Slice]:
        """A batch from the queue; empty where nothing waits."""
        while self._again:
            batch = [each for each in self._again.popleft() if not each.job.done.done()]
            if batch:
                return batch
        starved = bool(self._bulk) and self._passes >= MOST_PASSES
        room = self.config.batch_size
        batch = self._interactive_part(room if not starved else room // 2)
        bulk = self._bulk_part(room - sum(each.size for each in batch), short=bool(batch) or self._is_interactive())
        self._passes = 0 if bulk or not self._bulk else self._passes + 1
        return batch + bulk

    def _is_interactive(self) -> bool:
        return time.monotonic() - self._last_interactive < RECENT_SECONDS

    def _interactive_part(self, room: int) -> list[_Slice]:
        batch = []
        while self._interactive and room:
            batch.append(part := self._interactive.take(self._interactive.jobs[0], room))
            room -= part.size
        return batch

    def _bulk_part(self, room: int, short: bool) -> list[_Slice]:
        """Items of the bulk requests in turn, one share of each; with `short` few enough not to hold up interactive requests."""
        if short:
            room = min(room, self._short_part())
        batch: list[_Slice] = []
        share = max(1, room // max(1, len(self._bulk.jobs)))
        for job in list(self._bulk.jobs):
            if not room:
                break
            batch.append(part := self._bulk.take(job, min(share, room)))
            room -= part.size
            if job.left:
                self._bulk.jobs.remove(job)
                self._bulk.jobs.append(job)
        return batch

    def _short_part(self) -> int:
        """How many items of the first bulk request take about as long as `bulk_share` interactive requests; at least one."""
        if not self._bulk:
            return 0
        job, seconds, count = self._bulk.jobs[0], 0.0, 0
        for one in job.units[job.next :]:
            seconds += self.rate.seconds(one)
            if count and seconds > self.config.bulk_share * self._interactive_s:
                break
            count += 1
        return count

    def _returned(self, batch: list[_Slice]) -> None:
        """Puts the items of an encoder that died at the head of the queue, each request in a batch of its own from its second death on."""
        again: list[_Slice] = []
        for each in batch:
            each.job.deaths += 1
            if each.job.deaths > MOST_DEATHS:
                self._settle(each.job, EncoderDied("the encoder ended each time that it encoded this request"))
            elif each.job.deaths == 1:
                again.append(each)
            else:
                self._again.append([each])
        if again:
            self._again.appendleft(again)
        self._arrived.set()

    def _settle(self, job: _Job, error: BaseException) -> None:
        """Gives a request up."""
        self._forget(job)
        if not job.done.done():
            job.done.set_exception(error)

    def _deliver(self, part: _Slice, result: list[Encoded] | str, waited_s: float) -> None:
        """Gives a request what was encoded of it; it is complete when all its items are there."""
        job = part.job
        if isinstance(result, str):
            self._settle(job, Refused(result))
            return
        job.encoded[part.start : part.end] = [one._replace(waited_s=waited_s) for one in result]
        if job.left or job.done.done():
            return
        if len(found := [one for one in job.encoded if one is not None]) == len(job.items):
            job.done.set_result(found)


def _units_of(batch: Sequence[_Slice]) -> Units:
    return total([one for each in batch for one in each.job.units[each.start : each.end]])
