"""Settings and helpers for Ray Data: whether work is large enough for it, the number of workers, one task per row, and their end.

Ray is imported only where it is used: small work runs in the calling process, which then needs no cluster.
"""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import ray.data

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
