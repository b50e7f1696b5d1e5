"""The lineage of a release: the report of the run that made it, reduced to the stages and settings of that release.

That of a release to which items were added, or from which some were removed, is the lineage of the one that it was made of: the encoder is
that one's, and the run has neither the data nor the settings by which it was made.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.config import read
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.storage import present, release_of, run_names


class Lineage(NamedTuple):
    """The folder of a release, and the report of its run reduced to it, if a run was given."""

    release: str
    run: dict[str, Any] | None


class Maker(NamedTuple):
    """A run that made a release or relied on it: its folder, its report, and the arm that the release is of, empty where there are none."""

    run: str
    report: dict[str, Any]
    arm: str


def lineage(target: str, arm: str | None = None) -> Lineage:
    """The lineage of a release, given by its folder, or by the folder of its run and, in a comparison, by the arm."""
    text = store.read(store.join(target, "report.json"))
    report = json.loads(text) if text is not None else None
    if report is None or "arms" not in report:
        if arm is not None:
            raise Refused(f"arm is {arm!r}, and {target} compares no arms; leave it out")
        revised = (report or {}).get("settings", {}).get("merge")
        return Lineage(release_of(target), report if revised is None else _lineage_of(present(revised["release"], target)))
    config = read((store.read(store.join(target, "config.yaml")) or b"").decode(), Comparison)
    if arm is None and len(config.chosen) == 1:
        (arm,) = config.chosen
    if arm not in config.chosen:
        given = "no arm is named" if arm is None else f"there is no arm {arm!r}"
        raise Refused(f"{given}; {target} compares {', '.join(config.chosen)}: give one as --arm ARM, or in Python as arm=")
    executed_as, stages = config.executed_as, {stage["name"]: stage for stage in report["stages"]}
    own = {name.partition(":")[2]: stages[done] for name, done in executed_as.items() if name.startswith(f"{arm}:") and done in stages}
    if not own.get("release", {}).get("digest"):
        raise Refused(f"the arm {arm} of the run in {target} made no release; run its recipe again, up to release")
    shared = {name: stage for name, stage in stages.items() if ":" not in name and name != "deploy"}
    settings = {**report["settings"], **{name: value for name, value in report["settings"]["arms"][arm].items() if value is not None}}
    settings.pop("arms")
    report |= {"settings": settings, "stages": [{**stage, "name": name} for name, stage in {**shared, **own}.items()]}
    return Lineage(own["release"]["target"], {**report, **report.pop("arms")[arm]})


def _lineage_of(release: str) -> dict[str, Any] | None:
    """The report in the lineage of a release, by the runs that its storage has; None where none of them made it."""
    maker = next(makers(release), None)
    return None if maker is None else lineage(maker.run, maker.arm or None).run


def makers(release: str, runs: Iterable[str] | None = None) -> Iterator[Maker]:
    """Those of some runs that have made a release, or relied on it; of all in its storage if none are given, the newest first."""
    for run in _runs_beside(release) if runs is None else runs:
        report = json.loads(store.read(store.join(run, "report.json")) or b"{}")
        stage = next((each for each in report.get("stages", ()) if each["digest"] and _same(each["target"], release)), None)
        if stage is not None:
            yield Maker(run, report, stage["name"].rpartition(":")[0])


def _runs_beside(target: str) -> list[str]:
    """The folders of the runs in the storage of a release, the newest first."""
    path, mark, query = target.partition("?") if not store.is_local(target) else (target, "", "")
    home, names = path.rstrip("/").split("/")[:-3], path.rstrip("/").split("/")[-3:-1]
    if names != ["artefacts", "release"]:
        return []
    storage = ("/".join(home) or ("/" if path.startswith("/") else ".")) + mark + query
    return [store.join(storage, "runs", name) for name in run_names(storage)]


def _same(one: str, other: str) -> bool:
    """Whether two targets are one release: the same key, wherever its storage is reached."""
    return one.partition("?")[0].rstrip("/").split("/")[-2:] == other.partition("?")[0].rstrip("/").split("/")[-2:]
