"""Stages, and the runner that executes them: make with content hashes over Ray tasks.

A stage is a function from folders to a folder. Its key is the hash of its name, its source, its config, the library versions that decide
its result, its seed, and the digests of its inputs. A result stands while artefacts/<stage>/<key> holds a manifest that is true. As
downstream hangs on the digest of a result and not on its key, a stage that makes the same bytes again wakes nobody (early cutoff).
"""

import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Manifest, delete, is_local, join, local_path, read_manifest, write
from mirepoix.workflows.runner.fingerprint import Prospect, look_up
from mirepoix.workflows.runner.graph import Stage, beneath, called, choose
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.runner.progress import Display, Mailbox, Note, clock
from mirepoix.workflows.runner.task import Failure, perform, root_cause
from mirepoix.workflows.runner.tracking import Tracker

POLL_SECONDS = 0.25


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
    took: float = 0.0  # seconds of the work that made the result, in whichever run that was
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """How a run ended, stage by stage in the order of the graph."""

    stages: dict[str, StageReport]

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
    room: Callable[[], int] = lambda: 1,
) -> Report:
    """Run what does not stand, or with `plan` only say what would run and why; a failed stage is in the report, not raised.

    As many arms of a comparison are at work at the same time as there is `room` for, the first ones first.
    """
    chosen, forced = choose(stages, until, start, set(force))
    root = str(local_path(storage)) if is_local(storage) else storage
    run = _Run(chosen, root, forced, tracker or Tracker(), display or Display(), ensure_ray, room)
    prospects = run.survey()
    if start is not None:
        again = beneath(chosen, called(chosen, start))
        for stage in chosen:
            if stage.name not in again and prospects[stage.name].status != "skipped":
                why = prospects[stage.name].reason
                raise Refused(f"--from {start} needs the result of {stage.name}, which does not stand ({why}); use --from {stage.name}")
    return Report(prospects) if plan else run.execute()


