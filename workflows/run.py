"""A recipe from its name to its report: config, cluster, stages, tracking, and the run's folder."""

import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from mirepoix.components.evaluation.report import render
from mirepoix.components.publishing.deploy import RECEIPT
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows import results
from mirepoix.workflows.cluster.ray_cluster import connect, is_given, private_cluster
from mirepoix.workflows.config import describe, jsonable, override, read
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.recipes.registry import Recipe, recipe
from mirepoix.workflows.runner.execute import Report, execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.tracking import open_tracker


@dataclass(frozen=True)
class RunRequest:
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
    config: Recipe
    endpoint: str | None  # its URL, where it outlives the run
    told: dict[str, Any]  # what report.json says


def resolve(name: str, overrides: Sequence[str] = (), config: Path | None = None) -> Recipe:
    """The config of a recipe, or of a file that describes one of its kind, with overrides."""
    named = recipe(name)
    return override(named if config is None else read(config, type(named)), overrides)


def plan(order: RunRequest) -> Report:
    """What would run and why; nothing is run or written."""
    return _surveyed(order, resolve(order.recipe, order.overrides, order.config).stages())


def _surveyed(order: RunRequest, graph: Sequence[Stage]) -> Report:
    try:
        return execute(graph, order.storage, order.until, order.start, order.force, plan=True)
    except OSError as error:
        raise _unusable(order.storage, "read", error) from error


def _unusable(storage: str, how: str, error: OSError) -> Refused:
    return Refused(f"storage {storage} cannot be {how} ({error.strerror or error}); give --storage a folder or URI of yours")


def run(order: RunRequest, resources: ExitStack) -> Run:
    """Runs the order; the cluster stays up until `resources` are closed, and is not started where nothing has to run."""
    config = resolve(order.recipe, order.overrides, order.config).prepared()
    graph = config.stages()
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

    def room() -> int:
        there = ray.cluster_resources() if joins and ray.is_initialized() else {}
        return config.room(there.get("CPU", os.cpu_count() or 1), there.get("GPU", 0)) if isinstance(config, Comparison) else 1

    report = execute(graph, order.storage, order.until, order.start, order.force, tracker=tracker, ensure_ray=ensure_ray, room=room)
    told = _told(order, config, report, started)
    pages = {"report.json": json.dumps(told, indent=1, sort_keys=True) + "\n", "report.html": render(told)}
    for name, text in pages.items():
        store.write(store.join(folder, name), text.encode())
    tracker.attach(pages, results.figures(told))
    return Run(report, folder, config, _endpoint(report, joins), told)


def _endpoint(report: Report, joined: bool) -> str | None:
    """The URL of the endpoint, unless it goes with a private cluster: one that stands is served by another cluster."""
    stage = report.stages.get("deploy")
    if stage is None or not (stage.status == "skipped" or (stage.status == "done" and joined)):
        return None
    return results.read(stage.target, RECEIPT)["url"]


def _told(order: RunRequest, config: Recipe, report: Report, started: str) -> dict[str, Any]:
    """Everything that the report says: settings, data, figures by task, stages."""
    data = report.stages.get("curate")
    return {
        "recipe": order.recipe,
        "run": started,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "data": {"digest": data.digest if data else "", "rows": data.rows if data else {}},
        "settings": jsonable(config),
        "stages": [{"name": name, **asdict(stage)} for name, stage in report.stages.items()],
        **results.told(config, report),
    }


def ended(run: Run) -> int:
    """Says how the run ended; returns the exit status."""
    if text := results.results_table(run.told):
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
    made = {stage["name"]: stage["target"] for stage in json.loads(told)["stages"] if stage["digest"]}
    made = {name: place for name, place in made.items() if name.rpartition(":")[2] == "release"}
    if len(made) > 1:
        named = ", ".join(f"{name.rpartition(':')[0]} {place}" for name, place in made.items())
        raise Refused(f"the run in {target} made {len(made)} releases; give the folder of one: {named}")
    if not made:
        raise Refused(f"the run in {target} made no release; run its recipe again, up to release")
    return next(iter(made.values()))
