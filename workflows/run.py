"""A recipe from its name to its report: config, cluster, stages, tracking, and the run's folder."""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirepoix.components.deploy import RECEIPT
from mirepoix.components.evaluate import POOLS
from mirepoix.components.report import render
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.cluster import connect, is_given, private_cluster
from mirepoix.workflows.config import describe, jsonable, override, read
from mirepoix.workflows.graph import Stage
from mirepoix.workflows.recipes import recipe
from mirepoix.workflows.retrieval import Retrieval, prepared, stages
from mirepoix.workflows.stage import Report, execute
from mirepoix.workflows.tracking import open_tracker


@dataclass(frozen=True)
class Order:
    """What a user asked to be run."""

    recipe: str
    overrides: tuple[str, ...] = ()
    config: Path | None = None
    storage: str = "storage"
    until: str | None = None
    start: str | None = None
    force: tuple[str, ...] = ()
    address: str | None = None
    private: bool = False  # on a cluster of its own, whatever RAY_ADDRESS says


@dataclass(frozen=True)
class Run:
    """How it ended, and where that is written."""

    report: Report
    folder: str
    config: Retrieval
    endpoint: str | None  # its URL, where it outlives the run


def settled(name: str, overrides: Sequence[str] = (), config: Path | None = None) -> Retrieval:
    """The config of a recipe, or of a file, with overrides."""
    return override(recipe(name) if config is None else read(config, Retrieval), overrides)


def plan(order: Order) -> Report:
    """What would run and why; nothing is run or written."""
    return _surveyed(order, stages(settled(order.recipe, order.overrides, order.config)))


def _surveyed(order: Order, graph: Sequence[Stage]) -> Report:
    try:
        return execute(graph, order.storage, order.until, order.start, order.force, plan=True)
    except OSError as error:
        raise _unusable(order.storage, "read", error) from error


def _unusable(storage: str, how: str, error: OSError) -> Refused:
    return Refused(f"storage {storage} cannot be {how} ({error.strerror or error}); give --storage a folder or URI of yours")


def run(order: Order, resources: ExitStack) -> Run:
    """Runs the order; the cluster stays up until `resources` are closed, and is not started where nothing has to run."""
    config = prepared(settled(order.recipe, order.overrides, order.config))
    graph = stages(config)
    folder = store.join(order.storage, "runs", f"{order.recipe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    _surveyed(order, graph)  # what is refused leaves no folder
    try:
        store.write(store.join(folder, "config.yaml"), describe(config).encode())
    except OSError as error:
        raise _unusable(order.storage, "written to", error) from error
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    tracker = open_tracker(order.storage, order.recipe, config)
    joins = not order.private and is_given(order.address)
    began = []

    def ensure_ray() -> None:
        if not began:
            began.append(True)
            resources.enter_context(connect(order.address) if joins else private_cluster())

    report = execute(graph, order.storage, order.until, order.start, order.force, tracker=tracker, ensure_ray=ensure_ray)
    told = _told(order, config, report, started)
    pages = {"report.json": json.dumps(told, indent=1, sort_keys=True) + "\n", "report.html": render(told)}
    for name, text in pages.items():
        store.write(store.join(folder, name), text.encode())
    tracker.attach(pages)
    return Run(report, folder, config, _endpoint(report, joins))


def _endpoint(report: Report, joined: bool) -> str | None:
    """The URL of the endpoint, unless it goes with a private cluster: one that stands is served by another cluster."""
    stage = report.stages.get("deploy")
    if stage is None or not (stage.status == "skipped" or (stage.status == "done" and joined)):
        return None
    return _read(stage.target, RECEIPT)["url"]


def _told(order: Order, config: Retrieval, report: Report, started: str) -> dict[str, Any]:
    """Everything that the report says: settings, data, figures by task, stages."""
    measured: dict[str, Any] = {}
    evaluation = report.stages.get("evaluate")
    if evaluation and evaluation.digest:
        found = _read(evaluation.target, "metrics.json")
        measured = {"headline": found["headline"], "results": found["results"]}
    data = report.stages.get("curate")
    return {
        "recipe": order.recipe,
        "run": started,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "data": {"digest": data.digest if data else "", "rows": data.rows if data else {}},
        "settings": jsonable(config),
        "stages": [{"name": name, **asdict(stage)} for name, stage in report.stages.items()],
        **measured,
    }


def _read(target: str, name: str) -> dict[str, Any]:
    manifest = store.read_manifest(target)
    home = target if store.is_local(target) or manifest is None else store.join(target, manifest.digest)
    content = store.read(store.join(home, name))
    assert content is not None, f"{target} has no {name}"
    return json.loads(content)


def table(run: Run) -> str:
    """Trained against untrained, per task, as the terminal shows it."""
    stage = run.report.stages.get("evaluate")
    if stage is None or not stage.digest:
        return ""
    found = _read(stage.target, "metrics.json")
    headline, measure = found["headline"], found["headline"]["measure"]
    figures = {(entry["pool"], entry["system"]): entry for entry in found["results"] if entry["split"] == headline["split"]}
    trained, untrained = (figures[headline["pool"], system] for system in ("trained", "untrained"))
    lines = [f"{measure} on {headline['split']}, {headline['pool']} pool", f"  {'task':<18}{'queries':>9}{'untrained':>11}{'trained':>9}"]
    for task, queries in trained["queries"].items():
        lines.append(f"  {task:<18}{queries:>9}{untrained[measure]['tasks'][task]:>11.3f}{trained[measure]['tasks'][task]:>9.3f}")
    for pool in (headline["pool"], *(pool for pool in POOLS if pool != headline["pool"])):
        before, after = (figures[pool, system][measure] for system in ("untrained", "trained"))
        spread = f"95 % interval {after['low']:.3f} to {after['high']:.3f}"
        lines.append(f"  {f'average, {pool}':<27}{before['average']:>11.3f}{after['average']:>9.3f}   ({spread})")
    return "\n".join(lines)


def ended(run: Run) -> int:
    """Says how the run ended; returns the exit status."""
    if text := table(run):
        print(f"\n{text}")
    print(f"\nreport    {store.join(run.folder, 'report.html')}")
    if run.endpoint:
        print(f"endpoint  {run.endpoint}")
    for name, stage in run.report.stages.items():
        if stage.status == "failed":
            print(f"mirepoix: stage {name} failed: {stage.error}", file=sys.stderr)
    missing = [name for name, stage in run.report.stages.items() if stage.status == "not run"]
    if missing:
        print(f"mirepoix: not run: {', '.join(missing)}", file=sys.stderr)
    return 0 if run.report.ok else 1


def release_of(target: str) -> str:
    """A release's folder from what a user gives: itself, or the folder of a run that made one."""
    if store.read_manifest(target) is not None:
        return target
    told = store.read(store.join(target, "report.json"))
    if told is None:
        raise Refused(f"{target} is neither a release nor the folder of a run; give one of storage/artefacts/release/* or storage/runs/*")
    stages_told = {stage["name"]: stage for stage in json.loads(told)["stages"]}
    if not stages_told.get("release", {}).get("digest"):
        raise Refused(f"the run in {target} made no release; run its recipe again, up to release")
    return stages_told["release"]["target"]
