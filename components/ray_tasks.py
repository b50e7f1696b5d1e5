"""Helpers for work on Ray: whether work is large enough, worker counts, settings of Ray Data, maps over actors in order.

Ray is imported only where it is used: small work runs in the calling process, which then needs no cluster.
"""

import gc
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    import ray.data
    from ray.actor import ActorHandle

Input = TypeVar("Input")
log = logging.getLogger(__name__)
INPUTS_PER_ACTOR = 2
"""One that the actor works on, and the next, so that it never waits for the caller."""
SILENCE_SECONDS = 60.0
"""After so long without any actor a line in the log says what the cluster has."""
SMALL_ROWS = 10_000
"""Rows that one process checks and compares in four seconds of CPU time (2,500 rows per second of the generated world, 56 x 56 pictures).

Starting two Ray workers and their imports takes about as long.
"""
SMALL_BYTES = 64 << 20
"""The limit in bytes: at most a thousand photographs of 640 x 480, of which one process checks a hundred per second."""


def is_small(rows: int = 0, size: int = 0) -> bool:
    """Whether work of this many rows and bytes runs in the calling process, without Ray."""
    return rows <= SMALL_ROWS and size <= SMALL_BYTES


def worker_count(workers: int | None) -> int:
    """The given number; None: the CPUs of the cluster, but no more than its machines have cores.

    A private cluster claims more CPUs than it has, so that stages can wait for each other; more workers than cores only cost memory.
    """
    if workers is not None:
        return workers
    import ray

    machines = sum(node["Alive"] for node in ray.nodes())
    return max(1, min(int(ray.cluster_resources().get("CPU", 1)), machines * (os.cpu_count() or 1)))


def data_context(ordered: bool = True) -> "ray.data.DataContext":
    """The settings of Ray Data in this process, changed to keep the order of rows (or not to) and to draw no progress bars."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = ordered
    context.enable_progress_bars = False
    return context


def one_task_per_row(rows: Sequence[Mapping[str, Any]]) -> "ray.data.Dataset":
    """A dataset in which each row is a block, so that each row is processed by a task of its own.

    It is made of Python objects: for Arrow tables, Ray starts as many workers as there are CPUs only to measure the blocks.
    """
    import ray.data

    return ray.data.from_items(list(rows), override_num_blocks=len(rows))


def stream_tables(dataset: "ray.data.Dataset") -> Iterator[pa.Table]:
    """The tables of a dataset as they arrive; at the end its worker processes exit.

    gc breaks Ray Data's reference cycles, which would pin the results of the workers and so the worker processes.
    """
    yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    del dataset
    gc.collect()


@contextmanager
def actor_pool(actors: "Iterable[ActorHandle]") -> "Iterator[list[ActorHandle]]":
    """The actors, whose processes end with the block."""
    import ray

    pool: list[ActorHandle] = []
    try:
        pool.extend(actors)
        yield pool
    finally:
        for actor in pool:
            ray.kill(actor)


def map_in_order(
    actors: "Sequence[ActorHandle]",
    inputs: Iterable[Input],
    call: "Callable[[ActorHandle, Input], ray.ObjectRef]",
    ready: "Callable[[ActorHandle], ray.ObjectRef]",
) -> Iterator[Any]:
    """The results of `call` for each input, in the order of the inputs, by whichever actor is free.

    An actor gets inputs once `ready` of it has returned, so actors for which the cluster has no room do not delay the others. Inputs are
    read lazily; at most 2 x INPUTS_PER_ACTOR results per actor are held to keep the order.
    """
    import ray

    remaining, end = iter(inputs), object()
    upcoming: Any = next(remaining, end)
    busy = {ready(actor): actor for actor in actors for _ in range(INPUTS_PER_ACTOR)}  # one entry for each input that it may have
    starting, free, results = {*busy}, deque[Any](), deque[Any]()
    max_held = 2 * len(busy)
    while results or upcoming is not end:
        while free and upcoming is not end and len(results) < max_held:
            actor = free.popleft()
            result = call(actor, upcoming)
            busy[result] = actor
            results.append(result)
            upcoming = next(remaining, end)
        if results and results[0] not in busy:
            yield ray.get(results.popleft())
            continue
        done = ray.wait([*busy], num_returns=1, timeout=SILENCE_SECONDS)[0]
        if not done and starting == {*busy}:
            log.warning("no actor has started yet; the cluster has %s free", ray.available_resources())
        for finished in done:
            free.append(busy.pop(finished))
            if finished in starting:
                ray.get(finished)  # raises the error of a failed start
