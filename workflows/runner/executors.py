"""Where stages run: as Ray tasks on a cluster, or one after the other in this process.

Both executors take a `Task`, publish its result, and return its manifest or a `Failure`. The progress reports of a running stage go to the
function `on_reports`. Ray is imported only by the executor that uses it.
"""

import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from mirepoix.serving.store import Manifest
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.progress import ProgressReport
from mirepoix.workflows.runner.task import Failure, Task, perform, root_cause

if TYPE_CHECKING:
    import ray

    from mirepoix.workflows.runner.board import Mailbox

OnReports = Callable[[list[ProgressReport]], None]
POLL_SECONDS = 0.25
CANCEL_SECONDS = 5.0
"""How long cancelled stages have to remove their drafts before the run ends without them."""


class Executor(Protocol):
    """Runs tasks. `on_reports` and the function that connects to a Ray cluster are given to its constructor."""

    def prepare(self, stage: Stage) -> None:
        """Connect to the Ray cluster if the stage needs one and there is no connection yet."""

    def start(self, task: Task) -> None:
        """Start a task; the local executor returns when the task has ended."""

    def finished(self) -> Iterator[tuple[Task, Manifest | Failure]]:
        """The tasks that ended since the last call; waits up to POLL_SECONDS for one of those that run."""

    def close(self) -> None:
        """Cancel the tasks that still run, and pass on the last progress reports."""


class LocalExecutor:
    """Runs each stage in this process, where a debugger reaches it; only a stage that starts Ray work of its own needs a cluster."""

    def __init__(self, on_reports: OnReports, ensure_ray: Callable[[], None]):
        self.on_reports, self.ensure_ray = on_reports, ensure_ray
        self._connected = False
        self._ended: list[tuple[Task, Manifest | Failure]] = []

    def prepare(self, stage: Stage) -> None:
        if stage.uses_ray and not self._connected:
            self.ensure_ray()
            self._connected = True

    def start(self, task: Task) -> None:
        self._ended.append((task, perform(task, LocalReporter(self.on_reports, task.stage.name))))

    def finished(self) -> Iterator[tuple[Task, Manifest | Failure]]:
        ended, self._ended = self._ended, []
        yield from ended

    def close(self) -> None:
        """Nothing runs between two calls, and every report was passed on at once."""


class LocalReporter:
    """Passes the reports of a stage in this process on at once.

    Pickled, for a Ray worker that the stage starts, it becomes a reporter to a board, which a thread here reads until the stage has ended.
    """

    def __init__(self, on_reports: OnReports, stage: str):
        self.on_reports, self.stage = on_reports, stage
        self._mailbox: Mailbox | None = None
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __call__(self, numbers: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        self.on_reports([ProgressReport.of(self.stage, time.time(), numbers, notes)])

    def __reduce__(self) -> tuple[type, tuple[object, str]]:
        from mirepoix.workflows.runner.board import Mailbox, Reporter

        if self._mailbox is None:
            self._mailbox = Mailbox()
            self._reader.start()
        return Reporter, (self._mailbox.reporter(self.stage).board, self.stage)

    def _read(self) -> None:
        assert self._mailbox is not None
        while not self._ended.wait(POLL_SECONDS):
            self.on_reports(self._mailbox.collect(timeout_s=POLL_SECONDS))

    def flush(self) -> None:
        """Pass on the last reports of workers, at the end of the stage; those of this process were passed on at once."""
        if self._mailbox is not None:
            self._ended.set()
            self._reader.join()
            self.on_reports(self._mailbox.close())
            self._mailbox = None


class RayExecutor:
    """Runs each stage as a Ray task, on whichever node has room for it."""

    def __init__(self, on_reports: OnReports, ensure_ray: Callable[[], None]):
        self.on_reports, self.ensure_ray = on_reports, ensure_ray
        self._mailbox: Mailbox | None = None
        self._running: dict[ray.ObjectRef, Task] = {}
        self._ended: list[tuple[Task, Manifest | Failure]] = []

    def prepare(self, stage: Stage) -> None:
        if self._mailbox is None:
            self.ensure_ray()
            from mirepoix.workflows.runner.board import Mailbox

            self._mailbox = Mailbox()

    def start(self, task: Task) -> None:
        import ray

        assert self._mailbox is not None, "a task is started before its stage was prepared"
        stage = task.stage
        # The process of a heavy stage holds half a gigabyte of imports, so it ends with the stage; light stages share a process.
        remote = ray.remote(perform) if stage.light else ray.remote(max_calls=1)(perform)
        place = {"node:__internal_head__": 0.001} if stage.on_head else {}
        remote = remote.options(name=stage.name, num_cpus=stage.num_cpus, resources=place, max_retries=stage.retries)
        try:
            self._running[remote.remote(task, self._mailbox.reporter(stage.name))] = task
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            why = f"its config or its arguments cannot be sent to a Ray worker: {root_cause(error)}"
            self._ended.append((task, Failure(why, traceback.format_exc())))

    def finished(self) -> Iterator[tuple[Task, Manifest | Failure]]:
        ended, self._ended = self._ended, []
        yield from ended
        if not self._running:
            return
        import ray
        from ray.exceptions import RayError

        assert self._mailbox is not None
        done, _ = ray.wait(list(self._running), timeout=POLL_SECONDS)
        self.on_reports(self._mailbox.collect_all(timeout_s=1.0) if done else self._mailbox.collect())
        for reference in done:
            task = self._running.pop(reference)
            try:
                result = ray.get(reference)
            except RayError as error:
                result = Failure(root_cause(error), str(error))
            yield task, result

    def close(self) -> None:
        if self._mailbox is None:
            return
        import ray

        with ExitStack() as last:
            last.callback(lambda mailbox: self.on_reports(mailbox.close()), self._mailbox)
            running = list(self._running)
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(running, num_returns=len(running), timeout=CANCEL_SECONDS)
