"""Reads and curates corpora outside of a run: in this process where they are small, else on a private cluster, with progress shown."""

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import time
from typing import TypeVar

from mirepoix.components.stage import Context
from mirepoix.workflows.runner.progress import Display, ProgressReport

T = TypeVar("T")


@contextmanager
def cluster_unless(small: bool) -> Iterator[None]:
    """A private cluster if there is none yet, without the log lines of Ray Data; with `small`, no cluster, and Ray is not imported."""
    if small:
        yield
        return
    import ray
    import ray.data  # sets up the logger whose level is changed below

    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    logger = logging.getLogger(ray.data.__name__)
    level = logger.level
    with nullcontext() if ray.is_initialized() else private_cluster():
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def run_stage(name: str, folder: Path, work: Callable[[Context], T], seed: int) -> T:
    """A stage's work outside of a run, with its progress on the terminal."""
    folder.mkdir()
    display = Display()
    display.begin(name)

    def report(numbers: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        display.update(ProgressReport.of(name, time(), numbers, notes))
        display.refresh()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)  # Ray Data's, for few rows
            return work(Context(folder, str(folder.with_name(f"{folder.name}-scratch")), report, seed))
    except Exception as error:
        # Frees the iterators that the frames hold: one of Ray Data waits for ever for a cluster that has ended.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        display.close()
