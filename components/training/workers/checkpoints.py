"""The checkpoints of a training: written by a thread while the training goes on, and verified before one is loaded."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from pyarrow import fs

from mirepoix.components.training.agreement import agreed
from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.engine.snapshot import Copies
from mirepoix.components.training.job import RefusedOnAllRanks
from mirepoix.components.training.progress import Progress
from mirepoix.components.training.workers.host import Host
from mirepoix.components.training.workers.shards import Shard, damage
from mirepoix.models.errors import Refused

NAME = re.compile(r"(?:step_(?P<step>\d{8})-\d+|final)(?:\.(?P<copy>\d+))?")
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training, as one of its ranks; all methods are called on all ranks together.

    A training waits for a copy of its state in host memory alone; the files are written from that copy. As there is one copy, it also waits
    for the checkpoint before, if that is not yet committed.
    """

    def __init__(self, host: Host):
        self._host, self._copies = host, Copies()
        self._used: set[str] = set()
        self.step: int | None = None
        """The step of the checkpoint that was opened or saved last."""
        self._folder: TemporaryDirectory[str] | None = None

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """The folder of the newest checkpoint that is whole, valid inside the block; None before the first. Refused if none is whole."""
        listed: list[Any] = [sorted(filter(NAME.fullmatch, self._host.checkpoints()), key=_age) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(listed)
        names: list[str] = listed[0]
        self._used = set(names)
        faults: dict[str, str] = {}
        for number, name in enumerate(names):
            with ExitStack() as stack:
                folder, fault = self._verified(stack, name)
                if fault is None:
                    self._told(name, faults)
                    self._host.resume_from(name, list(faults), names[number + 1 :])
                    self.step = Progress.read(folder).step
                    yield folder
                    return
            faults[name] = fault
        if faults:
            raise RefusedOnAllRanks(
                f"none of the {len(faults)} checkpoints in {self._host.place} is whole ({_listed(faults)}); restore the files of one of "
                "them, or delete that folder to train from the start"
            )
        yield None

    def _verified(self, stack: ExitStack, name: str) -> tuple[Path, str | None]:
        """The folder of a checkpoint, and what is wrong with it on any rank; each rank verifies a share."""
        folder, fault = Path(), None
        try:
            folder = stack.enter_context(self._host.open_checkpoint(name))
            fault = damage(folder, dist.get_rank(), dist.get_world_size())
        except OSError as error:
            fault = f"it cannot be read: {error}"
        faults: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(faults, fault)
        return folder, next(filter(None, faults), None)

    def _told(self, name: str, faults: dict[str, str]) -> None:
        if faults and dist.get_rank() == 0:
            damaged = f"{'checkpoint' if len(faults) == 1 else 'checkpoints'} {_listed(faults)}"
            log.warning("damaged %s in %s; the training goes on from %s, which is whole", damaged, self._host.place, name)

    def save(self, engine: Any, progress: Progress) -> None:
        """Copies the state of the training, and has it written while the training goes on."""
        # The name has the world size, because a folder of the same name may hold shards of more ranks.
        self._save(
            f"step_{progress.step:08d}-{dist.get_world_size()}",
            progress,
            lambda folder: deepspeed_engine.snapshot(engine, folder, self._copies),
        )

    def finish(self, write: Callable[[Path], None], progress: Progress) -> None:
        """Saves what `write` leaves in a folder as the last checkpoint, and returns when it is committed."""

        def finished(folder: Path) -> dict[str, Any]:
            write(folder)
            return {}

        self._save("final", progress, finished)
        self.wait()

    def _save(self, name: str, progress: Progress, content: Callable[[Path], dict[str, Any]]) -> None:
        self.wait()
        name = next(each for each in (name, *(f"{name}.{number}" for number in range(2, len(self._used) + 3))) if each not in self._used)
        self._used.add(name)
        self.step = progress.step
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        shard = Shard(dist.get_rank(), dist.get_world_size(), folder, content(folder))
        if shard.rank == 0:
            progress.write(folder)

        def write(filesystem: fs.FileSystem, target: str) -> None:
            try:
                shard.write(filesystem, target)
            except OSError as error:
                raise Refused(
                    f"checkpoint {name} cannot be written to {self._host.place} ({error}); make room there or lower keep_checkpoints, and "
                    "run again to go on from the checkpoint before it"
                ) from error

        self._host.save_checkpoint(name, write)

    def wait(self) -> None:
        """Returns when the checkpoint that was saved last, if any, is committed: from then on no kill can lose it."""
        if self._folder is not None:
            agreed(self._host.wait_for_checkpoint)
            self._folder.cleanup()
            self._folder = None


def _age(name: str) -> tuple[float, int]:
    match = NAME.fullmatch(name)
    assert match
    return -float(match["step"] or "inf"), -int(match["copy"] or 1)


def _listed(faults: dict[str, str]) -> str:
    return "; ".join(f"{name}: {fault}" for name, fault in faults.items())
