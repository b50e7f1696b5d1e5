"""The runs of a storage, read from their folders: how each ended, what it measured, which results it names, and whether it is kept."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from mirepoix.components.evaluation.evaluate_config import released
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.heartbeat import SERVED, is_alive, living, place_of, read_record
from mirepoix.workflows.runner.lease import ABANDONED_SECONDS, RUN_FILE
from mirepoix.workflows.storage import REMOVAL, releases_of

PIN, REPORT = "pin.json", "report.json"
READERS = 16
"""Threads that read small files of an object store."""
_PLACE = re.compile(r"artefacts/[^/\s\"]+/[0-9a-f]{16}(?![0-9a-f])")
Read = TypeVar("Read")
State = Literal["running", "done", "failed", "killed", "damaged", "being removed"]


@dataclass(frozen=True)
class StoredRun:
    """A folder of runs/, as far as it is needed to list the run and to decide what it needs."""

    name: str
    folder: str
    recipe: str
    state: State
    began: float
    ended: float  # of a run that goes on or was killed, when it was last heard of
    report: Mapping[str, Any] | None  # the content of report.json
    driver: Mapping[str, Any] | None  # the content of run.json
    pinned: bool
    read: tuple[str, ...]  # the results that its settings name, as artefacts/<stage>/<key>: an encoder, or the release that it adds to
    damage: str = ""  # which of its files cannot be read, and why

    @property
    def places(self) -> tuple[str, ...]:
        """The results that it made, relied on, began or read: artefacts/<stage>/<key>, wherever the storage was then."""
        return tuple(dict.fromkeys([*self.made, *self.read]))

    @property
    def made(self) -> tuple[str, ...]:
        """Those of its places that it made, relied on or began: without what it only read, such as the release that it adds to."""
        return tuple(dict.fromkeys(place for target in self._targets() if (place := place_of(target)) is not None))

    def _targets(self) -> Iterable[str]:
        yield from (stage["target"] for stage in self.stages)
        yield from (self.driver or {}).get("targets", ())

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        return [] if self.report is None else self.report["stages"]

    @property
    def released(self) -> dict[str, str]:
        """The releases that it made, by the name of their stage: their targets as they were recorded."""
        return releases_of(self.stages)

    @property
    def score(self) -> tuple[str, str, float] | None:
        """The arm (empty where there are none), the measure and the average of its headline; of a comparison those of the best arm."""
        if self.report is None:
            return None
        arms = self.report.get("arms") or {"": self.report}
        found = [
            (arm, headline["measure"], headline[released(headline)]["average"])
            for arm, results in arms.items()
            if (headline := results.get("headline"))
        ]
        return max(found, key=lambda score: score[2], default=None)


def read_runs(storage: str, timeout_s: float | None = None) -> list[StoredRun]:
    """All runs of a storage, the newest first; `timeout_s`: how long a driver of another machine may be silent."""
    home = store.join(storage, "runs")
    names = [name for name in store.list_names(home) if not name.startswith(".")]
    alive = {record["driver"] for record in living(storage, "driver", timeout_s)} if names else set()
    found = each(partial(_read_run, storage, alive, timeout_s), names, storage)
    return sorted((run for run in found if run is not None), key=lambda run: (run.began, run.name), reverse=True)


def each(read: Callable[[str], Read], names: Sequence[str], storage: str) -> list[Read]:
    """What is read for each name: on an object store by several threads, as each is a request."""
    if store.is_local(storage):
        return [read(name) for name in names]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, names))


def _read_run(storage: str, alive: set[str], timeout_s: float | None, name: str) -> StoredRun | None:
    """The run in a folder; None where it was removed meanwhile, and of a folder that is no run's. A run may have been renamed."""
    folder = store.join(storage, "runs", name)
    files = set(store.list_names(folder))
    named = store.RUN_NAME.fullmatch(name)
    if not files or not (named or {RUN_FILE, REPORT} & files):
        return None
    driver, lost_driver = _content(folder, RUN_FILE)
    if driver is not None and "driver" not in driver:
        driver, lost_driver = None, f"{RUN_FILE} names no driver"
    going = driver is not None and (driver["driver"] in alive or _lives(storage, driver["driver"], timeout_s))
    report, lost_report = _content(folder, REPORT)  # read after the record of the driver: one that is gone has written its report before
    if report is not None and not {"recipe", "stages"} <= set(report):
        return None
    damage = lost_report or ("" if report is not None else lost_driver)
    # Of a file that is cut off, the results that it still names.
    sources = (REPORT, RUN_FILE, "config.yaml") if damage else ("config.yaml",)
    settings = json.dumps(report.get("settings")) if report is not None else "\n".join(_text(folder, source) for source in sources)
    began = (report or {}).get("began") or (driver or {}).get("began") or _written(named, report)
    ended = (report or {}).get("ended") or (driver or {}).get("noted") or began
    if report is None and driver is not None:
        ended = max(ended, _last_sign(storage, driver))
    if REMOVAL in files:
        state: State = "being removed"
    elif damage:
        state = "damaged"
    elif report is not None:
        state = "done" if all(stage["status"] in ("done", "skipped") for stage in report["stages"]) else "failed"
    elif going or (driver is None and time.time() - began < ABANDONED_SECONDS):
        state = "running"
    else:
        state = "killed"
    recipe = report["recipe"] if report is not None else named["recipe"] if named else name
    read = tuple(dict.fromkeys(_PLACE.findall(settings)))
    return StoredRun(name, folder, recipe, state, began, ended, report, driver, PIN in files, read, damage)


