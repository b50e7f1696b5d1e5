"""Requests that wait for an encoder, and the batches that are made of them: short ones pass long ones.

A request of a few items is interactive, one of many is bulk. A batch takes interactive items first, in the order of their requests, and
fills up with items of the bulk requests in turn, so that no bulk request waits for another one to end. While interactive requests come in,
the bulk part of a batch is kept short, as an interactive request has to wait for the batch that is being encoded.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from mirepoix.models.encoder_config import Role
from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.rate import Rate, Units, total
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.engine.work import Encoded, EncodeRequest

RECENT_SECONDS = 2.0
"""For so long after an interactive request the bulk part of a batch is kept short."""
FIRST_ITEMS = 8
"""Most items of a batch while there are pictures and their rate is not known, so that none takes too long."""
MOST_PASSES = 8
"""After so many batches without any bulk item, one takes a bulk part though interactive items would fill it."""


@dataclass(eq=False)
class Job:
    """A request in the queue."""

    items: Sequence[Item]
    role: Role
    truncate: Truncate
    units: list[Units]
    done: asyncio.Future[list[Encoded]]
    encoded: list[Encoded | None] = field(default_factory=list)
    next: int = 0  # the first item that is in no batch yet
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        return len(self.items) - self.next


@dataclass(frozen=True)
class Slice:
    """Items of a request that are in one batch."""

    job: Job
    start: int
    end: int
    deaths: int = 0  # of encoders that were encoding it

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def request(self) -> EncodeRequest:
        return EncodeRequest(list(self.job.items[self.start : self.end]), self.job.role, self.job.truncate)


class _Lane:
    """Requests of one class that have items in no batch yet, in turn, with what they have in all."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.items = 0
        self.units: Units = (0.0, 0.0)

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self._count(job.left, total(job.units))

    def take(self, job: Job, count: int) -> Slice:
        """The next items of a request, at most so many, for a batch; it leaves the lane with its last one."""
        start, job.next = job.next, min(len(job.items), job.next + count)
        taken = total(job.units[start : job.next])
        self._count(start - job.next, (-taken[0], -taken[1]))
        if not job.left:
            self.jobs.remove(job)
        return Slice(job, start, job.next)

    def drop(self, job: Job) -> None:
        """Takes what is left of a request out."""
        if job in self.jobs:
            self.take(job, job.left)

    def _count(self, items: int, more: Units) -> None:
        self.items += items
        # Rounding of many sums does not add up to a queue that is never empty.
        self.units = (self.units[0] + more[0], self.units[1] + more[1]) if self.items else (0.0, 0.0)


