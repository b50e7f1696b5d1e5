"""What the training loop asks of where it runs: checkpoint storage and a log."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pyarrow import fs


class Host(Protocol):
    """The checkpoint storage and the log of a worker: Ray Train's (`ray_host.RayHost`, below its stage's scratch), or folders in tests."""

    place: str
    """The folder of the checkpoints, for people."""

    def checkpoints(self) -> Sequence[str]:
        """The names of all checkpoints in the storage, those included that were never completed, in any order; asked on rank 0."""

    def open_checkpoint(self, name: str) -> AbstractContextManager[Path]:
        """The local folder of a checkpoint, valid inside the block."""

    def resume_from(self, name: str, damaged: Sequence[str]) -> None:
        """Learns which checkpoint the training goes on from, and which later ones are damaged; called on all ranks."""

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        """Has a thread write this rank's shard to a folder of a file system, and commit the checkpoint once all ranks have done so."""

    def wait_for_checkpoint(self) -> None:
        """Returns when the checkpoint that was saved last, if any, is committed; Refused or another exception if that failed."""

    def log(self, row: dict[str, float]) -> None:
        """Logs the figures of a step; called on rank 0."""
