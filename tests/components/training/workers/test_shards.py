"""A shard of a checkpoint is whole as it was written, and any change of its files is found."""

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from mirepoix.components.training.workers.shards import Shard, damage

NUMBERS = torch.arange(1000.0)


def write(folder: Path, target: Path, world: int = 2) -> Path:
    for rank in range(world):
        own = folder / f"of {rank}"
        own.mkdir(parents=True)
        (own / f"script {rank}.py").write_text("print()")
        Shard(rank, world, own, {f"engine/{rank}.pt": {"numbers": NUMBERS + rank}}).write(fs.LocalFileSystem(), str(target))
    return target


def found(target: Path, world: int = 2) -> list[str | None]:
    return [damage(target, rank, world) for rank in range(world)]


def test_a_checkpoint_is_whole_as_it_was_written(tmp_path):
    target = write(tmp_path, tmp_path / "checkpoint")
    assert found(target) == [None, None] and found(target, 1) == [None] and found(target, 3) == [None, None, None]
    assert torch.equal(torch.load(target / "engine/1.pt")["numbers"], NUMBERS + 1)
    assert (target / "script 0.py").read_text() == "print()"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace(path: Path) -> None:
    """A manifest with another hash, as its file would have it, in which only its own digest is wrong."""
    content = json.loads(path.read_bytes())
    content["files"]["engine/1.pt"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("engine/1.pt", flip, "engine/1.pt has other content than was written"),
        ("engine/1.pt", cut, r"engine/1\.pt has \d+ bytes of \d+"),
        ("engine/1.pt", Path.unlink, "engine/1.pt is missing"),
        ("script 1.py", flip, "script 1.py has other content than was written"),
        ("manifest-00001-of-00002.json", flip, "manifest-00001-of-00002.json is not what was written"),
        ("manifest-00001-of-00002.json", cut, "manifest-00001-of-00002.json is not what was written"),
        ("manifest-00001-of-00002.json", replace, "manifest-00001-of-00002.json is not what was written"),
    ],
)
def test_a_changed_file_is_found_by_the_rank_whose_share_it_is(tmp_path, name: str, change: Callable[[Path], None], fault: str):
    target = write(tmp_path, tmp_path / "checkpoint")
    change(target / name)
    first, second = found(target)
    assert first is None and re.fullmatch(fault, second or "")
    assert re.fullmatch(fault, found(target, 1)[0] or "")


def test_a_checkpoint_without_a_rank_is_not_whole(tmp_path):
    target = write(tmp_path, tmp_path / "checkpoint")
    (target / "manifest-00000-of-00002.json").unlink()
    assert found(target) == ["manifest-00000-of-00002.json is missing"] * 2
    (target / "manifest-00001-of-00002.json").unlink()
    assert found(target) == ["it has no manifest"] * 2
    assert damage(tmp_path / "nowhere", 0, 1) == "it has no manifest"


def test_a_disk_without_room_is_named_and_leaves_no_manifest(tmp_path):
    (tmp_path / "own").mkdir()
    shard = Shard(0, 1, tmp_path / "own", {"engine/0.pt": torch.zeros(3_000_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            shard.write(fs.LocalFileSystem(), str(tmp_path / "checkpoint"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert damage(tmp_path / "checkpoint", 0, 1) == "it has no manifest"