def _written(named: re.Match[str] | None, report: Mapping[str, Any] | None) -> float:
    """When a run began whose record does not say it in seconds: by its report, or by the name of its folder."""
    if report is not None:
        return time.mktime(time.strptime(report["run"], "%Y-%m-%d %H:%M:%S"))
    return time.mktime(time.strptime(named["when"], "%Y%m%d-%H%M%S")) if named else time.time()


def _last_sign(storage: str, driver: Mapping[str, Any]) -> float:
    """When a run without a report was last at work: the last heartbeat of its driver, or the newest file of its scratch."""
    record = read_record(storage, "driver", driver["driver"]) or {}
    keys = [place.rpartition("/")[2] for target in driver.get("targets", ()) if (place := place_of(target)) is not None]
    return max([record.get("beat", 0.0), *(store.usage(store.join(storage, "work", key)).newest for key in keys)])


def _lives(storage: str, driver: str, timeout_s: float | None) -> bool:
    """Whether a driver lives that was not there when the records of all were read."""
    record = read_record(storage, "driver", driver)
    return record is not None and is_alive(record, timeout_s=timeout_s)


def _text(folder: str, name: str) -> str:
    return (store.read(store.join(folder, name)) or b"").decode(errors="replace")


def _content(folder: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """The object in a file of a run, None where the file is not there or cannot be read; and why it cannot be read."""
    text = store.read(store.join(folder, name))
    try:
        content = None if text is None else json.loads(text)
    except ValueError as error:
        return None, f"{name} cannot be read ({error})"
    return (content, "") if content is None or isinstance(content, dict) else (None, f"{name} holds no object")


def find_run(runs: Sequence[StoredRun], given: str, storage: str) -> StoredRun:
    """The run that is meant by its folder, its name, the beginning of its name, or `latest`."""
    if given == "latest":
        if not runs:
            raise Refused(f"there is no run in {storage}; give --storage the folder or URI that runs were given")
        return runs[0]
    name = given.partition("?")[0].rstrip("/").rpartition("/")[2]
    exact = [run for run in runs if run.name == name]
    found = exact or [run for run in runs if run.name.startswith(name)]
    if "/" in given and exact and not _same_folder(given, exact[0].folder):
        raise Refused(f"{given} is not in {storage}; give --storage the folder or URI that holds it")
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"{len(found)} runs begin with {name!r}: {', '.join(run.name for run in found[:5])}; give more of the name")
    if not runs:
        raise Refused(f"there is no run {given!r} in {storage}, and no other; give --storage the folder or URI that runs were given")
    known = ", ".join(run.name for run in runs[:5])
    raise Refused(f"there is no run {given!r} in {storage}; the newest are {known}; give one, or latest; `mirepoix runs` lists all")


def _same_folder(one: str, other: str) -> bool:
    if store.is_local(one) and store.is_local(other):
        return store.local_path(one).resolve() == store.local_path(other).resolve()
    return one.rstrip("/") == other


def servers(storage: str) -> dict[str, list[dict[str, Any]]]:
    """The records of the processes that serve a release of this storage, by its artefacts/<stage>/<key>; those of the dead do not count."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in living(storage, SERVED):
        if (place := place_of(record["target"])) is not None:
            found.setdefault(place, []).append(record)
    return found


def sizes(storage: str, places: Iterable[str]) -> dict[str, int | None]:
    """The bytes of each result, by its manifest; None where it is not there, or was never committed."""
    wanted = list(places)
    return dict(zip(wanted, each(partial(_size, storage), wanted, storage), strict=True))


def _size(storage: str, place: str) -> int | None:
    with suppress(store.Damaged):
        manifest = store.read_manifest(store.join(storage, *place.split("/")))
        if manifest is not None:
            return sum(file["size"] for file in manifest.files.values())
    return None


def on_disk(parts: Iterable[tuple[int, Sequence[store.SharedFile]]], going: bool = False) -> int:
    """The bytes of results on the disk, a file with several names once; of such that are `going`, only where all its names go.

    Each part is the bytes of a result, and those of its files that have several names.
    """
    total, names = 0, Counter[tuple[int, int]]()
    files: dict[tuple[int, int], store.SharedFile] = {}
    for size, shared in parts:
        total += size
        names.update(file.id for file in shared)
        files |= {file.id: file for file in shared}
    for id, file in files.items():
        total -= file.bytes * (names[id] - (not going or names[id] >= file.names))
    return total


def as_bytes(count: int) -> str:
    """A number of bytes as text: 812 B, 1.2 MB, 34 GB."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 9.95 else f"{number:.1f} {unit}"
