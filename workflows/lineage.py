"""What a run tells of one of its releases: its report, as if nothing but that release had been made."""

import json
from typing import Any, NamedTuple

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.config import read
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.run import release_of


class Lineage(NamedTuple):
    """Where a release is, and what the report of its run says of it, if a run was given."""

    release: str
    run: dict[str, Any] | None


def lineage(target: str, arm: str | None = None) -> Lineage:
    """Of a release, or of the folder of a run; of a comparison, the release of an arm."""
    told = store.read(store.join(target, "report.json"))
    report = json.loads(told) if told is not None else None
    if report is None or "arms" not in report:
        if arm is not None:
            raise Refused(f"an arm is named, {arm!r}, and {target} is no comparison of several; leave --arm out")
        return Lineage(release_of(target), report)
    config = read((store.read(store.join(target, "config.yaml")) or b"").decode(), Comparison)
    if arm is None and len(config.chosen) == 1:
        (arm,) = config.chosen
    if arm not in config.chosen:
        given = "no arm is named" if arm is None else f"there is no arm {arm!r}"
        raise Refused(f"{given}; {target} compares {', '.join(config.chosen)}: name one as --arm ARM")
    placed, stages = config.placed, {stage["name"]: stage for stage in report["stages"]}
    own = {name.partition(":")[2]: stages[place] for name, place in placed.items() if name.startswith(f"{arm}:") and place in stages}
    if not own.get("release", {}).get("digest"):
        raise Refused(f"the arm {arm} of the run in {target} made no release; run its recipe again, up to release")
    shared = {name: stage for name, stage in stages.items() if ":" not in name and name != "deploy"}
    settings = {**report["settings"], **{name: value for name, value in report["settings"]["arms"][arm].items() if value is not None}}
    settings.pop("arms")
    report |= {"settings": settings, "stages": [{**stage, "name": name} for name, stage in {**shared, **own}.items()]}
    return Lineage(own["release"]["target"], {**report, **report.pop("arms")[arm]})
