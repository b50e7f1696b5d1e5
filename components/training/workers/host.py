"""What the training loop asks of where it runs: checkpoint storage, a log, and whether it is to stop for a new start."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from pyarrow import fs

ADDRESS = "MIREPOIX_NODE_ADDRESS"
"""The variable with the address of this node in its cluster; without it, lines name the machine by its own name."""


class Notice(IntEnum):
    """Why a training is to save a checkpoint and to be started again; where ranks have different ones, the highest counts."""

    NONE = 0
    ROOM = 1  # for more workers
    PREEMPTED = 2  # the node of a worker is about to be taken away


class StartAgain(Exception):
    """Raised on all ranks when the checkpoint that a notice asked for is committed: what was trained further here would be lost."""

    def __init__(self, notice: Notice):
        super().__init__(notice)
        self.notice = notice


class Host(Protocol):
    """The checkpoint storage and the log of a worker: Ray Train's (`ray_host.RayHost`, below its stage's scratch), or folders in tests."""

    place: str
    """The folder of the checkpoints, for people."""

    def checkpoints(self) -> Sequence[str]:
        """The names of all checkpoints in the storage, those included that were never completed, in any order; asked on rank 0."""

    def open_checkpoint(self, name: str) -> AbstractContextManager[Path]:
        """The local folder of a checkpoint, valid inside the block."""

    def resume_from(self, name: str, damaged: Sequence[str], earlier: Sequence[str]) -> None:
        """Learns which checkpoint the training goes on from, which later ones are damaged, and which are before it, the newest first.

        Called on all ranks.
        """

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        """Has a thread write this rank's shard to a folder of a file system, and commit the checkpoint once all ranks have done so."""

    def wait_for_checkpoint(self) -> None:
        """Returns when the checkpoint that was saved last, if any, is committed; Refused or another exception if that failed."""

    def log(self, row: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        """Logs the figures since the last report, and notes for people; called on rank 0."""

    def notice(self) -> Notice:
        """The notice that this rank has; asked once a step, so it may not take long, and other ranks may have another."""
