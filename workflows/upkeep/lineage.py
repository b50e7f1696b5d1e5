"""The lineage of a release: the report of the run that made it, reduced to the stages and settings of that release."""

import json
from typing import Any, NamedTuple

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.config import read
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.run import release_of


class Lineage(NamedTuple):
    """The folder of a release, and the report of its run reduced to it, if a run was given."""

    release: str
    run: dict[str, Any] | None


def lineage(target: str, arm: str | None = None) -> Lineage:
    """The lineage of a release, given by its folder, or by the folder of its run and, in a comparison, by the arm."""
    text = store.read(store.join(target, "report.json"))
    report = json.loads(text) if text is not None else None
    if report is None or "arms" not in report:
        if arm is not None:
            raise Refused(f"arm is {arm!r}, and {target} compares no arms; leave it out")
        # A run of `add` or `remove` has neither the data nor the settings by which the encoder was made.
        made = None if report is None or "merge" in report.get("settings", {}) else report
        return Lineage(release_of(target), made)
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
