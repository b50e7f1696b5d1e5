"""A rank's shard of a checkpoint: its files, written with their hashes in a manifest, and verified by it.

<checkpoint>/manifest-00000-of-00002.json   {"digest": hash of "files", "files": {"engine/..._states.pt": {"size": 9, "sha256": "..."}}}

A checkpoint is whole when the manifests of all ranks that wrote it are there, and all files are those of the manifests. It needs no other
mark: one that was torn by a kill, by a full disk or by a storage that lost something is known by what it holds.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from pyarrow import fs

MANIFEST = re.compile(r"manifest-(?P<rank>\d{5})-of-(?P<world>\d{5})\.json")
CHUNK = 1 << 22


@dataclass(frozen=True)
class Shard:
    """A rank's part of a checkpoint before it is written: a folder's files as they are, and states for `torch.save` by file name."""

    rank: int
    world: int
    folder: Path
    states: Mapping[str, Any]

    def write(self, filesystem: fs.FileSystem, target: str) -> None:
        """Writes all files, and then the manifest, without which none of them counts."""
        files = {}
        for name, state in self.states.items():
            with _HashedFile(filesystem, target, name) as file:
                _save(state, file)
            files[name] = file.entry
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            with _HashedFile(filesystem, target, path.relative_to(self.folder).as_posix()) as file:
                for chunk in _chunks(path):
                    file.write(chunk)
            files[file.name] = file.entry
        with _HashedFile(filesystem, target, manifest_name(self.rank, self.world)) as file:
            file.write(json.dumps({"digest": _digest(files), "files": files}).encode())


def manifest_name(rank: int, world: int) -> str:
    return f"manifest-{rank:05d}-of-{world:05d}.json"


def damage(folder: Path, rank: int, world: int) -> str | None:
    """What is wrong with a rank's share of the files of a checkpoint; None if they are those that were written.

    The share of a rank of a world of the same size is what it wrote itself.
    """
    found = [match for match in map(MANIFEST.fullmatch, sorted(path.name for path in folder.glob("*"))) if match]
    if not found:
        return "it has no manifest"
    names = [manifest_name(each, int(found[0]["world"])) for each in range(int(found[0]["world"]))]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    return next((fault for name in names[rank::world] for fault in _faults(folder, name)), None)


def _faults(folder: Path, manifest: str) -> Iterator[str]:
    try:
        content = json.loads((folder / manifest).read_bytes())
        files = content["files"]
        whole = content["digest"] == _digest(files)
    except (OSError, ValueError, KeyError, TypeError):
        whole, files = False, {}
    if not whole:
        yield f"{manifest} is not what was written"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != entry["size"]:
            yield f"{name} has {path.stat().st_size} bytes of {entry['size']}"
        elif _sha256(path) != entry["sha256"]:
            yield f"{name} has other content than was written"


def _digest(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _save(state: Any, file: "_HashedFile") -> None:
    try:
        torch.save(state, cast(IO[bytes], file))
    except RuntimeError as error:  # torch says that writing failed, and not why
        raise file.error or error from None


class _HashedFile:
    """A file of a checkpoint that is hashed while it is written; on a local disk when it is closed."""

    def __init__(self, filesystem: fs.FileSystem, target: str, name: str):
        self.name = name
        self.error: OSError | None = None
        self._path = f"{target}/{name}"
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self._digest, self._size = hashlib.sha256(), 0
        filesystem.create_dir(self._path.rpartition("/")[0])
        self._file = filesystem.open_output_stream(self._path, buffer_size=CHUNK)

    @property
    def entry(self) -> dict[str, Any]:
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """For `torch.save`; closing flushes."""

    def __enter__(self) -> "_HashedFile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        if self._local:
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())
