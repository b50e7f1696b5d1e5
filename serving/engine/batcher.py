"""Hands requests to encoders in batches, which `request_queue` makes of them.

Nothing waits for a batch to fill while an encoder is idle. Batches form while encoders are busy; one that has just encoded a full batch
waits some milliseconds for the next requests of the same clients.

What would wait too long by the measured rate is refused at once, with the seconds after which it would not be.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.rate import Rate, Units, total, units
from mirepoix.serving.engine.request_queue import Job, RequestQueue, Slice, units_of
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.engine.work import Encoded, EncodeRequest

MEASURED = 5
"""Batches after which the rate is known: the first ones of a release take a multiple of the others where the machine has more to do."""
FIRST_BATCHES = 3
"""Until then an item counts as if so many full batches, or so many of the largest interactive requests, took `interactive_wait_s`."""
AHEAD = 0.75
"""A next batch is handed over early only if it has at least this share of the current batch's items."""
BATCH_SHARE = 0.25
"""Share of the time for an answer that a batch of several items takes at most, by the measured rate: an encoder that seems to be stuck is
killed."""
MOST_DEATHS = 2
"""Items of a request survive so many deaths of their encoder; at the next one the request is given up, as it may be the cause."""


class Overloaded(Exception):
    """The request would have to wait too long; `after_s`: when it would not, as far as is known."""

    def __init__(self, after_s: float):
        super().__init__(after_s)
        self.after_s = after_s


class EncoderDied(Exception):
    """An encoder ended while it had a batch; another one, or a new one, encodes it again."""


