"""What the training loop asks of where it runs: checkpoint storage and a log."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Host(Protocol):
    """The checkpoint storage and the log of a worker: Ray Train's (`ray_host.RayHost`, below its stage's scratch), or folders in tests."""

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder of the last checkpoint, valid inside the block; None before the first."""

    def save_checkpoint(self, folder: Path, name: str) -> None:
        """Commits this rank's shard of a checkpoint, and returns when a killed process can no longer lose the checkpoint."""

    def log(self, row: dict[str, float]) -> None:
        """Logs the figures of a step; called on rank 0."""
