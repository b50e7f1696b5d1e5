"""Runs the stages of a graph whose results are not up to date: make with content hashes, over Ray tasks or in this process.

A stage is a function from folders to a folder. Its key is the hash of its name, its source, its config, the library versions that decide
its result, its seed, fingerprints of what it reads from outside, and the digests of its inputs. A result is up to date while
artefacts/<stage>/<key> holds a manifest and the files that the manifest names; `fingerprint.look_up` decides it. The key of a stage holds
the digests of its inputs and not their keys: a stage that runs again and makes the same bytes causes no other stage to run (early cutoff).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Manifest, absolute, delete, join, read_manifest, write
from mirepoix.workflows.runner.executors import POLL_SECONDS, Executor, LocalExecutor, OnReports, RayExecutor
from mirepoix.workflows.runner.fingerprint import StageLookup, look_up, plain
from mirepoix.workflows.runner.graph import Stage, choose, downstream, matching_names
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.runner.progress import Display, ProgressReport, clock, shortened
from mirepoix.workflows.runner.source_code import sources
from mirepoix.workflows.runner.task import Failure, Task
from mirepoix.workflows.runner.tracking import Tracker


@dataclass(frozen=True)
class StageReport:
    """How a stage ended."""

    status: str  # done | skipped | failed | not run
    reason: str = ""
    key: str = ""
    digest: str = ""
    target: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    error: str = ""
    took: float = 0.0  # seconds that the work took in the run that made the result
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """How a run ended, stage by stage in the order of the graph."""

    stages: dict[str, StageReport]
    notes: tuple[str, ...] = ()  # what to know before it runs

    @property
    def ok(self) -> bool:
        return all(report.status in ("done", "skipped") for report in self.stages.values())


def execute(
    stages: Sequence[Stage],
    storage: str,
    until: str | None = None,
    start: str | None = None,
    force: Iterable[str] = (),
    plan: bool = False,
    tracker: Tracker | None = None,
    display: Display | None = None,
    ensure_ray: Callable[[], None] = lambda: None,
    parallel_arms: Callable[[], int] = lambda: 1,
    local: bool = False,
    driver: Driver | None = None,
) -> Report:
    """Run the stages whose results are not up to date, or with `plan` only say which and why; a failed stage is in the report, not raised.

    Stages run as Ray tasks, or with `local` one after the other in this process. At most `parallel_arms()` arms of a comparison run at the
    same time, in their order. A `driver` that is given was entered, and stays so.
    """
    chosen, forced = choose(stages, until, start, set(force))
    executor = partial(LocalExecutor if local else RayExecutor, ensure_ray=ensure_ray)
    run = _Run(chosen, absolute(storage), forced, tracker or Tracker(), display or Display(), parallel_arms, executor, driver)
    planned = run.plan()
    sources().save()
    if start is not None:
        again = downstream(chosen, matching_names(chosen, start))
        read = {name for stage in chosen for name in stage.inputs.values()}
        for stage in chosen:
            if stage.name in read - again and planned[stage.name].status != "skipped":
                why = planned[stage.name].reason
                raise Refused(f"--from {start} needs the result of {stage.name}, which is not up to date ({why}); use --from {stage.name}")
    return Report(planned) if plan else run.execute()


class _Run:
    """The state of one execution."""

    def __init__(
        self,
        stages: list[Stage],
        storage: str,
        forced: set[str],
        tracker: Tracker,
        display: Display,
        parallel_arms: Callable[[], int],
        executor: Callable[[OnReports], Executor],
        driver: Driver | None,
    ):
        self.stages, self.storage, self.forced = stages, storage, set(forced)
        self.names = {stage.name for stage in stages}
        self.tracker, self.display, self.parallel_arms = tracker, display, parallel_arms
        display.fit(self.names)
        self.driver = driver or Driver(storage)
        self.entered = driver is not None
        self.executor = executor(self.on_reports)
        self.reports: dict[str, StageReport] = {}
        self.running: dict[str, tuple[Task, float]] = {}  # by stage: its task, and when that was started
        self.retry_at: dict[str, float] = {}  # stage that another driver runs -> when to look again

    def look_up(self, stage: Stage) -> StageLookup:
        digests = {argument: self.reports[name].digest for argument, name in stage.inputs.items()}
        return look_up(stage, digests, self.storage, stage.name in self.forced)

    def plan(self) -> dict[str, StageReport]:
        for stage in self.stages:
            blocks = [name for name in stage.inputs.values() if self.reports[name].status != "skipped"]
            if blocks:
                self.reports[stage.name] = StageReport("not run", f"may run: waits for {', '.join(blocks)}")
            else:
                lookup = self.look_up(stage)
                self.reports[stage.name] = _report("skipped" if lookup.manifest else "not run", lookup, lookup.manifest)
        reports, self.reports = self.reports, {}
        return reports

    def execute(self) -> Report:
        ending = "KILLED"
        with nullcontext() if self.entered else self.driver, ExitStack() as last:
            self.tracker.begin(self.driver.id, self.storage, self.driver.clean())
            last.callback(lambda: self.tracker.end(ending))
            last.callback(self.display.close)
            last.callback(self.executor.close)
            while len(self.reports) < len(self.stages):
                before = len(self.reports)
                for stage in self.stages:
                    if stage.name not in self.reports and stage.name not in self.running:
                        self.advance(stage)
                self.collect()
                if not self.running and len(self.reports) == before:  # all that is left waits for another driver
                    time.sleep(POLL_SECONDS)
            report = Report({stage.name: self.reports[stage.name] for stage in self.stages})
            ending = "FINISHED" if report.ok else "FAILED"
        return report

    def advance(self, stage: Stage) -> None:
        sources = {name: self.reports[name] for name in stage.inputs.values() if name in self.reports}
        needed = dict.fromkeys((*stage.inputs.values(), *stage.requires))
        lost = [name for name in needed if name in self.reports and self.reports[name].status in ("failed", "not run")]
        if lost:
            self.reports[stage.name] = StageReport("not run", f"no result of {', '.join(lost)}")
            why = self.reports[stage.name].reason
            self.display.print_line(stage.name, f"not run: {why}", "not run", reason=why)
        elif any(name not in self.reports for name in (*stage.after, *stage.requires) if name in self.names) or not self.has_room(stage):
            return
        elif len(sources) == len(set(stage.inputs.values())) and time.monotonic() >= self.retry_at.get(stage.name, 0):
            lookup = self.look_up(stage)
            if lookup.key in {task.lookup.key for task, _ in self.running.values()}:
                return  # another arm runs the same stage with the same inputs
            if lookup.manifest is None:
                holder = self.driver.acquire(lookup.key[:16], lookup.target)
                if holder is not None:
                    self.wait_for(holder, stage)
                    return
                lookup = self.look_up(stage)  # the driver that held the lease until now may have finished
                if lookup.manifest is None:
                    self.driver.rely(lookup.target)
                    self.submit(stage, lookup)
                    return
                self.driver.release(lookup.key[:16])
            self.driver.rely(lookup.target)
            if (holder := self.driver.deleting(lookup.key[:16])) is not None:
                self.wait_for(holder, stage)
                return
            if read_manifest(lookup.target) is None:  # `gc` deleted it before it could see that this driver relies on it
                return
            self.reports[stage.name] = _report("skipped", lookup, lookup.manifest)
            self.tracker.cached(stage.name, lookup.manifest, lookup.target)
            digest = lookup.manifest.digest
            self.display.print_line(stage.name, f"up to date  {digest[:12]}", "up to date", digest=digest, target=lookup.target)

    def has_room(self, stage: Stage) -> bool:
        """Whether its arm is one of the first unfinished ones; what two arms share runs in the first, so none waits for a later one."""
        unfinished = dict.fromkeys(other.arm for other in self.stages if other.arm and other.name not in self.reports)
        return not stage.arm or list(unfinished).index(stage.arm) < self.parallel_arms()

    def wait_for(self, holder: dict[str, Any], stage: Stage) -> None:
        if stage.name not in self.retry_at:
            what = "`mirepoix gc`, which deletes its result" if holder.get("work") == "gc" else "another driver that runs it"
            self.display.print_line(stage.name, f"waits for {what}: {holder['host']}, pid {holder['pid']}", "waiting")
        if holder.get("work") != "gc":
            self.forced.discard(stage.name)  # the result of the other driver is as new as one made here
        self.retry_at[stage.name] = time.monotonic() + POLL_SECONDS * 4

    def submit(self, stage: Stage, lookup: StageLookup) -> None:
        self.executor.prepare(stage)
        inputs = {argument: self.reports[name] for argument, name in stage.inputs.items()}
        run_id = self.tracker.start(stage.name, {**lookup.parts, "config": plain(stage.config)}, inputs)  # with what its key leaves out
        self.display.print_line(stage.name, f"runs: {shortened(lookup.reason)}", reason=lookup.reason)
        self.display.begin(stage.name)
        targets = {argument: report.target for argument, report in inputs.items()}
        task = Task(stage, lookup, targets, self.storage, self.driver.id, run_id)
        self.running[stage.name] = task, time.monotonic()
        self.executor.start(task)

    def collect(self) -> None:
        for task, result in self.executor.finished():
            task, began = self.running.pop(task.stage.name)
            self.finish(task.stage, task.lookup, time.monotonic() - began, result)

    def on_reports(self, reports: list[ProgressReport]) -> None:
        for report in reports:
            self.display.update(report)
            self.tracker.curve(report)
        self.display.refresh()

    def finish(self, stage: Stage, lookup: StageLookup, seconds: float, result: Manifest | Failure) -> None:
        self.display.end(stage.name)
        if isinstance(result, Manifest) and read_manifest(lookup.target) is None:
            result = Failure(
                f"its result is not in {self.storage} on this node; give --storage a folder that all nodes share, or a URI", ""
            )
        if isinstance(result, Failure):
            log = join(self.storage, "logs", f"{stage.name}-{lookup.key[:16]}.log")
            write(log, (result.trace or result.line).encode())
            report = _report("failed", lookup, None, seconds, result.line)
            self.display.print_line(
                stage.name, f"failed after {clock(seconds)}: {result.line}", "failed", error=result.line, log=log, seconds=round(seconds, 3)
            )
        else:
            delete(join(self.storage, "work", lookup.key[:16]))
            report = _report("done", lookup, result, seconds)
            for row in report.tables.get("warnings", ()):
                self.display.print_line(stage.name, f"warns: {row['detail']}", warning=row["detail"])
            done = {"digest": result.digest, "target": lookup.target, "seconds": round(seconds, 3)}
            self.display.print_line(stage.name, f"done in {clock(seconds)}  {result.digest[:12]}", "done", **done)
        self.reports[stage.name] = report
        self.driver.release(lookup.key[:16])
        self.tracker.finish(stage.name, report, None if isinstance(result, Failure) else result)


def _report(status: str, lookup: StageLookup, manifest: Manifest | None, seconds: float = 0.0, error: str = "") -> StageReport:
    digest, fields = (manifest.digest, manifest.fields) if manifest else ("", {})
    results = {name: fields.get(name, {}) for name in ("metrics", "rows", "tables")}
    took = fields.get("seconds", 0.0)
    return StageReport(status, lookup.reason, lookup.key, digest, lookup.target, seconds, error=error, took=took, **results)
