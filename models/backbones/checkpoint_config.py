"""The name of a checkpoint and the kind of model that it holds; `checkpoints.py` opens it."""

from pathlib import Path
from typing import Literal, NamedTuple

from mirepoix.models.errors import Refused

Kind = Literal["multimodal", "text", "vision"]


class Checkpoint(NamedTuple):
    """Where weights come from: a folder, or a hub id at a revision; and what the user allows of it."""

    name: str | Path
    revision: str | None = None
    base: str | None = None  # the model under an adapter, in place of the one that the adapter names
    trust_remote_code: bool = False  # whether code that it brings may be run
    ignore: tuple[str, ...] = ()  # what it says about how it is read, and is not obeyed


def folder_fingerprint(name: str) -> str | None:
    """Names, sizes and times of the files of a checkpoint folder; None for a hub id."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")):
            raise Refused(f"backbone folder {name} is not there; give an existing checkpoint folder, a hub id, or tiny")
        return None
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "; ".join(f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