class TooSlow(EncoderDied):
    """An encoder did not answer in time, and was ended."""


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
        """The encoded items of each request or why it is refused; raises EncoderDied, after which it is to be revived.

        TooSlow where the items themselves may be the reason.
        """


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

    def __init__(self, workers: Sequence[Worker], config: BatchConfig, observe: Observe | None = None, answer_s: float = inf):
        self.config, self.rate, self.workers = config, Rate(), workers
        self._observe = observe
        self._queue = RequestQueue(config, self.rate, BATCH_SHARE * answer_s)
        self._flying: dict[tuple[int, int], _Flight] = {}  # by worker and turn
        self._arrived = asyncio.Event()
        self._free_at: dict[int, float] = {}  # of each worker: when its last batch ended
        self._deaths: dict[int, int] = {}  # of each worker
        self._tasks = [
            asyncio.create_task(self._work((number, turn), worker))
            for number, worker in enumerate(workers)
            for turn in range(2 if worker.ahead else 1)
        ]

    async def close(self) -> None:
        """Ends the tasks of the workers, and drops the workers; requests that are in the queue are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self.workers = [], ()  # the tracebacks of ended tasks refer to the workers
        for job in self._queue.jobs():
            job.done.cancel()

    # Requests

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate = "end", patient: bool = False) -> list[Encoded]:
        """The encoded items of a request; Overloaded where it would wait too long, unless it is patient.

        A request that is cancelled leaves the queue.
        """
        job = Job(items, role, truncate, [units([item]) for item in items], asyncio.get_running_loop().create_future(), [None] * len(items))
        if not patient and (after_s := self.excess(job.units)) > 0:
            raise Overloaded(after_s)
        self._queue.add(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            if not job.done.done() or job.done.cancelled():
                self._queue.drop(job)

    def excess(self, wanted: Sequence[Units] = ((0.0, 0.0),), entering: int = 0) -> float:
        """By how many seconds a request of these items would be late, behind so many short ones that are on their way to the queue.

        0 or less where it would be in time.

        What takes long by itself is late by no more than what is before it: where that is nothing it is taken, and the rate is learnt
        from it.
        """
        encoders = max(1, sum(worker.alive for worker in self.workers))
        longest_s = self.config.interactive_wait_s if self._queue.is_interactive(len(wanted)) else self.config.bulk_wait_s
        if self.rate.batches < MEASURED:
            item_s = self.config.interactive_wait_s / (FIRST_BATCHES * max(self.config.batch_size, self.config.interactive_items))
            items = self._queue.items_before(len(wanted)) + sum(each.items for each in self._flying.values()) + entering
            return item_s * items / encoders - longest_s
        ahead = self._queue.seconds_before(len(wanted), entering)
        now = time.monotonic()
        ahead += sum(max(0.0, each.began + each.seconds - now) for each in self._flying.values())
        own = self.rate.seconds(total(wanted))
        return min(ahead, ahead + own - longest_s * encoders) / encoders

    @property
    def waiting(self) -> dict[str, int]:
        """The items that wait, of interactive and of bulk requests."""
        return self._queue.waiting

    # Batches

    async def _work(self, place: tuple[int, int], worker: Worker) -> None:
        number, last = place[0], 0
        while True:
            batch = await self._next(place, worker, last)
            last = sum(each.size for each in batch)
            given = units_of(batch)
            began, deaths = time.monotonic(), self._deaths.get(number, 0)
            self._flying[place] = _Flight(began, self.rate.seconds(given), last)
            try:
                results = await worker.encode([each.request for each in batch])
            except EncoderDied as died:
                if isinstance(died, TooSlow) and last == 1:
                    self._give_up(batch[0].job, died)  # the next encoder would take as long
                    continue
                ahead = self._flying.get(_other(place))
                if self._deaths.get(number, 0) > deaths or (ahead is not None and ahead.began < began):
                    self._queue.put_back(batch)  # the encoder died over the batch before it
                else:
                    self._deaths[number] = deaths + 1
                    self._returned(batch)
                continue
            except Exception as error:  # noqa: BLE001 a fault of the encoder is one of the requests of its batch, and the next go on
                for each in batch:
                    self._give_up(each.job, error)
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

    async def _next(self, place: tuple[int, int], worker: Worker, last: int) -> list[Slice]:
        """The next batch, as soon as there is something to encode and the worker can; `last`: the items of the batch before."""
        other = _other(place)
        while True:
            if other in self._flying:
                last = 0
            elif last > 1 and self._queue.items < last and not self._queue.has_returned:
                # The clients of a batch get their replies at one moment, and those that go on ask again at one moment.
                await self._filled(last)
            if not worker.alive:
                await worker.revive()  # before it takes a batch, which another encoder may have meanwhile
            if self._is_wanted(self._flying.get(other)) and (batch := self._queue.take()):
                return batch
            self._arrived.clear()
            last = 0
            await self._arrived.wait()

    def _is_wanted(self, before: "_Flight | None") -> bool:
        """Whether a worker takes a batch; where it encodes one, the next is to be there when that has ended, if it is as large."""
        return before is None or self._queue.fills_ahead(AHEAD * before.items)

    async def _filled(self, wanted: int) -> None:
        """Returns when so many items wait, or after the wait of the config."""
        end = time.monotonic() + self.config.batch_wait_s
        while self._queue.items < wanted and (left := end - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _returned(self, batch: list[Slice]) -> None:
        """Puts what an encoder died over at the head of the queue, each request in a batch of its own from the second death on."""
        again: list[Slice] = []
        for each in [replace(each, deaths=each.deaths + 1) for each in batch]:
            if each.deaths > MOST_DEATHS:
                self._give_up(each.job, EncoderDied("the encoder ended each time that it encoded this request"))
            elif each.deaths == 1:
                again.append(each)
            else:
                self._queue.put_back_alone(each)
        if again:
            self._queue.put_back(again)

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Ends a request with an error."""
        self._queue.drop(job)
        if not job.done.done():
            job.done.set_exception(error)

    def _deliver(self, part: Slice, result: list[Encoded] | str, waited_s: float) -> None:
        """Gives a request what was encoded of it; it is complete when all its items are there."""
        job = part.job
        if isinstance(result, str):
            self._give_up(job, Refused(result))
            return
        job.encoded[part.start : part.end] = [one._replace(waited_s=waited_s) for one in result]
        if job.left or job.done.done():
            return
        if len(found := [one for one in job.encoded if one is not None]) == len(job.items):
            job.done.set_result(found)


def _other(place: tuple[int, int]) -> tuple[int, int]:
    """The other turn of a worker."""
    return place[0], 1 - place[1]
