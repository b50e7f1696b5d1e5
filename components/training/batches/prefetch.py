"""Batches prepared ahead of their use by background threads."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Replicas(Generic[T]):
    """Copies of an object for several threads: each is used by one of them at a time."""

    def __init__(self, original: T, copies: int):
        self._idle: SimpleQueue[T] = SimpleQueue()
        for _ in range(copies):
            self._idle.put(copy.deepcopy(original))

    @contextmanager
    def one(self) -> Iterator[T]:
        """A copy that no other thread is using."""
        replica = self._idle.get()
        try:
            yield replica
        finally:
            self._idle.put(replica)


def prefetched(make: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """The result of `make` for each number, in order, computed by background threads ahead of its use; with 0 threads, on demand."""
    if not threads:
        yield from map(make, numbers)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="collate")
    waiting = iter(numbers)
    pending = deque(pool.submit(make, number) for number in islice(waiting, threads + 1))
    try:
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(make, number) for number in islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
