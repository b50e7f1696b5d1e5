"""The storage: its default folder, how its folder is recognised, and where in it a result lies whose path was recorded elsewhere."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.heartbeat import place_of
from mirepoix.serving.store import KEY, RUN_NAME, is_local, join, list_names, local_path, read_manifest

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets in the driver of a submitted job, and in no other process."""
REMOVAL = "removal.json"
"""In the folder of a run that `mirepoix gc` removes: from then on it is none."""


LOCK = ".lock"
"""In leases/: the lock file of a local storage, which stays when everything else is removed."""


def default_storage() -> str:
    """MIREPOIX_STORAGE, else ./storage; in a job, whose working directory is removed with it, a folder in the home."""
    if given := os.environ.get("MIREPOIX_STORAGE"):
        return given
    home = Path.home() / ".mirepoix" / "storage"
    return str(home if JOB_VARIABLE in os.environ else Path("storage").absolute())


def opened_storage(storage: str | None) -> str:
    """The storage that is given, or the default one, as runs record it: a local one by its absolute path."""
    given = storage or default_storage()
    return str(local_path(given)) if is_local(given) else given


def storage_beside(file: Path) -> str | None:
    """The storage beside a config, where none is named and the current folder has none: a run begins another one there."""
    if os.environ.get("MIREPOIX_STORAGE") or is_storage(default_storage()):
        return None
    beside = os.path.join(os.path.dirname(os.path.abspath(file.expanduser())), "storage")
    return beside if file.exists() and is_storage(beside) else None


def is_storage(storage: str) -> bool:
    """Whether a folder or URI holds what runs write: a run, a result or a driver's record, each under a name that only runs give."""
    with suppress(OSError):  # a file, or a folder that cannot be read
        if any(RUN_NAME.fullmatch(name) for name in list_names(join(storage, "runs"))):
            return True
        if any(name.endswith(".json") or name == LOCK for name in list_names(join(storage, "leases"))):
            return True
        stages = [join(storage, "artefacts", stage) for stage in list_names(join(storage, "artefacts"))]
        return any(KEY.fullmatch(name) for stage in stages for name in list_names(stage))
    return False


def refuse_other_folders(storage: str) -> None:
    """Refuses a folder that is no storage."""
    if not is_storage(storage):
        raise Refused(f"{storage} is no storage (no run and no result is in it); give --storage the folder or URI that runs were given")


def run_names(storage: str) -> list[str]:
    """The names of the folders of runs, the newest first; a folder that was renamed is none of them."""
    found = [match for name in list_names(join(storage, "runs")) if (match := RUN_NAME.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: (match["when"], match[0][-4:]), reverse=True)]


def releases_of(stages: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The releases that a run made, by the name of their stage, from the stages of its report: their targets as they were recorded."""
    return {stage["name"]: stage["target"] for stage in stages if stage["name"].rpartition(":")[2] == "release" and stage["digest"]}


def present(target: str, run: str) -> str:
    """A result as the report of a run names it or, where its storage was moved or restored elsewhere, in the storage of that folder."""
    place = place_of(target)
    if place is None or read_manifest(target) is not None:
        return target
    storage = _parent(_parent(run.rstrip("/")))
    moved = join(storage, place)
    return moved if read_manifest(moved) is not None else target


def _parent(target: str) -> str:
    if is_local(target):
        return str(local_path(target).parent)
    path, mark, query = target.partition("?")
    return path.rstrip("/").rpartition("/")[0] + mark + query
