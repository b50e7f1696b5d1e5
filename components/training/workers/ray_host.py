"""The checkpoint storage and the log of a worker of Ray Train."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray.train
from pyarrow import fs

from mirepoix.components.stage import ProgressFunction
from mirepoix.components.training.workers.host import Notice
from mirepoix.components.training.workers.layout import COMMITTED
from mirepoix.models.errors import Refused

COMMIT_SECONDS = 3600
"""The longest that a worker waits until a checkpoint is written by all workers and committed."""
log = logging.getLogger(__name__)


class RayHost:
    """The checkpoints, the log and the notices of a worker of Ray Train."""

    def __init__(self, report: ProgressFunction, notice: Callable[[], Notice]):
        self.notice = notice
        self.log = report  # after a restart, the steps since the last checkpoint are logged again
        self._storage = ray.train.get_context().get_storage()
        self.place: str = self._storage.experiment_fs_path
        self._saved = ""

    def checkpoints(self) -> Sequence[str]:
        """The names of all folders beside Ray's list, and those in the list, whose folders may be gone."""
        return sorted(self._committed() | set(_folders(self._storage.storage_filesystem, self.place)))

    def open_checkpoint(self, name: str) -> Any:
        return checkpoint_folder(self._checkpoint(name))

    def resume_from(self, name: str, damaged: Sequence[str], earlier: Sequence[str]) -> None:
        """Has Ray commit a whole checkpoint whose commit a kill prevented, and removes the later ones that were never complete.

        So it does with those before it that are newer than all in Ray's list, which are all of them where that list was torn: those that it
        does not list stay for ever, and there are more than `keep_checkpoints`.
        """
        committed = self._committed()
        if name not in committed:
            for each in (*reversed([*takewhile(lambda each: each not in committed, earlier)]), name):
                mode = ray.train.CheckpointUploadMode.NO_UPLOAD
                ray.train.report({}, checkpoint=self._checkpoint(each), checkpoint_dir_name=each, checkpoint_upload_mode=mode)
            self._saved = name
            self.wait_for_checkpoint()
        if ray.train.get_context().get_world_rank() == 0:
            for each in set(damaged) - committed:
                self._storage.storage_filesystem.delete_dir(f"{self.place}/{each}")

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        def upload(checkpoint: Any, _: str) -> Any:
            """Called in a thread of Ray's; if it raises, Ray ends the training at once, or starts it again from the checkpoint before."""
            write(checkpoint.filesystem, checkpoint.path)
            return checkpoint

        ray.train.report(
            {},
            checkpoint=self._checkpoint(name),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            delete_local_checkpoint_after_upload=False,  # it is written to the storage itself
        )
        self._saved = name

    def wait_for_checkpoint(self) -> None:
        if self._saved and self._saved not in self._committed():
            # No refusal: Ray drops a report where a worker died meanwhile, and a new start from the checkpoint before may do better.
            raise TimeoutError(
                f"checkpoint {self._saved} was not committed to {self.place}: a worker died meanwhile, or that storage has not answered "
                f"for {COMMIT_SECONDS} s"
            )

    def _committed(self) -> set[str]:
        """The names of the committed checkpoints that Ray keeps, once all that were reported are committed or the time is over."""
        mode = ray.train.CheckpointConsistencyMode.COMMITTED
        reported = ray.train.get_all_reported_checkpoints(consistency_mode=mode, timeout_s=COMMIT_SECONDS)
        return {each.checkpoint.path.rpartition("/")[2] for each in reported}

    def _checkpoint(self, name: str) -> Any:
        return ray.train.Checkpoint(self._storage.build_checkpoint_path_from_name(name), self._storage.storage_filesystem)


@contextmanager
def checkpoint_folder(checkpoint: Any) -> Iterator[Path]:
    """The local folder of a checkpoint, fetched if its storage is remote."""
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def _folders(files: fs.FileSystem, folder: str) -> list[str]:
    found = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return [entry.base_name for entry in found if entry.type == fs.FileType.Directory]


def forget_broken_list(storage: str, run: str) -> None:
    """Removes Ray's list of committed checkpoints if it was torn by a kill or names one that is gone: Ray would refuse to start.

    Nothing is lost by it: a checkpoint is known to be whole by its own hashes, and the workers have Ray commit it anew. Refused if no
    checkpoint is left.
    """
    files, root = fs.FileSystem.from_uri(storage) if "://" in storage else (fs.LocalFileSystem(), storage)
    folder = f"{root.rstrip('/')}/{run}"
    path, there = f"{folder}/{COMMITTED}", set(_folders(files, folder))
    if files.get_file_info(path).type == fs.FileType.NotFound:
        return
    try:
        with files.open_input_stream(path) as file:
            names = [each["checkpoint_dir_name"] for each in json.loads(file.read())["checkpoint_results"]]
        gone = [name for name in names if name not in there]
        fault = f"it names {', '.join(gone)}, which {'are' if len(gone) > 1 else 'is'} not there" if gone else ""
    except (ValueError, KeyError, TypeError):
        fault = "it cannot be read"
    if not fault:
        return
    if not there:
        raise Refused(
            f"{path} is damaged ({fault}), and there is no checkpoint beside it; restore that folder, or delete it to train from the start"
        )
    log.warning("%s is damaged (%s); the training goes on from the newest checkpoint beside it that is whole", path, fault)
    files.delete_file(path)
