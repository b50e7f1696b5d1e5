"""One stage, run in whichever process an executor chose: its inputs are fetched, its work is called, its result is published."""

import json
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mirepoix.components.stage import Context, Outcome, ProgressFunction
from mirepoix.models.errors import Refused
from mirepoix.models.options import import_named
from mirepoix.serving.store import Manifest, cache_folder, fetch, is_local, join, local_path, publish, write
from mirepoix.workflows.runner.fingerprint import StageLookup
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.lease import draft

BEGUN = "stage.json"
"""In the scratch of a stage: its name and the targets of its inputs, by which others find what an unfinished stage works on."""
CHAINED = "The above exception was the direct cause of the following exception:"


@dataclass(frozen=True)
class Failure:
    """Why a stage failed: one line for the user, and the traceback for the log."""

    line: str
    trace: str


@dataclass(frozen=True)
class Task:
    """A stage whose inputs are there, with all that its process needs to know; it pickles."""

    stage: Stage
    lookup: StageLookup
    inputs: dict[str, str]  # argument -> the target of its artefact
    storage: str
    driver: str
    run_id: str | None  # of the stage in MLflow


class StageReporter(ProgressFunction, Protocol):
    """Takes the progress reports of a running stage."""

    def flush(self) -> None:
        """Return when all reports so far have arrived."""


def perform(task: Task, report: StageReporter) -> Manifest | Failure:
    """Run a stage and publish its result; an exception is returned as text, because not every exception pickles."""
    try:
        with _draft(task) as folder:
            return _published(task, report, folder)
    except Exception as error:  # noqa: BLE001 the runner reports the failure of this stage and goes on with the others
        return Failure(root_cause(error), traceback.format_exc())
    finally:
        report.flush()


@contextmanager
def _draft(task: Task) -> Iterator[Path]:
    """An empty folder for the result, removed however the stage ends."""
    folder = draft(task.storage, task.driver, task.lookup.key[:16])
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _published(task: Task, report: StageReporter, folder: Path) -> Manifest:
    began = time.time()
    stage, lookup = task.stage, task.lookup
    scratch = join(task.storage, "work", lookup.key[:16])
    if is_local(scratch):
        local_path(scratch).mkdir(parents=True, exist_ok=True)
    write(join(scratch, BEGUN), json.dumps({"stage": stage.name, "inputs": task.inputs}, indent=1).encode())
    folders = {argument: fetch(target, cache_folder()) for argument, target in task.inputs.items()}
    work = import_named(stage.work)
    # A result that is replaced, because it is forced or damaged, is made without what the storage has.
    artefacts = "" if lookup.replace else join(task.storage, "artefacts")
    outcome = work(Context(folder, scratch, report, stage.seed, artefacts), stage.config, **folders, **stage.arguments)
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the work of stage {stage.name} returned {type(outcome).__name__} and not an Outcome")
    fields = {
        "name": stage.name,
        "key": lookup.key,
        "run_id": task.run_id,
        "driver": task.driver,
        "metrics": {name: float(value) for name, value in outcome.metrics.items()},
        "tables": outcome.tables,
        "rows": asdict(outcome.rows),
        "created": time.time(),
        "seconds": time.time() - began,
    }
    return publish(folder, lookup.target, {**lookup.parts, **fields}, replace=lookup.replace)


def root_cause(error: BaseException) -> str:
    """One line for the innermost cause of an error, inside Ray's wrappers; a `Refused` is shown as it is, whatever caused it."""
    wrapper = ""
    while True:
        inner = getattr(error, "cause", None) or next(iter(getattr(error, "worker_failures", {}).values()), None)
        if isinstance(inner, BaseException):
            wrapper = str(error)
        else:
            inner = None if isinstance(error, Refused) else error.__cause__
        if inner is None:
            break
        error = inner
    if CHAINED in wrapper and not isinstance(error, Refused):  # pickling dropped the cause, which Ray's wrapper still has as text
        return wrapper.split(CHAINED)[0].strip().splitlines()[-1].strip().removeprefix(f"{Refused.__module__}.{Refused.__qualname__}: ")
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text}"
