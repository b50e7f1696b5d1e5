"""The checkpoint storage and the log of a worker of Ray Train."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray.train

COMMIT_SECONDS = 600
"""The longest that a worker waits until a checkpoint is committed."""


class RayHost:
    """Checkpoints and log of a worker of Ray Train."""

    def __init__(self, report: Callable[[dict[str, float]], None]):
        self.log = report  # after a restart, the steps since the last checkpoint are logged again

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        return checkpoint_folder(checkpoint) if checkpoint else nullcontext()

    def save_checkpoint(self, folder: Path, name: str) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({}, checkpoint=checkpoint, checkpoint_dir_name=name)
        # report() returns before the checkpoint is committed; a kill in between would lose it.
        mode = ray.train.CheckpointConsistencyMode.COMMITTED
        ray.train.get_all_reported_checkpoints(consistency_mode=mode, timeout_s=COMMIT_SECONDS)


@contextmanager
def checkpoint_folder(checkpoint: Any) -> Iterator[Path]:
    """The local folder of a checkpoint, fetched if its storage is remote."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)
