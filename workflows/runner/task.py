"""A stage at work: the Ray task, on the node that Ray chose."""

import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Context, Manifest, Outcome, fetch, is_local, join, local_path, publish
from mirepoix.workflows.runner.fingerprint import Prospect
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.lease import cache_folder, draft
from mirepoix.workflows.runner.progress import Reporter

CHAINED = "The above exception was the direct cause of the following exception:"


@dataclass(frozen=True)
class Failure:
    """Why a stage failed: one line for the user, and the whole story for the log."""

    line: str
    story: str


def perform(
    stage: Stage, prospect: Prospect, inputs: dict[str, str], storage: str, fields: dict[str, Any], report: Reporter
) -> Manifest | Failure:
    """One stage on the node that Ray chose; an exception comes back as text, for not every one of them pickles."""
    began = time.time()
    folder = draft(storage, fields["driver"], prospect.key[:16])
    scratch = join(storage, "work", prospect.key[:16])
    try:
        if is_local(scratch):
            local_path(scratch).mkdir(parents=True, exist_ok=True)
        folders = {argument: fetch(target, cache_folder()) for argument, target in inputs.items()}
        outcome = stage.work(Context(folder, scratch, report, stage.seed), stage.config, **folders)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"the work of stage {stage.name} returned {type(outcome).__name__} and not an Outcome")
        metrics = {name: float(value) for name, value in outcome.metrics.items()}
        said = {
            "metrics": metrics,
            "tables": outcome.tables,
            "rows": asdict(outcome.rows),
            "created": time.time(),
            "seconds": time.time() - began,
        }
        return publish(folder, prospect.target, {**prospect.parts, **fields, **said}, replace=prospect.replace)
    except Exception as error:  # noqa: BLE001 the text of the failure crosses the process, and the driver decides
        return Failure(root_cause(error), traceback.format_exc())
    finally:
        report.flush()
        shutil.rmtree(folder, ignore_errors=True)


def root_cause(error: BaseException) -> str:
    """One line for the error at the bottom: Ray's wrappers are opened, and a refusal speaks for itself."""
    told = ""
    while True:
        inner = getattr(error, "cause", None) or next(iter(getattr(error, "worker_failures", {}).values()), None)
        if isinstance(inner, BaseException):
            told = str(error)
        else:
            inner = None if isinstance(error, Refused) else error.__cause__
        if inner is None:
            break
        error = inner
    if CHAINED in told and not isinstance(error, Refused):  # an exception that was pickled has lost its cause, but Ray told it as text
        return told.split(CHAINED)[0].strip().splitlines()[-1].strip().removeprefix(f"{Refused.__module__}.{Refused.__qualname__}: ")
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text}"
