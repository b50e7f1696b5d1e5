"""What the training loop asks of where it runs: checkpoint storage, a log, and whether it is to stop for a new start."""

from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import Protocol

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
    """The checkpoint storage and the log of a worker: Ray Train's (`train._RayHost`, below its stage's scratch), or folders in tests."""

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder of the last checkpoint, valid inside the block; None before the first."""

    def save_checkpoint(self, folder: Path, name: str) -> None:
        """Commits this rank's shard of a checkpoint, and returns when a killed process can no longer lose the checkpoint."""

    def log(self, row: dict[str, float]) -> None:
        """Logs the figures of a step; called on rank 0."""

    def notice(self) -> Notice:
        """The notice that this rank has; asked once a step, so it may not take long, and other ranks may have another."""
