"""Batches prepared ahead of their use by background threads."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Replicas(Generic[T]):
    """Makes a callable usable by several threads: each call runs on a copy that no other call is using."""

    def __init__(self, call: Callable[..., T], copies: int):
        self._idle: SimpleQueue[Callable[..., T]] = SimpleQueue()
        for _ in range(copies):
            self._idle.put(copy.deepcopy(call))

    def __call__(self, *arguments: Any) -> T:
        call = self._idle.get()
        try:
            return call(*arguments)
        finally:
            self._idle.put(call)


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
