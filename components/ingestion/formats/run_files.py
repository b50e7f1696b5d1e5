"""Files that runs have written below a source: its storage, where a run is started in the folder of the corpus itself."""

import re
from collections.abc import Iterable

from mirepoix.serving.store import KEY, RUN_NAME

IN_STORAGE = frozenset({"artefacts", "runs", "leases", "work", "tmp", "logs", "mlflow", "mlflow.db"})
"""What runs write directly below a storage."""
_LEASE = re.compile(r"\.lock|(?:driver|key|serve)-.+\.json")


def storages_among(names: Iterable[str]) -> set[str]:
    """The folders that are storages, by the names of files and folders below a common one, which may itself be one: the empty name.

    A storage has a run, a result or a record of a process, each under a name that only runs give; or it has the default name and the first
    folders that a run makes.
    """
    found = set()
    for name in names:
        steps = name.split("/")
        for place, step in enumerate(steps):
            if step not in ("runs", "artefacts", "leases"):
                continue
            below = steps[place + 1 : place + 3]
            is_run = step == "runs" and below and RUN_NAME.fullmatch(below[0])
            is_result = step == "artefacts" and len(below) == 2 and KEY.fullmatch(below[1])
            is_lease = step == "leases" and below and _LEASE.fullmatch(below[0])
            if is_run or is_result or is_lease or steps[place - 1 : place] == ["storage"]:
                found.add("/".join(steps[:place]))
    return found


def in_storage(name: str, storages: Iterable[str]) -> bool:
    """Whether runs have written a file, by its name and the storages of the same folder."""
    for storage in storages:
        home = f"{storage}/" if storage else ""
        if name.startswith(home) and name[len(home) :].partition("/")[0].removesuffix("-wal").removesuffix("-shm") in IN_STORAGE:
            return True
    return False
