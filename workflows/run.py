"""Runs a recipe: resolves its config, executes its stages on a cluster, tracks them, and writes the folder of the run."""

import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirepoix.components.evaluation.report import render
from mirepoix.components.publishing.receipt import RECEIPT
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows import results
from mirepoix.workflows.config import describe, jsonable
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.recipes.registry import Recipe, resolve
from mirepoix.workflows.runner.execute import Report, execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.tracking import open_tracker


@dataclass(frozen=True)
class RunRequest:
    """A recipe and the options with which it is run."""

    recipe: str
    overrides: tuple[str, ...] = ()
    config: Path | None = None
    storage: str = "storage"
    until: str | None = None
    start: str | None = None
    force: tuple[str, ...] = ()
    address: str | None = None
    private: bool = False  # on a cluster of its own, even if RAY_ADDRESS is set
    local: bool = False  # stages run in this process


@dataclass(frozen=True)
class Run:
    """The outcome of a run, and the folder that holds its report."""

    report: Report
    folder: str
    config: Any  # of the recipe, or of the revision
    endpoint: str | None  # the URL of an endpoint that is up after the run
    record: dict[str, Any]  # the content of report.json


def plan(request: RunRequest) -> Report:
    """Which stages would run, and why; nothing is run or written."""
    return plan_config(request, resolve(request.recipe, request.overrides, request.config))


def plan_config(request: RunRequest, config: Recipe | Revision) -> Report:
    """Which stages of a config would run, and why."""
    return _plan(request, config.stages())


def _plan(request: RunRequest, graph: Sequence[Stage]) -> Report:
    try:
        return execute(graph, request.storage, request.until, request.start, request.force, plan=True)
    except OSError as error:
        raise _unusable(request.storage, "read", error) from error


def _unusable(storage: str, how: str, error: OSError) -> Refused:
    return Refused(
        f"storage {storage} cannot be {how} ({error.strerror or error}); give --storage a folder or URI that you can read and write"
    )


def run(request: RunRequest, resources: ExitStack) -> Run:
    """Runs a recipe; its cluster is started when the first stage needs it, and stays up until `resources` are closed."""
    return run_config(request, resolve(request.recipe, request.overrides, request.config), resources)


def run_config(request: RunRequest, config: Recipe | Revision, resources: ExitStack) -> Run:
    """Runs the stages of a config; the recipe of the request names the run."""
    graph = config.stages()
    folder = store.join(request.storage, "runs", f"{request.recipe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    _plan(request, graph)  # a run that is refused leaves no folder
    try:
        store.write(store.join(folder, "config.yaml"), describe(config).encode())
    except OSError as error:
        raise _unusable(request.storage, "written to", error) from error
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    tracker = open_tracker(request.storage, request.recipe, config)
    joins = not request.private and bool(request.address or os.environ.get("RAY_ADDRESS") or _ray_is_up())
    connected: list[bool] = []

    def ensure_ray() -> None:
        if not connected:
            from mirepoix.workflows.cluster.ray_cluster import connect, private_cluster

            connected.append(True)
            resources.enter_context(connect(request.address) if joins else private_cluster())

    def parallel_arms() -> int:
        known = sys.modules["ray"].cluster_resources() if joins and _ray_is_up() else {}
        if not isinstance(config, Comparison):
            return 1
        return config.parallel_arms(known.get("CPU", os.cpu_count() or 1), known.get("GPU", 0))

    report = execute(
        graph,
        request.storage,
        request.until,
        request.start,
        request.force,
        tracker=tracker,
        ensure_ray=ensure_ray,
        parallel_arms=parallel_arms,
        local=request.local,
    )
    record = _record(request, config, report, started)
    pages = {"report.json": json.dumps(record, indent=1, sort_keys=True) + "\n", "report.html": render(record)}
    for name, text in pages.items():
        store.write(store.join(folder, name), text.encode())
    tracker.attach(pages, results.figures(record))
    return Run(report, folder, config, _endpoint(report, joins), record)


def _ray_is_up() -> bool:
    """Whether this process is connected to a Ray cluster; Ray is not imported to find out."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _endpoint(report: Report, joined: bool) -> str | None:
    """The URL of the endpoint if it is up after the run: one that was up to date before, or one on a cluster that was joined."""
    stage = report.stages.get("deploy")
    if stage is None or not (stage.status == "skipped" or (stage.status == "done" and joined)):
        return None
    return results.read(stage.target, RECEIPT)["url"]


def _record(request: RunRequest, config: Recipe | Revision, report: Report, started: str) -> dict[str, Any]:
    """The content of report.json: settings, data, results by task, stages."""
    data = report.stages.get("curate")
    return {
        "recipe": request.recipe,
        "run": started,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "data": {"digest": data.digest if data else "", "rows": data.rows if data else {}},
        "settings": jsonable(config),
        "stages": [{"name": name, **asdict(stage)} for name, stage in report.stages.items()],
        **results.gather(config, report),
    }


def print_outcome(run: Run, to_serve: bool = False) -> int:
    """Prints the results and the failures of a run, with `to_serve` also where its release is; returns the exit status."""
    if text := results.results_table(run.record):
        print(f"\n{text}")
    print(f"\nreport    {store.join(run.folder, 'report.html')}")
    if run.endpoint:
        print(f"endpoint  {run.endpoint}")
    if to_serve and run.report.ok:
        target = run.report.stages["release"].target
        print(f"release   {target}\nserve it  mirepoix serve {shlex.quote(target)}")
    for name, stage in run.report.stages.items():
        if stage.status == "failed":
            print(f"mirepoix: stage {name} failed: {stage.error}", file=sys.stderr)
    missing = [name for name, stage in run.report.stages.items() if stage.status == "not run"]
    if missing:
        print(f"mirepoix: not run: {', '.join(missing)}", file=sys.stderr)
    return 0 if run.report.ok else 1


def release_of(target: str) -> str:
    """The folder of a release, from that folder itself or from the folder of a run that made one."""
    if store.read_manifest(target) is not None:
        return target
    report = store.read(store.join(target, "report.json"))
    if report is None:
        if any((Path(target).expanduser() / name).is_file() for name in ("config.json", "modules.json", "mirepoix.json")):
            raise Refused(f"{target} is a model, and a release has a corpus too; make one: mirepoix release {target} --corpus DIR")
        raise Refused(f"{target} is neither a release nor the folder of a run; give one of storage/artefacts/release/* or storage/runs/*")
    made = {stage["name"]: stage["target"] for stage in json.loads(report)["stages"] if stage["digest"]}
    made = {name: folder for name, folder in made.items() if name.rpartition(":")[2] == "release"}
    if len(made) > 1:
        named = ", ".join(f"{name.rpartition(':')[0]} {folder}" for name, folder in made.items())
        raise Refused(f"the run in {target} made {len(made)} releases; give the folder of one: {named}")
    if not made:
        raise Refused(f"the run in {target} made no release; run its recipe again, up to release")
    return next(iter(made.values()))