class RequestQueue:
    """Interactive requests, bulk ones, and batches whose encoder died, which come before both."""

    def __init__(self, config: BatchConfig, rate: Rate, longest_s: float = inf):
        self.config, self.rate = config, rate
        self._longest_s = longest_s  # what a batch of several items may take
        self._interactive, self._bulk = _Lane(), _Lane()
        self._again: deque[list[Slice]] = deque()  # batches whose encoder died
        self._last_interactive = -RECENT_SECONDS
        self._passes = 0

    @property
    def items(self) -> int:
        """The items that are in no batch yet."""
        return self._interactive.items + self._bulk.items

    @property
    def has_returned(self) -> bool:
        """Whether there is a batch whose encoder died."""
        return bool(self._again)

    @property
    def waiting(self) -> dict[str, int]:
        """The items that wait, of interactive and of bulk requests."""
        again = sum(each.size for batch in self._again for each in batch)
        return {"interactive": self._interactive.items + again, "bulk": self._bulk.items}

    def jobs(self) -> Iterator[Job]:
        """The requests that wait."""
        yield from self._interactive.jobs
        yield from self._bulk.jobs
        yield from (each.job for batch in self._again for each in batch)

    def is_interactive(self, items: int) -> bool:
        """Whether a request of so many items passes those of more."""
        return items <= self.config.interactive_items

    def seconds_before(self, items: int, entering: int = 0) -> float:
        """What one encoder would take for all that a request of so many items waits for, and for `entering` short requests.

        An interactive request waits for interactive ones, a bulk request for everything.
        """
        ahead = self.rate.seconds(self._interactive.units)
        ahead += 0.0 if self.is_interactive(items) else self.rate.seconds(self._bulk.units)
        ahead += sum(self.rate.seconds(units_of(batch)) for batch in self._again) + entering * self.rate.interactive_s
        return ahead

    def items_before(self, items: int) -> int:
        """The items that a request of so many waits for."""
        return self._interactive.items + (0 if self.is_interactive(items) else self._bulk.items)

    def add(self, job: Job) -> None:
        """Puts a request at the end."""
        interactive = self.is_interactive(len(job.items))
        if interactive:
            self._last_interactive = job.began
            self.rate.observe_interactive(total(job.units))
        (self._interactive if interactive else self._bulk).add(job)

    def drop(self, job: Job) -> None:
        """Takes what is left of a request out."""
        for lane in (self._interactive, self._bulk):
            lane.drop(job)

    def put_back(self, batch: list[Slice]) -> None:
        """Puts a batch whose encoder died before everything else."""
        self._again.appendleft(batch)

    def put_back_alone(self, part: Slice) -> None:
        """Puts a part of such a batch behind other such batches, in a batch of its own."""
        self._again.append([part])

    def fills_ahead(self, items: float) -> bool:
        """Whether a worker takes a batch while it encodes one: if it has at least so many items.

        A bulk part is not taken ahead while interactive requests come in, which would have to wait for both.
        """
        return bool(self._again) or self._interactive.items >= items or (bool(self._bulk) and not self._interactive_recently())

    def take(self) -> list[Slice]:
        """The next batch; empty where nothing waits."""
        while self._again:
            batch = [each for each in self._again.popleft() if not each.job.done.done()]
            if batch:
                return batch
        starved = bool(self._bulk) and self._passes >= MOST_PASSES
        is_guessed = self.rate.is_guessed(total((self._interactive.units, self._bulk.units)))
        room = min(self.config.batch_size, FIRST_ITEMS) if is_guessed else self.config.batch_size
        batch = self._interactive_part(*((room // 2, self._longest_s / 2) if starved else (room, 0.0)))
        left = room - sum(each.size for each in batch)
        bulk = self._bulk_part(left, bool(batch) or self._interactive_recently(), self.rate.seconds(units_of(batch)))
        self._passes = 0 if bulk or not self._bulk else self._passes + 1
        return batch + bulk

    def _interactive_recently(self) -> bool:
        return time.monotonic() - self._last_interactive < RECENT_SECONDS

    def _interactive_part(self, room: int, spent_s: float) -> list[Slice]:
        batch: list[Slice] = []
        while self._interactive and room:
            job = self._interactive.jobs[0]
            count, spent_s = self._fitting(job, room, spent_s)
            if not count:
                break
            batch.append(part := self._interactive.take(job, count))
            room -= part.size
        return batch

    def _bulk_part(self, room: int, short: bool, spent_s: float) -> list[Slice]:
        """Items of the bulk requests in turn, one share of each; with `short` few enough not to hold up interactive requests."""
        if short:
            room = min(room, self._short_part())
        batch: list[Slice] = []
        share = max(1, room // max(1, len(self._bulk.jobs)))
        for job in list(self._bulk.jobs):
            count, spent_s = self._fitting(job, min(share, room), spent_s)
            if not count:
                break
            batch.append(part := self._bulk.take(job, count))
            room -= part.size
            if job.left:
                self._bulk.jobs.remove(job)
                self._bulk.jobs.append(job)
        return batch

    def _fitting(self, job: Job, most: int, spent_s: float) -> tuple[int, float]:
        """How many of a request's next items, at most so many, a batch of so many seconds has time for, and its seconds with them.

        The first item of a batch is always taken.
        """
        units = job.units[job.next : job.next + most]
        with_all = spent_s + self.rate.seconds(total(units))
        if with_all <= self._longest_s:
            return len(units), with_all
        count = 0
        for one in units:
            seconds = self.rate.seconds(one)
            if spent_s and spent_s + seconds > self._longest_s:
                break
            count, spent_s = count + 1, spent_s + seconds
        return count, spent_s

    def _short_part(self) -> int:
        """How many items of the first bulk request take about as long as `bulk_share` interactive requests; at least one."""
        if not self._bulk:
            return 0
        job, seconds, count = self._bulk.jobs[0], 0.0, 0
        for one in job.units[job.next :]:
            seconds += self.rate.seconds(one)
            if count and seconds > self.config.bulk_share * self.rate.interactive_s:
                break
            count += 1
        return count


def units_of(batch: Sequence[Slice]) -> Units:
    """The units of a batch."""
    return total([one for each in batch for one in each.job.units[each.start : each.end]])
