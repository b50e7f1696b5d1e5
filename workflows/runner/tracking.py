"""Tracking in MLflow: a parent run for the execution, a child run for each stage. No other file imports mlflow.

MLflow may be unreachable, slow or full, and the execution goes on: calls wait in a queue, are made in order, and carry their own time
stamps. After a call that fails or takes long, no call is made for a while; those that are left at the end are tried once more, and then
dropped with a warning.
"""

import logging
import os
import platform
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.serving.store import Manifest, is_local, local_path
from mirepoix.workflows.runner.fingerprint import flatten, plain
from mirepoix.workflows.runner.plots import bars, count_tables
from mirepoix.workflows.runner.progress import ProgressReport
from mirepoix.workflows.runner.versions import code_version, library_versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

Call = Callable[["MlflowClient"], None]

EXPERIMENT = "mirepoix"
"""The experiment of MLflow that all runs are of."""
QUIET = {  # where the user has set nothing: fail fast (the queue retries), print nothing, send no telemetry
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SLOW_SECONDS = 2.0  # after a call that takes longer the queue pauses, as after one that fails
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 300.0
QUEUE_SIZE = 20_000  # calls
CURVE_SECONDS, CURVE_SIZE = 5.0, 1000  # a curve is sent in batches; 1000 is the most that MLflow takes
PARAM_LENGTH, TAG_LENGTH, BATCH = 6000, 8000, 100
WHOLE = ""  # the name of the parent run


def open_tracker(storage: str, recipe: str, config: Any, uri: str | None = None, experiment: str = EXPERIMENT) -> "Tracker":
    """The tracker of a run: at the given URI, else at MLFLOW_TRACKING_URI, else in a SQLite file in a local storage or in the home."""
    uri = prepared_uri(storage, uri)
    return Tracker(uri, experiment, recipe, flatten(plain(config)), artifacts_folder(storage, uri))


def tracking_uri(storage: str) -> str:
    """The default tracking URI of runs over a storage."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home(storage) / 'mlflow.db'}"


def prepared_uri(storage: str, uri: str | None = None) -> str:
    """The tracking URI, with the folder that its SQLite file lies in."""
    uri = uri or tracking_uri(storage)
    if uri.startswith("sqlite:///"):
        with suppress(OSError):  # the first call reports a store that cannot be made
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return uri


def artifacts_folder(storage: str, uri: str) -> str | None:
    """Where the files of runs go; None where a server of MLflow decides."""
    return None if uri.startswith("http") else str(_home(storage) / "mlflow")


def storage_tags(storage: str) -> dict[str, str]:
    """The tags by which a storage is told from others: another machine may have a local folder of the same name."""
    return {"storage": storage, "machine": platform.node() if is_local(storage) else "any"}


def _home(storage: str) -> Path:
    return local_path(storage) if is_local(storage) else Path.home() / ".mirepoix"


class Tracker:
    """Records one execution in MLflow; without a URI it records nothing."""

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = EXPERIMENT,
        recipe: str = "",
        params: Mapping[str, Any] | None = None,
        artifacts: str | None = None,
    ):
        self.uri, self.experiment, self.recipe, self.artifacts = uri, experiment, recipe, artifacts
        self.params = params or {}
        self.tags: dict[str, str] = {}
        self._mlflow: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[str, str] = {}
        self._open: set[str] = set()
        self._curves: dict[str, list[tuple[str, float, float, int]]] = {}
        self._drawn: dict[str, set[str]] = {}  # names of the metrics with a curve, by stage
        self._steps: dict[str, int] = {}  # the last step of each curve
        self._sent: dict[str, float] = {}
        self._notes: dict[str, list[str]] = {}  # what the description of a stage's run says
        self._queue: deque[Call] = deque()
        self._paused_until, self._pause = 0.0, PAUSE_SECONDS

    # Events of the runner

    def begin(self, driver: str, storage: str, alive: Iterable[str]) -> None:
        """Open the parent run, and mark the open runs of dead drivers of this storage as killed."""
        self.tags = {"driver": driver, **storage_tags(storage)}
        if self.uri:
            self.tags |= code_version()
        self._later(partial(self._end_runs_of_dead_drivers, own=storage_tags(storage), alive=frozenset(alive)))
        self._create(WHOLE, self.recipe or "run", {"recipe": self.recipe, **library_versions()} if self.uri else {})
        self._params(WHOLE, self.params)

    def start(self, stage: str, parts: Mapping[str, Any], sources: Mapping[str, Any]) -> str | None:
        """Open a stage's run; returns its id if MLflow gave one in time. Sources are the reports of its inputs, by argument."""
        self._create(stage, stage, {**_stage_tags(stage), "cached": "false"})
        self._params(stage, {**flatten(parts["config"]), "seed": parts["seed"]})
        named = [(name, source.digest, source.target) for name, source in sources.items()]
        if named:
            self._on(stage, lambda client, run: client.log_inputs(run, [_dataset(*source) for source in named]))
        return self._runs.get(stage)

    def curve(self, report: ProgressReport) -> None:
        """Add a progress report to the curves of a running stage; a step that is repeated after a worker's restart is left out."""
        if self.uri is None:
            return
        step = int(report.numbers.get("step", 0))
        if "step" in report.numbers and step <= self._steps.get(report.stage, -1):
            return
        self._steps[report.stage] = step
        self._note(report)
        known = self._curves.setdefault(report.stage, [])
        self._drawn.setdefault(report.stage, set()).update(report.numbers)
        known += [(name, value, report.moment, step) for name, value in report.numbers.items() if name not in ("step", "total")]
        if len(known) >= CURVE_SIZE or time.monotonic() - self._sent.get(report.stage, -CURVE_SECONDS) >= CURVE_SECONDS:
            self._send_curve(report.stage)

    def finish(self, stage: str, report: Any, manifest: Manifest | None) -> None:
        """Close a stage's run with its results, or with its error."""
        self._send_curve(stage)
        if manifest is None:
            self._tag(stage, {"error": report.error})
        else:
            self._result(stage, manifest, report.target)
        self._terminate(stage, "FAILED" if manifest is None else "FINISHED")

    def cached(self, stage: str, manifest: Manifest, target: str) -> None:
        """Record a stage whose result is up to date as a run that names the run which made it."""
        made = {**_stage_tags(stage), "cached": "true", "source_run": manifest.fields.get("run_id") or "unknown"}
        self._create(stage, stage, made | _address(manifest, target))
        self._metrics(stage, manifest)
        self._tables(stage, manifest)
        self._terminate(stage, "FINISHED")

    def end(self, status: str) -> None:
        """Close all open runs, and make the calls that are left."""
        for stage in [*self._curves]:
            self._send_curve(stage)
        for stage in sorted(self._open - {WHOLE}):
            self._terminate(stage, "KILLED")
        self._terminate(WHOLE, status)
        self._flush(last=True)
        if self._queue:
            lost = f"{len(self._queue)} calls are lost; the manifests in the storage hold the results"
            _warn(f"MLflow at {self.uri} did not answer until the end: {lost}")
            self._queue.clear()

    def attach(self, pages: Mapping[str, str], figures: Mapping[str, float] | None = None) -> None:
        """Attach text files and figures to the parent run, which may have ended."""
        moment = time.time()
        self._points(WHOLE, [(name, value, moment, 0) for name, value in (figures or {}).items()])

        def write(client: "MlflowClient", run: str, name: str, text: str) -> None:
            client.log_text(run, text, name)

        for name, text in pages.items():
            self._on(WHOLE, partial(write, name=name, text=text))
        self._flush(last=True)

    # Calls to MLflow

    def _result(self, stage: str, manifest: Manifest, target: str) -> None:
        self._metrics(stage, manifest)
        self._tables(stage, manifest)
        self._tag(stage, _address(manifest, target))
        self._on(stage, lambda client, run: client.log_text(run, manifest.dumps().decode(), "manifest.json"))

    def _create(self, name: str, run_name: str, tags: Mapping[str, str]) -> None:
        began = _now()
        self._open.add(name)

        def call(client: "MlflowClient") -> None:
            parent = {"mlflow.parentRunId": self._runs[WHOLE]} if name != WHOLE else {"mlflow.source.name": "mirepoix"}
            labels = {label: value[:TAG_LENGTH] for label, value in {**self.tags, **tags, **parent}.items()}
            self._runs[name] = client.create_run(self._experiment_id, began, labels, run_name).info.run_id

        self._later(call)

    def _terminate(self, name: str, status: str) -> None:
        ended = _now()
        self._open.discard(name)
        self._on(name, lambda client, run: client.set_terminated(run, status, ended))

    def _params(self, name: str, params: Mapping[str, Any]) -> None:
        entries = [(_name(param), str(value)[:PARAM_LENGTH]) for param, value in params.items()]

        def call(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Param

            for first in range(0, len(entries), BATCH):
                client.log_batch(run, params=[Param(*entry) for entry in entries[first : first + BATCH]])

        self._on(name, call)

    def _metrics(self, name: str, manifest: Manifest) -> None:
        rows = {f"rows.{kind}": count for kind, count in manifest.fields["rows"].items()}
        moment = time.time()
        figures = {**manifest.fields["metrics"], **rows}
        # A metric that has a curve ends it with this value already.
        self._points(name, [(metric, value, moment, 0) for metric, value in figures.items() if metric not in self._drawn.get(name, ())])

    def _tables(self, name: str, manifest: Manifest) -> None:
        """A stage's tables, and bar charts of those with counts."""

        def call(client: "MlflowClient", run: str, title: str, rows: list[dict[str, Any]]) -> None:
            columns = {column: [row.get(column) for row in rows] for column in rows[0]}
            client.log_table(run, columns, f"{title}.json")
            if named := count_tables(columns):
                client.log_text(run, bars(f"{name}: {title}", rows, *named), f"{title}.svg")

        for title, rows in manifest.fields.get("tables", {}).items():
            if rows:
                self._on(name, partial(call, title=title, rows=rows))

    def _send_curve(self, name: str) -> None:
        self._sent[name] = time.monotonic()
        self._points(name, self._curves.pop(name, []))

    def _points(self, name: str, points: list[tuple[str, float, float, int]]) -> None:
        def call(client: "MlflowClient", run: str, batch: list[tuple[str, float, float, int]]) -> None:
            from mlflow.entities import Metric

            client.log_batch(run, [Metric(_name(metric), value, int(moment * 1000), step) for metric, value, moment, step in batch])

        for first in range(0, len(points), CURVE_SIZE):
            self._on(name, partial(call, batch=points[first : first + CURVE_SIZE]))

    def _tag(self, name: str, tags: Mapping[str, str]) -> None:
        def call(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run, tags=[RunTag(label, value[:TAG_LENGTH]) for label, value in tags.items()])

        self._on(name, call)

    def _note(self, report: ProgressReport) -> None:
        """Add a report's notes to the description of its run, which MLflow shows above its numbers."""
        if report.notes:
            head = f"Step {report.numbers['step']:,.0f}: " if "step" in report.numbers else ""
            known = self._notes.setdefault(report.stage, [])
            known += [f"- {head}{note}" for note in report.notes]
            self._tag(report.stage, {"mlflow.note.content": "\n".join(known)})

    def _end_runs_of_dead_drivers(self, client: "MlflowClient", own: Mapping[str, str], alive: frozenset[str]) -> None:
        for run in client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'", max_results=1000):
            if own.items() <= run.data.tags.items() and run.data.tags.get("driver") not in alive:
                client.set_terminated(run.info.run_id, "KILLED")

    # The queue

    def _on(self, name: str, call: Callable[["MlflowClient", str], None]) -> None:
        def with_run(client: "MlflowClient") -> None:
            if name in self._runs:
                call(client, self._runs[name])

        self._later(with_run)

    def _later(self, call: Call) -> None:
        if self.uri is None:
            return
        if len(self._queue) < QUEUE_SIZE:
            self._queue.append(call)
        self._flush()

    def _flush(self, last: bool = False) -> None:
        while self._queue and (last or time.monotonic() >= self._paused_until):
            try:
                client = self._client()
                began = time.monotonic()
                self._queue[0](client)
            except Exception as error:  # noqa: BLE001 tracking must never stop the run, and MLflow raises whatever its store raises
                if self._mlflow is None or _is_unreachable(error):
                    self._pause_calls(f"does not answer ({line_of(error)})")
                    return
                _warn(f"MLflow refused a call, which is skipped: {line_of(error)}")
            self._queue.popleft()
            if time.monotonic() - began > SLOW_SECONDS:
                self._pause_calls(f"is slow ({time.monotonic() - began:.0f} s for a call)")
                return
            self._pause = PAUSE_SECONDS

    def _pause_calls(self, why: str) -> None:
        if self._pause == PAUSE_SECONDS:
            _warn(f"MLflow at {self.uri} {why}; the run goes on, and tracking is tried again later")
        self._paused_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _client(self) -> "MlflowClient":
        if self._mlflow is None:
            client = connect(self.uri)
            self._experiment_id = experiment_id(client, self.experiment, self.artifacts)
            self._mlflow = client
        return self._mlflow


def connect(uri: str | None) -> "MlflowClient":
    """A client of MLflow, for runs and for its model registry."""
    os.environ.update({**QUIET, **os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The id of an experiment, which is made where it is not there."""
    known = client.get_experiment_by_name(name)
    return known.experiment_id if known else client.create_experiment(name, artifacts)


def entities() -> Any:
    """The classes of what MLflow keeps: metrics, inputs and outputs of runs."""
    from mlflow import entities

    return entities


def _stage_tags(stage: str) -> dict[str, str]:
    """Tags of a stage: its step, and in a comparison its arm."""
    arm, _, step = stage.rpartition(":")
    return {"stage": step} | ({"arm": arm} if arm else {})


def _address(manifest: Manifest, target: str) -> dict[str, str]:
    return {"artefact": target, "digest": manifest.digest, "key": manifest.fields["key"]}


def _dataset(name: str, digest: str, source: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = "local" if is_local(source) else source.partition(":")[0]
    return DatasetInput(Dataset(name, digest[:36], kind, source), [InputTag("mlflow.data.context", name), InputTag("digest", digest)])


def _is_unreachable(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() >= 500 or error.error_code == "REQUEST_LIMIT_EXCEEDED"
    return isinstance(error, OSError)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _name(name: str) -> str:
    return re.sub(r"[^\w\-./ :]", "_", name.replace("@", "_at_"))[:250]


def line_of(error: Exception) -> str:
    """The text of an error in one line, cut off where it is long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _now() -> int:
    return int(time.time() * 1000)
