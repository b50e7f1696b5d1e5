"""Runs a recipe: resolves its config, executes its stages on a cluster, tracks them, and writes the folder of the run."""

import json
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.components.evaluation.reports.report import render
from mirepoix.components.evaluation.reports.wording import helped
from mirepoix.components.publishing.receipt import RECEIPT, Receipt, answers
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.checks.problem import CannotSucceed, Problem
from mirepoix.workflows.cluster.machine import Machine, this_machine
from mirepoix.workflows.config import jsonable, override
from mirepoix.workflows.dag import results
from mirepoix.workflows.dag.boards import notes
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.dag.retrieval import CHECK, TRAININGS, Retrieval
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.recipes.registry import Recipe, described, recipe_name, resolve
from mirepoix.workflows.runner.execute import Report, execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.runner.progress import LINE, Display, Output, fitted, write_event
from mirepoix.workflows.runner.tracking import open_tracker
from mirepoix.workflows.storage import bases_of, releases_of, revised_before, revised_since, run_name_of, source_paths, storage_option

if TYPE_CHECKING:
    from mirepoix.workflows.cluster.doctor import MachineCheck


@dataclass(frozen=True)
class RunRequest:
    """A recipe, or a file that names its recipe, and the options with which it is run."""

    recipe: str
    overrides: tuple[str, ...] = ()
    config: Path | None = None
    storage: str = "storage"
    until: str | None = None
    start: str | None = None
    force: tuple[str, ...] = ()
    address: str | None = None
    private: bool = False  # on a cluster of its own, even if RAY_ADDRESS is set, on which the caller uses the endpoint
    local: bool = False  # stages run in this process
    given: Recipe | None = None  # the config itself, of which `recipe` is but the name then

    def resolved(self) -> Recipe:
        """The config that is run."""
        return self.given if self.given is not None else resolve(self.recipe, self.overrides, self.config)


@dataclass(frozen=True)
class Run:
    """The outcome of a run, and the folder that holds its report."""

    report: Report
    folder: str
    config: Any  # of the recipe, or of the revision
    storage: str
    endpoint: str | None  # the URL of an endpoint that is up after the run
    record: dict[str, Any]  # the content of report.json


def plan(request: RunRequest) -> tuple[Report, list[Problem]]:
    """Which stages would run, and why, and the reasons for which they cannot succeed here; nothing is run or written."""
    return plan_config(request, request.resolved())


def plan_config(request: RunRequest, config: Recipe | Revision) -> tuple[Report, list[Problem]]:
    """Which stages of a config would run, and why, and the reasons for which they cannot succeed here."""
    graph, planned = _graph(request, config)
    return planned, _problems(request, graph, planned)


def _graph(request: RunRequest, config: Recipe | Revision) -> tuple[Sequence[Stage], Report]:
    """The stages of a config, and their plan.

    Where nothing is evaluated, the corpus is not asked for what evaluation takes, unless it was found to have that before.
    """
    stages = config.stages()
    if not request.private and not _joins(request):  # the cluster ends with the run: what has answered is not started only to end
        stages = [replace(stage, valid=None) if stage.step == "deploy" else stage for stage in stages]
    planned = _plan(request, stages)
    planned = replace(planned, notes=notes(stages))
    check = planned.stages.get(CHECK)
    if check is None or check.status == "skipped" or any(name.rpartition(":")[2] == "evaluate" for name in planned.stages):
        return stages, planned
    stages = [replace(stage, config=stage.config.without_evaluation()) if stage.step == CHECK else stage for stage in stages]
    return stages, replace(_plan(request, stages), notes=planned.notes)


