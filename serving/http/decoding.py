"""Checks the pictures of requests: their pixels by the headers first, then one after the other within a bound of memory for the process.

A picture is checked in a thread, and its memory counts until that is done, also where the client has left meanwhile.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from mirepoix.serving.http.guard import ApiError
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.pictures import Cost, decoding_cost, plain_picture

THREADS = max(1, min(4, os.cpu_count() or 1))
"""Pillow decodes without the interpreter's lock, so several threads gain; more than four would take the cores that encode."""
_Any = TypeVar("_Any")


class MemoryBudget:
    """Memory that callers hold parts of, in the order in which they ask; one who asks for more than all of it gets all of it."""

    def __init__(self, amount: int):
        self.amount = amount
        self.free = amount
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._lock = Lock()

    async def take(self, amount: int) -> int:
        """Waits for a part, which the caller must give back, and returns its size."""
        amount, ticket = min(amount, self.amount), Future[None]()
        with self._lock:
            self._waiting.append((amount, ticket))
            self._admit()
        try:
            await asyncio.wrap_future(ticket)
        except asyncio.CancelledError:
            self.give_back(0 if ticket.cancel() else amount)  # it may have been admitted meanwhile
            raise
        return amount

    def give_back(self, amount: int) -> None:
        """From any thread."""
        with self._lock:
            self.free += amount
            self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][0] <= self.free or self._waiting[0][1].cancelled()):
            amount, ticket = self._waiting.popleft()
            if ticket.set_running_or_notify_cancel():
                self.free -= amount
                ticket.set_result(None)


class Decoder:
    """Checks pictures, and makes them upright RGB where they are not."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.budget = MemoryBudget(limits.decoding_memory)
        self._threads = ThreadPoolExecutor(THREADS, "pictures")

    async def __call__(self, pictures: Sequence[bytes], param: str) -> list[bytes]:
        """The pictures of a request as the encoder reads them; refused, before any is decoded, where they have too many pixels together."""
        if not pictures:
            return []
        costs = await asyncio.wrap_future(self._threads.submit(self._costs, pictures))
        pixels, most = sum(cost.pixels for cost in costs), self.limits.max_request_pixels
        if pixels > most:
            raise ApiError(
                400,
                f"the pictures have {pixels:,} pixels; at most {most:,} are taken at once; send fewer, or smaller ones",
                param,
                "too_many_pixels",
            )
        return [
            await self._held(cost.memory, plain_picture, picture, self.limits.picture)
            for cost, picture in zip(costs, pictures, strict=True)
        ]

    def _costs(self, pictures: Sequence[bytes]) -> list[Cost]:
        return [decoding_cost(picture, self.limits.picture) for picture in pictures]

    async def _held(self, memory: int, work: Callable[..., _Any], *arguments: object) -> _Any:
        """What the work returns, in a thread that holds so much memory until it is done."""
        held = await self.budget.take(memory)
        running = self._threads.submit(work, *arguments)
        running.add_done_callback(lambda _: self.budget.give_back(held))
        return await asyncio.wrap_future(running)
