"""A training goes on from the newest whole checkpoint, and does not wait while one is written."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pyarrow import fs

from mirepoix.components.training.job import RefusedOnAllRanks
from mirepoix.models.encoder import load_encoder
from tests.components.training.toy_training import FolderHost, figures, job_of, run, write_encoder, write_toys

STEPS = ("step_00000002-2", "step_00000004-2", "step_00000006-2")


class Late(FolderHost):
    """Writes a checkpoint only when the training waits for it, which is at the next one."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._waited = threading.Event()

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        self._waited.clear()

        def late(filesystem: fs.FileSystem, target: str) -> None:
            assert self._waited.wait(60), "the training waits for the checkpoint"
            write(filesystem, target)

        super().save_checkpoint(name, late)

    def wait_for_checkpoint(self) -> None:
        self._waited.set()
        super().wait_for_checkpoint()


class Full(FolderHost):
    """Has no room on rank 1 from step 4 on."""

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        full = dist.get_rank() == 1 and name == STEPS[1]
        super().save_checkpoint(name, (lambda *_: write(_Full(), "nowhere")) if full else write)


class _Full:
    def create_dir(self, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SHARD = "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt"
DAMAGE = {
    "flipped": (SHARD, flip),
    "torn": (SHARD, cut),
    "without a file": ("engine/mp_rank_00_model_states.pt", Path.unlink),
    "without a manifest": ("manifest-00001-of-00002.json", Path.unlink),
    "other progress": ("progress.json", flip),
}


def copied(folder: Path, name: str, *steps: str) -> Path:
    for step in steps:
        shutil.copytree(folder / "whole/whole" / step, folder / "cases" / name / step)
    return folder / "cases" / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def rows(folder) -> dict[str, list[dict]]:
    """The rows of an uninterrupted training, and of those that find its checkpoints damaged in some way."""
    encoder, pairs = write_encoder(folder), write_toys(folder / "pairs", ["i", "t", "t"] * 8)
    shared = {"num_workers": 2, "global_batch_size": 4, "save_steps": 2, "max_steps": 7, "learning_rate": 1e-3}
    job = job_of(pairs, encoder, zero_stage=1, **shared)
    rows = run({"whole": job}, 2, folder / "whole")
    rows |= run({"late": job}, 2, folder / "late", Late) | run({"full": job}, 2, folder / "full", Full)
    for name, (file, change) in DAMAGE.items():
        change(copied(folder, name, *STEPS) / STEPS[2] / file)
    only = copied(folder, "all", *STEPS[1:])
    flip(only / STEPS[1] / SHARD)
    (only / STEPS[2] / "manifest-00000-of-00002.json").unlink()
    shutil.copytree(folder / "late/late" / STEPS[0], folder / "cases/from late" / STEPS[0])
    shutil.copytree(folder / "full/full", folder / "cases/from full")
    (copied(folder, "begun", STEPS[0]) / STEPS[1]).mkdir()
    return rows | run(dict.fromkeys([*DAMAGE, "all", "from late", "from full", "begun"], job), 2, folder / "cases")


def steps(rows: list[dict]) -> list[int]:
    return [row["step"] for row in rows if "step" in row]


def resumed(rows: dict[str, list[dict]], folder: Path, name: str, first: int) -> None:
    trained = [row for row in rows[name] if "step" in row]
    assert steps(trained) == list(range(first, 8))
    assert figures(trained) == figures(rows["whole"][first - 1 :])
    whole, again = (load_encoder(folder / place / "final/encoder").state_dict() for place in ("whole/whole", f"cases/{name}"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(rows, folder, name):
    warnings = [row["warning"] for row in rows[name] if "warning" in row]
    assert len(warnings) == 1 and warnings[0].startswith(f"damaged checkpoint {STEPS[2]}: {DAMAGE[name][0]} ")
    assert f"the training goes on from {STEPS[1]}, which is whole" in warnings[0]
    resumed(rows, folder, name, first=5)


def test_a_damaged_checkpoint_is_not_written_over(rows, folder):
    names = sorted(path.name for path in (folder / "cases/flipped").iterdir())
    assert names == ["final", *STEPS, f"{STEPS[2]}.2"]


def test_a_checkpoint_of_which_a_kill_left_a_folder_is_not_taken(rows, folder):
    assert "step_00000004-2: it has no manifest" in rows["begun"][0]["warning"]
    resumed(rows, folder, "begun", first=3)


def test_damaged_checkpoints_without_a_whole_one_are_refused(rows, folder):
    (row,) = rows["all"]
    place = folder / "cases/all"
    assert row["kind"] is RefusedOnAllRanks
    assert row["refused"].startswith(
        f"none of the 2 checkpoints in {place} is whole ({STEPS[2]}: manifest-00000-of-00002.json is missing; "
    )
    assert f"; {STEPS[1]}: {SHARD} has other content than was written); restore" in row["refused"]


def test_a_training_goes_on_while_a_checkpoint_is_written_and_that_is_of_its_step(rows, folder):
    assert figures(rows["late"]) == figures(rows["whole"])
    assert json.loads((folder / "late/late" / STEPS[0] / "progress.json").read_text())["step"] == 2
    resumed(rows, folder, "from late", first=3)


def test_a_checkpoint_that_cannot_be_written_ends_the_training_at_the_next_on_all_ranks(rows, folder):
    *trained, last = rows["full"]
    assert steps(trained) == [1, 2, 3, 4, 5, 6] and last["kind"] is RefusedOnAllRanks
    line = f"checkpoint {STEPS[1]} cannot be written to {folder / 'full/full'} ([Errno 28] No space left on device); make room there"
    assert last["refused"].startswith(line)
    resumed(rows, folder, "from full", first=3)
