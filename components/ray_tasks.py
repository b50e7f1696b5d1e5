"""How many workers a stage of Ray Data has, how its work is dealt out to them, and how they are let go."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data


def worker_count(workers: int | None) -> int:
    """As many as asked for; else as many as the cluster has CPUs, but no more than its machines have cores.

    A private cluster claims more CPUs than there are, so that stages can wait for each other; more workers than cores only cost memory.
    """
    if workers is not None:
        return workers
    machines = sum(node["Alive"] for node in ray.nodes())
    return max(1, min(int(ray.cluster_resources().get("CPU", 1)), machines * (os.cpu_count() or 1)))


def one_task_per_row(rows: Sequence[Mapping[str, Any]]) -> ray.data.Dataset:
    """A data set of small rows, each a block of its own, so that each is a task's work.

    Ray measures Arrow tables that it is given in tasks, for which it starts as many workers as there are CPUs; what these are it knows.
    """
    return ray.data.from_items(list(rows), override_num_blocks=len(rows))


def stream_tables(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """The tables of a data set as they come; then its workers are let go.

    A worker stays as long as anything here holds on to what it gave, and Ray Data's own objects, which do, hold on to each other.
    """
    yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    del dataset
    gc.collect()