def diagnose(request: RunRequest) -> "list[MachineCheck]":
    """What `doctor` says of a recipe: the problems that a run of it would be refused for, or that there are none."""
    from mirepoix.workflows.cluster.doctor import MachineCheck  # and a client of HTTP, which no run waits for

    what = f"recipe {request.recipe}"
    try:
        planned, problems = plan(request)
    except Refused as refusal:
        told = (line.partition("; ") for line in str(refusal).splitlines())
        return [MachineCheck(what, "fail", said, advice) for said, _, advice in told]
    if problems:
        return [MachineCheck(what, "fail", f"{problem.given}, and {problem.there}", problem.cure) for problem in problems]
    to_run = sum(report.status != "skipped" for report in planned.stages.values())
    return [MachineCheck(what, "ok", f"nothing is in the way of its {len(planned.stages)} stages, of which {to_run} would run")]


def _problems(request: RunRequest, graph: Sequence[Stage], planned: Report) -> list[Problem]:
    """What the config and the machine show to be impossible, of the stages that would run."""
    from mirepoix.workflows.checks.preflight import Preflight, stages_that_run

    running = stages_that_run(graph, planned, request.storage)
    if not running:
        return []
    chosen = [stage for stage in graph if stage.name in planned.stages]
    waiting = frozenset(name for name, report in planned.stages.items() if report.status != "skipped" and name not in running)
    return Preflight(chosen, running, request.storage, _machine(request), waiting=waiting).problems()


def _machine(request: RunRequest) -> Machine:
    """Where the stages would run: on the cluster that is joined, else on this machine."""
    if not _joins(request):
        return this_machine()
    from mirepoix.workflows.cluster.resources import cluster_at

    return cluster_at(request.address or os.environ.get("RAY_ADDRESS"))


def _joins(request: RunRequest) -> bool:
    return not request.private and bool(request.address or os.environ.get("RAY_ADDRESS") or _ray_is_up())


def _plan(request: RunRequest, graph: Sequence[Stage]) -> Report:
    try:
        return execute(graph, request.storage, request.until, request.start, request.force, plan=True)
    except OSError as error:
        raise _unusable(request.storage, "read", error) from error


def _unusable(storage: str, how: str, error: OSError) -> Refused:
    return Refused(
        f"storage {storage} cannot be {how} ({error.strerror or error}); give --storage a folder or URI that you can read and write"
    )


def run(request: RunRequest, resources: ExitStack, display: Display | None = None) -> Run:
    """Runs a recipe; its cluster is started when the first stage needs it, and stays up until `resources` are closed."""
    return run_config(request, request.resolved(), resources, display)


def run_config(request: RunRequest, config: Recipe | Revision, resources: ExitStack, display: Display | None = None) -> Run:
    """Runs the stages of a config; the recipe of the request names the run."""
    graph, planned = _graph(request, config)
    name = recipe_name(request.recipe)
    folder = store.join(request.storage, "runs", _name_of(name, time.time()))
    if problems := _problems(request, graph, planned):  # a run that is refused leaves no folder
        raise CannotSucceed(problems)
    try:
        store.write(store.join(folder, "config.yaml"), described(name, config).encode())
    except OSError as error:
        raise _unusable(request.storage, "written to", error) from error
    began = time.time()
    tracker = open_tracker(request.storage, name, config)
    joins = _joins(request)
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

    if display is not None:
        display.open(recipe=name, run=folder, storage=request.storage, stages=list(planned.stages))
        display.fit(planned.stages)
        for note in planned.notes:
            display.note(note)
    with Driver(store.absolute(request.storage), folder=folder) as driver:  # until the report is written, which names what the run needs
        report = execute(
            graph,
            request.storage,
            request.until,
            request.start,
            request.force,
            tracker=tracker,
            display=display,
            ensure_ray=ensure_ray,
            parallel_arms=parallel_arms,
            local=request.local,
            driver=driver,
        )
        record = _record(request, config, report, began, folder)
        page_of = render(record, results.galleries(config, report))
        pages = {"report.json": json.dumps(record, indent=1, sort_keys=True) + "\n", "report.html": page_of}
        for page, text in reversed(pages.items()):  # the report that others read last: with it, the run is over
            store.write(store.join(folder, page), text.encode())
    tracker.attach(pages, results.figures(record))
    return Run(report, folder, config, request.storage, _endpoint(report, joins), record)