class _Run:
    """The state of one execution."""

    def __init__(
        self,
        stages: list[Stage],
        storage: str,
        forced: set[str],
        tracker: Tracker,
        display: Display,
        ensure_ray: Callable[[], None],
        room: Callable[[], int],
    ):
        self.stages, self.storage, self.forced = stages, storage, set(forced)
        self.names = {stage.name for stage in stages}
        self.tracker, self.display, self.ensure_ray, self.room = tracker, display, ensure_ray, room
        display.fit(self.names)
        self.ray_is_there = False
        self.driver, self.mailbox = Driver(storage), Mailbox()
        self.reports: dict[str, StageReport] = {}
        self.running: dict[ray.ObjectRef, tuple[Stage, Prospect, float]] = {}
        self.patience: dict[str, float] = {}  # stage that another driver works on -> when to look again

    def look_up(self, stage: Stage) -> Prospect:
        digests = {argument: self.reports[name].digest for argument, name in stage.inputs.items()}
        return look_up(stage, digests, self.storage, stage.name in self.forced)

    def survey(self) -> dict[str, StageReport]:
        for stage in self.stages:
            blocks = [name for name in stage.inputs.values() if self.reports[name].status != "skipped"]
            if blocks:
                self.reports[stage.name] = StageReport("not run", f"may run: waits for {', '.join(blocks)}")
            else:
                prospect = self.look_up(stage)
                self.reports[stage.name] = _report("skipped" if prospect.manifest else "not run", prospect, prospect.manifest)
        reports, self.reports = self.reports, {}
        return reports

    def execute(self) -> Report:
        ending = "KILLED"
        with self.driver:
            self.tracker.begin(self.driver.id, self.storage, self.driver.clean())
            try:
                while len(self.reports) < len(self.stages):
                    for stage in self.stages:
                        if stage.name not in self.reports and stage.name not in {busy.name for busy, *_ in self.running.values()}:
                            self.advance(stage)
                    self.collect()
                report = Report({stage.name: self.reports[stage.name] for stage in self.stages})
                ending = "FINISHED" if report.ok else "FAILED"
            finally:
                for task in self.running:
                    ray.cancel(task)
                self.hear(self.mailbox.close())
                self.display.close()
                self.tracker.end(ending)
        return report

    def advance(self, stage: Stage) -> None:
        sources = {name: self.reports[name] for name in stage.inputs.values() if name in self.reports}
        lost = [name for name, report in sources.items() if report.status in ("failed", "not run")]
        if lost:
            self.reports[stage.name] = StageReport("not run", f"no result of {', '.join(lost)}")
            self.display.say(stage.name, f"not run: no result of {', '.join(lost)}")
        elif any(name not in self.reports for name in stage.after if name in self.names) or not self.has_room(stage):
            return
        elif len(sources) == len(set(stage.inputs.values())) and time.monotonic() >= self.patience.get(stage.name, 0):
            prospect = self.look_up(stage)
            if prospect.key in {busy.key for _, busy, _ in self.running.values()}:
                return  # another arm is at work on the same
            if prospect.manifest is None:
                holder = self.driver.acquire(prospect.key[:16], prospect.target)
                if holder is not None:
                    self.wait_for(holder, stage)
                    return
                prospect = self.look_up(stage)  # the driver that held the lease until now may have finished
                if prospect.manifest is None:
                    self.submit(stage, prospect)
                    return
                self.driver.release(prospect.key[:16])
            self.reports[stage.name] = _report("skipped", prospect, prospect.manifest)
            self.tracker.cached(stage.name, prospect.manifest, prospect.target)
            self.display.say(stage.name, f"stands   {prospect.manifest.digest[:12]}")

    def has_room(self, stage: Stage) -> bool:
        """Whether its arm may be at work: what arms share is with the first of them, so none waits for one behind it."""
        unfinished = dict.fromkeys(other.arm for other in self.stages if other.arm and other.name not in self.reports)
        return not stage.arm or list(unfinished).index(stage.arm) < self.room()

    def wait_for(self, holder: dict[str, Any], stage: Stage) -> None:
        if stage.name not in self.patience:
            self.display.say(stage.name, f"waits for another driver at work on it: {holder['host']}, pid {holder['pid']}")
        self.forced.discard(stage.name)  # its result will be new enough
        self.patience[stage.name] = time.monotonic() + POLL_SECONDS * 4

    def submit(self, stage: Stage, prospect: Prospect) -> None:
        if not self.ray_is_there:
            self.ensure_ray()
            self.ray_is_there = True
        sources = {argument: self.reports[name] for argument, name in stage.inputs.items()}
        run_id = self.tracker.start(stage.name, prospect.parts, sources)
        self.display.say(stage.name, f"runs: {prospect.reason}")
        self.display.begin(stage.name)
        inputs = {argument: report.target for argument, report in sources.items()}
        fields = {"name": stage.name, "key": prospect.key, "run_id": run_id, "driver": self.driver.id}
        place = {"node:__internal_head__": 0.001} if stage.on_head else {}
        # A worker that was a stage has imported half a gigabyte; it ends with it.
        task = ray.remote(max_calls=1)(perform).options(
            name=stage.name, num_cpus=stage.num_cpus, resources=place, max_retries=stage.retries
        )
        try:
            order = task.remote(stage, prospect, inputs, self.storage, fields, self.mailbox.reporter(stage.name))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self.finish(stage, prospect, 0.0, Failure(f"it cannot be sent to a worker: {root_cause(error)}", traceback.format_exc()))
        else:
            self.running[order] = (stage, prospect, time.monotonic())

    def collect(self) -> None:
        if self.running:
            finished, _ = ray.wait(list(self.running), timeout=POLL_SECONDS)
            self.hear(self.mailbox.collect(patience_s=1.0 if finished else 0.0))
            for task in finished:
                stage, prospect, began = self.running.pop(task)
                try:
                    result = ray.get(task)
                except RayError as error:
                    result = Failure(root_cause(error), str(error))
                self.finish(stage, prospect, time.monotonic() - began, result)
        elif len(self.reports) < len(self.stages):
            time.sleep(POLL_SECONDS)

    def hear(self, notes: list[Note]) -> None:
        for note in notes:
            self.display.show(note)
            self.tracker.curve(note)
        self.display.refresh()

    def finish(self, stage: Stage, prospect: Prospect, seconds: float, result: Manifest | Failure) -> None:
        self.display.end(stage.name)
        if isinstance(result, Manifest) and read_manifest(prospect.target) is None:
            result = Failure(f"its result is not in {self.storage} as seen from here: give a folder that all nodes share, or a URI", "")
        if isinstance(result, Failure):
            log = join(self.storage, "logs", f"{stage.name}-{prospect.key[:16]}.log")
            write(log, (result.story or result.line).encode())
            report = _report("failed", prospect, None, seconds, result.line)
            self.display.say(stage.name, f"failed after {clock(seconds)}: {result.line} (log: {log})")
        else:
            delete(join(self.storage, "work", prospect.key[:16]))
            report = _report("done", prospect, result, seconds)
            self.display.say(stage.name, f"done in {clock(seconds)}  {result.digest[:12]}")
        self.reports[stage.name] = report
        self.driver.release(prospect.key[:16])
        self.tracker.finish(stage.name, report, None if isinstance(result, Failure) else result)


def _report(status: str, prospect: Prospect, manifest: Manifest | None, seconds: float = 0.0, error: str = "") -> StageReport:
    digest, said = (manifest.digest, manifest.fields) if manifest else ("", {})
    told = {name: said.get(name, {}) for name in ("metrics", "rows", "tables")}
    took = said.get("seconds", 0.0)
    return StageReport(status, prospect.reason, prospect.key, digest, prospect.target, seconds, error=error, took=took, **told)
