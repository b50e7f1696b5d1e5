"""The storage: its default folder, how its folder is recognised, where in it a result lies whose path was recorded elsewhere, and which
of its releases is the latest."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any, NamedTuple

from mirepoix.models.errors import Refused
from mirepoix.serving.heartbeat import place_of, storage_of
from mirepoix.serving.store import KEY, RUN_NAME, absolute, is_local, join, list_names, local_path, read, read_manifest

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


def storage_option(storage: str) -> str:
    """What a command that is printed needs at its end to use a storage; empty for the default one."""
    return "" if opened_storage(storage) == opened_storage(None) else f" --storage {shlex.quote(storage)}"


def opened_storage(storage: str | None) -> str:
    """The storage that is given, or the default one, as runs record it: a local one by its absolute path."""
    return absolute(storage or default_storage())


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


class Made(NamedTuple):
    """The release of a run of `add` or `remove`."""

    run: str  # the folder of the run
    release: str


def run_name_of(folder: str) -> str:
    return folder.partition("?")[0].rstrip("/").rpartition("/")[2]


def latest_release(storage: str) -> str:
    """The release of the latest run in a storage that made one and whose release is still there; else the only release in it.

    Of a run that only found its release up to date it is what `add` and `remove` have made of that one since.
    """
    for run, report in _reports(storage):
        if kept := _kept(run, report):
            changed = _changed(storage, run, report)
            return changed.release if changed else release_of(run) if len(kept) > 1 else next(iter(kept.values()))
    home = join(storage, "artefacts", "release")
    keys = [key for key in list_names(home) if not key.startswith(".")]
    found = [target for target in (join(home, key) for key in keys) if read_manifest(target) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"no run in {storage} says which of its {len(found)} releases is the latest; give one: {', '.join(found[:5])}")
    raise Refused(f"there is no release in the storage {storage}; make one with `mirepoix run`, or give the folder of one, or --storage")


def revised_since(storage: str, release: str) -> Made | None:
    """What `add` and `remove`, one after the other, have made of a release and what is still there of it; None where it is nothing."""
    revisions = [({*map(place_of, bases)}, made) for bases, made in _revisions(storage)]
    last, place = None, place_of(release)
    while made := next((made for bases, made in revisions if place in bases), None):
        revisions = [(bases, other) for bases, other in revisions if place not in bases]
        last, place = made, place_of(made.release)
    return last


def revised_before(storage: str, recipe: str, sources: Any, run: str | None = None) -> Made | None:
    """What `add` and `remove` made of the release of the last run of a recipe over some sources, before `run` if that is given.

    `sources` are their paths as a report has them. None where it is nothing.
    """
    reports = _reports(storage)
    if run is not None:
        reports = islice(dropwhile(lambda entry: run_name_of(entry[0]) != run_name_of(run), reports), 1, None)
    for _, report in reports:
        made = releases_of(report["stages"])
        of_these = report.get("recipe") == recipe and source_paths(report.get("settings")) == sources
        if len(made) == 1 and not _bases(report) and of_these:
            return revised_since(storage, *made.values())
    return None


def bases_of(release: str) -> list[str]:
    """A release, and those that it was made of by `add` and `remove`, the nearest first, as far as the runs of its storage say."""
    storage, place = storage_of(release), place_of(release)
    for run, report in _reports(storage) if storage else ():
        if _bases(report) and place in map(place_of, releases_of(report["stages"]).values()):
            return [release, *(present(base, run) for base in _bases(report))]
    return [release]


def _changed(storage: str, run: str, report: Mapping[str, Any]) -> Made | None:
    """The release of a run if `add` or `remove` made it: of the run itself, or of one that it only found up to date."""
    kept = _kept(run, report)
    if len(kept) != 1:
        return None
    ((name, release),) = kept.items()
    if _bases(report):
        return Made(run, release)
    return revised_since(storage, release) if name in _up_to_date(report) else None


def _revisions(storage: str) -> Iterator[tuple[list[str], Made]]:
    """The releases that `add` and `remove` made, each after those that it was made of, the newest first."""
    for run, report in _reports(storage):
        bases, kept = _bases(report), _kept(run, report)
        if bases and len(kept) == 1:
            yield bases, Made(run, *kept.values())


def _reports(storage: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The folders and reports of the runs in a storage, the newest first; none of those that are being removed or are damaged."""
    for name in run_names(storage):
        run = join(storage, "runs", name)
        if read(join(run, REMOVAL)) is None and (report := _report(read(join(run, "report.json")))):
            yield run, report


def _report(text: bytes | None) -> Mapping[str, Any]:
    """The content of report.json; empty where it is not there or is damaged."""
    with suppress(ValueError):
        content = json.loads(text) if text else None
        if isinstance(content, dict) and isinstance(content.get("stages"), list):
            return content
    return {}


def _kept(run: str, report: Mapping[str, Any]) -> dict[str, str]:
    """The releases of a run that are still there, by the name of their stage."""
    made = {name: present(target, run) for name, target in releases_of(report["stages"]).items()}
    return {name: target for name, target in made.items() if read_manifest(target) is not None}


def _bases(report: Mapping[str, Any]) -> list[str]:
    """The releases that a run of `add` or `remove` began with, itself or by other such runs, which may be gone; none for any other run."""
    return [*map(str, report.get("bases") or ())]


def source_paths(settings: Any) -> Any:
    """The paths of the sources in the settings of a report; None where it has none."""
    sources = settings.get("sources") if isinstance(settings, dict) else None
    return sources.get("path") if isinstance(sources, dict) else None


def _up_to_date(report: Mapping[str, Any]) -> set[str]:
    """The stages of a run that had nothing to do."""
    return {stage["name"] for stage in report["stages"] if stage.get("status") == "skipped"}


def release_of(target: str) -> str:
    """The folder of a release, from that folder itself or from the folder of a run that made one."""
    if read_manifest(target) is not None:
        return target
    report = read(join(target, "report.json"))
    if report is None:
        if any((Path(target).expanduser() / name).is_file() for name in ("config.json", "modules.json", "mirepoix.json")):
            raise Refused(f"{target} is a model, and a release has a corpus too; make one: mirepoix release {target} --corpus DIR")
        raise Refused(f"{target} is neither a release nor the folder of a run; give one of storage/artefacts/release/* or storage/runs/*")
    made = releases_of(_report(report).get("stages", ()))
    if len(made) > 1:
        named = ", ".join(f"{name.rpartition(':')[0]} {folder}" for name, folder in made.items())
        raise Refused(f"the run in {target} made {len(made)} releases; give the folder of one: {named}")
    if not made:
        raise Refused(f"the run in {target} made no release; run its recipe again, up to release")
    return present(next(iter(made.values())), target)