def _name_of(recipe: str, began: float) -> str:
    """The name of a run, whose end is the fraction of its second, so that names are in the order in which their runs began."""
    return f"{recipe}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(began))}-{int(began % 1 * 65536):04x}"


def _ray_is_up() -> bool:
    """Whether this process is connected to a Ray cluster; Ray is not imported to find out."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _endpoint(report: Report, joined: bool) -> str | None:
    """The URL of the endpoint if it is up after the run: one that was up before and answers, or one on a cluster that was joined."""
    stage = report.stages.get("deploy")
    if stage is None or not (stage.status == "skipped" or (stage.status == "done" and joined)):
        return None
    receipt = Receipt(**results.read(stage.target, RECEIPT))
    return receipt.url if stage.status == "done" or answers(receipt) else None


def _record(request: RunRequest, config: Recipe | Revision, report: Report, began: float, folder: str) -> dict[str, Any]:
    """The content of report.json: settings, data, results by task, stages, releases, and the commands that follow."""
    data = report.stages.get("curate")
    found = results.gather(config, report)
    stages = [{"name": name, **asdict(stage)} for name, stage in report.stages.items()]
    made = releases_of(stages)
    return {
        "recipe": recipe_name(request.recipe),
        "run": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)),
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "began": began,
        "ended": time.time(),
        "data": {"digest": data.digest if data else "", "rows": data.rows if data else {}},
        "settings": jsonable(config),
        "stages": stages,
        "releases": [
            {
                "arm": name.rpartition(":")[0],
                "version": _version(target),
                "target": target,
                "serve": f"mirepoix serve {shlex.quote(target)}" if len(made) > 1 else f"mirepoix serve {shlex.quote(folder)} --open",
            }
            for name, target in made.items()
        ],
        **({"bases": bases_of(config.merge.release)} if isinstance(config, Revision) else {}),
        "commands": _commands(request, config, report, folder, found.get("headline", {})),
        **found,
    }


def _commands(request: RunRequest, config: Recipe | Revision, report: Report, folder: str, headline: Mapping[str, Any]) -> dict[str, str]:
    """What to run next: what writes each row that was left out; where the training did not help, what releases the model without it."""
    found, file = {}, shlex.quote(store.join(folder, "config.yaml"))
    if results.left_out(report.stages) and getattr(config.sources, "path", None):
        found["rows"] = f"mirepoix validate {file} --copies --out rows.csv"
    if isinstance(config, Retrieval) and not helped(headline):
        words = [f"{name}=null" for name in TRAININGS if getattr(config, name) is not None]
        with suppress(Refused):  # settings that only a training has, or a recipe that is known in this process alone
            override(config, words)
            resolve(recipe_name(request.recipe))
            found["untrained"] = f"mirepoix run {file} {' '.join(words)}{storage_option(request.storage)}"
    return found


def print_plan(planned: Report, output: Output = "text", problems: Iterable[Problem] = (), *notes: str) -> int:
    """Prints which stages would run, and why, notes, and the reasons for which they cannot succeed; returns the exit status."""
    width = max(16, *map(len, planned.stages))
    states = {"skipped": "up to date", "not run": "runs"}
    for name, stage in planned.stages.items():
        verb = "may run" if stage.reason.startswith("may run") else states[stage.status]
        reason = "" if verb == "up to date" else stage.reason.removeprefix("may run: ")
        if output == "json":
            write_event("plan", stage=name, state=verb, reason=reason)
        else:
            print(f"{name:<{width}} {verb:<10} {fitted(reason, LINE - width - 12)}".rstrip())
    for note in filter(None, (*planned.notes, *notes)):
        if output == "json":
            write_event("note", text=note)
        else:
            print(_labelled("note", note))
    for problem in problems:
        if output == "json":
            write_event("problem", **asdict(problem))
        else:
            print(f"mirepoix: {problem}", file=sys.stderr)
    return 2 if problems else 0


def print_outcome(run: Run, to_serve: bool = False, output: Output = "text") -> int:
    """Prints what became of the corpus, results, failures, and the release and how to serve it, with `to_serve` by its own folder.

    Returns the exit status.
    """
    failures = {name: stage.error for name, stage in run.report.stages.items() if stage.status == "failed"}
    missing = [name for name, stage in run.report.stages.items() if stage.status == "not run"]
    made = releases_of(run.record["stages"])
    if output == "json":
        write_event(
            "end",
            ok=run.report.ok,
            run=run.folder,
            report=store.join(run.folder, "report.json"),
            scores=results.scores(run.record),
            releases=made,
            endpoint=run.endpoint,
            failures=failures,
            not_run=missing,
            seconds=round(run.record["ended"] - run.record["began"], 3),
        )
        return 0 if run.report.ok else 1
    counted = results.searchable(run.report.stages)
    if lines := [*counted, *filter(None, [results.results_table(run.record)])]:
        print("", *lines, sep="\n")
    print(f"\nreport    {store.join(run.folder, 'report.html')}")
    commands = run.record["commands"]
    if made and "rows" in commands:
        print(f"each row  {commands['rows']}")
    if run.endpoint:
        print(f"endpoint  {run.endpoint}")
    for name, target in made.items():
        print("release   " + "  ".join(filter(None, [name.rpartition(":")[0], _version(target), target])))
    if changed := _revised(run, made):
        print(_labelled("revised", changed))
    if to_serve and made and run.report.ok:
        print(f"serve it  mirepoix serve {shlex.quote(next(iter(made.values())))}")
    elif len(made) == 1 and not run.endpoint:
        print(f"serve it  mirepoix serve {shlex.quote(run.folder)} --open")
    if made and "untrained" in commands:
        print(f"untrained {commands['untrained']}")
    for name, why in failures.items():
        print("\n  ".join(textwrap.wrap(f"mirepoix: stage {name} failed: {why}", LINE - 2, break_on_hyphens=False)), file=sys.stderr)
    if missing:
        print("\n  ".join(textwrap.wrap(f"mirepoix: not run: {', '.join(missing)}", LINE - 2, break_on_hyphens=False)), file=sys.stderr)
    return 0 if run.report.ok else 1


def _labelled(label: str, text: str) -> str:
    """A text behind its label, wrapped to the width of a line; no word is broken, which may be a path to copy."""
    wrapper = textwrap.TextWrapper(LINE, f"{label:<10}", " " * 10, break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(text)


_ALONE = "of the sources alone, without what add or remove changed in the one before"


def _revised(run: Run, made: Mapping[str, str]) -> str:
    """What to know where `add` or `remove` changed what this run made before, which reads its sources again; empty where they did not."""
    if isinstance(run.config, Revision) or len(made) != 1:
        return ""
    ((name, release),) = made.items()
    if run.report.stages[name].status == "skipped":
        since = revised_since(run.storage, release)
        told = "add or remove changed this release since; `mirepoix serve` without a name serves the changed one, of"
        return f"{told} {run_name_of(since.run)}" if since else ""
    before = revised_before(run.storage, run.record["recipe"], source_paths(run.record["settings"]), run.folder)
    return f"this release is {_ALONE}; that is: mirepoix serve {shlex.quote(before.run)}" if before else ""


def to_be_revised(request: RunRequest, config: Recipe, planned: Report) -> str:
    """What to know before a run that makes a release anew which `add` or `remove` changed; empty where they did not."""
    anew = [name for name, stage in planned.stages.items() if name.rpartition(":")[2] == "release" and stage.status != "skipped"]
    before = revised_before(request.storage, recipe_name(request.recipe), source_paths(jsonable(config))) if len(anew) == 1 else None
    return f"its release would be {_ALONE}, of {run_name_of(before.run)}" if before else ""


def _version(target: str) -> str:
    """The version of a release, as `serve` and every reply to a search name it."""
    from mirepoix.serving.release import peek  # pyarrow, which no plan waits for

    return peek(target)[0].version
