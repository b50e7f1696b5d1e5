"""A training as a series of attempts: started again after dead workers, before a node is taken away, and with more workers.

Each attempt is one `fit()` of Ray Train of the same name and storage, which goes on from the last checkpoint, and Ray Train itself retries
nothing: it counts failures for a whole `fit()`, while here those count that come one after the other without a new checkpoint in between,
so that the tenth lost machine does not end a training that makes progress. That needs only Ray's public interface, where a failure policy
of our own would be given to internals, and it costs the start of two small processes more than a retry within Ray Train (its controller,
and what cleans up after that one).
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, PreemptionError, Result, TrainingFailedError, WorkerGroupError

from mirepoix.components.training.workers.host import Notice
from mirepoix.components.training.workers.room import Places, release, release_abandoned
from mirepoix.models.errors import Refused, first_line, typed_line

SETTLE_SECONDS = 10.0
"""So long is waited for room for all workers, before a training starts with fewer."""
PATIENCE_SECONDS = 24 * 3600.0
"""So long is waited for room for the fewest workers: machines that were taken away at noon may be back at night."""
LEAST_LINE_SECONDS, MOST_LINE_SECONDS = 60.0, 3600.0
"""Between two lines that say that there is no room yet, at first and at most."""
POLL_SECONDS = 0.25
log = logging.getLogger(__name__)


@dataclass
class Room:
    """The room of a cluster for workers of a training, from the fewest to the most that it may have."""

    least: int
    most: int
    resources: dict[str, float]  # of a worker
    name: str  # of the reservations
    settle: float = SETTLE_SECONDS
    patience: float = PATIENCE_SECONDS

    def find(self) -> int:
        """How many workers can start; waits while they are fewer than the fewest. Refused if that lasts too long.

        Places are reserved and released again, and so are those that a worker reserved for others. Another may take one before the workers
        start; then the start fails, and room is looked for again.
        """
        self.release()
        places = Places(self.name, self.most, self.resources)
        start = time.monotonic()
        line, distance = start + LEAST_LINE_SECONDS, LEAST_LINE_SECONDS
        try:
            while True:
                release_abandoned()  # of workers that are dying meanwhile
                found, waited = places.found(), time.monotonic() - start
                if found == self.most or (found >= self.least and waited >= self.settle):
                    return found
                if waited >= self.patience:
                    raise Refused(
                        f"no room for {self._workers} within {waited / 3600:.0f} h (there was room for {found}); add machines to the "
                        "cluster, or lower min_workers or num_workers; run again, it goes on from its last checkpoint"
                    )
                if time.monotonic() >= line:
                    log.warning("waiting for room for %s since %.0f min; there is room for %d", self._workers, waited / 60, found)
                    distance = min(2 * distance, MOST_LINE_SECONDS)
                    line = time.monotonic() + distance
                time.sleep(POLL_SECONDS)
        finally:
            self.release()

    def release(self) -> None:
        """Releases the places, those included that a worker reserved, and those of workers whose controller was killed."""
        release(self.name)
        release_abandoned()

    @property
    def _workers(self) -> str:
        count = f"{self.least} worker" + ("s" if self.least > 1 else "")
        return f"{count} of {', '.join(f'{number:g} {name}' for name, number in self.resources.items())}"


@dataclass
class Attempts:
    """The attempts of one training."""

    fit: Callable[[int], Mapping[str, Any]]  # trains with so many workers; returns what rank 0 returned
    saved: Callable[[], str | None]  # the name of the last committed checkpoint
    room: Room
    max_failures: int  # one after the other, without a new checkpoint in between
    say: Callable[..., None] = log.warning

    def run(self) -> tuple[Mapping[str, Any], int]:
        """What rank 0 returned at the end of the training, and the number of workers that it ended with.

        No place stays reserved after the training, however it ends, nor one that it reserved before its process was killed and started
        again: other stages of the run would wait for it.
        """
        try:
            self.room.release()
            return self._run()
        finally:
            self.room.release()

    def _run(self) -> tuple[Mapping[str, Any], int]:
        failures = 0
        failed_at: str | None = None  # the last checkpoint when a failure was last counted, whatever came in between
        looked = self.room.least == self.room.most  # where the number is fixed, Ray Train waits for room first
        while True:
            workers = self.room.most if looked else self.room.find()
            looked = self.room.least == self.room.most
            try:
                value = self.fit(workers)
                if "again" not in value:
                    return value, workers
                self.say("%s; the training starts again from %s", _NOTICES[value["again"]], _named(self.saved()))
                continue
            except (TrainingFailedError, RayActorError) as error:
                if has_no_room(error):
                    looked = False
                    continue
                if is_preemption(error):
                    self.say("a node was taken away; the training goes on from %s", _named(self.saved()))
                    continue
                if isinstance(error, ControllerError) and not _died_at_start(error):
                    raise
                last = self.saved()
                failures, failed_at = (failures + 1 if last == failed_at else 1), last
                if failures > self.max_failures:
                    raise (_ended(error, failures, last) or error) from None
                self.say(
                    "%s; the training goes on from %s (restart %d of %d without a new checkpoint)",
                    why(error),
                    _named(last),
                    failures,
                    self.max_failures,
                )


_NOTICES = {
    Notice.PREEMPTED: "the node of a worker is about to be taken away",
    Notice.ROOM: "there is room for more workers",
}


def committed(run: str) -> str | None:
    """The name of the last committed checkpoint of a run of Ray Train, by the path or URI of its folder; None before the first."""
    try:
        checkpoint = Result.from_path(run).checkpoint
    except RuntimeError:  # nothing was written yet
        return None
    return checkpoint.path.rstrip("/").rpartition("/")[2] if checkpoint else None


def has_no_room(error: Exception) -> bool:
    """Whether the workers could not be placed in time; no worker failed."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


def _died_at_start(error: Exception) -> bool:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupFailedError)


def is_preemption(error: Exception) -> bool:
    """Whether a node was taken away by those who lend it; such failures are not counted."""
    return isinstance(error, PreemptionError) or any(getattr(_death(each), "preempted", False) for each in _failures(error).values())


def why(error: Exception) -> str:
    """One line on what went wrong: a worker's own refusal, else a worker that died, else the first exception of a worker."""
    if isinstance(error, RayActorError):
        return "the controller of the workers died"
    if _died_at_start(error):
        return "a worker died while it started"
    failures = _failures(error)
    for rank, each in sorted(failures.items(), key=lambda item: (not isinstance(item[1], Refused), _death(item[1]) is None, item[0])):
        if isinstance(each, Refused):
            return str(each)
        if _death(each) is not None:
            return f"rank {rank} died"
        return f"rank {rank} failed with {typed_line(each)}"
    return first_line(error)


def _ended(error: Exception, failures: int, checkpoint: str | None) -> Refused | None:
    """The line that ends a training whose workers are refused or die again and again; None for an exception of our own making."""
    failed = _failures(error).values()
    refusals = [each for each in failed if isinstance(each, Refused)]
    if refusals:
        return refusals[0]
    if not (isinstance(error, RayActorError) or _died_at_start(error) or any(_death(each) is not None for each in failed)):
        return None
    times = f"{failures} times in a row without a new checkpoint" if failures > 1 else "and max_failures is 0"
    return Refused(
        f"{why(error)} {times}; see that node's log: it may be out of memory; run again to go on from {_named(checkpoint)}, "
        "or raise max_failures"
    )


def _failures(error: Exception) -> Mapping[int, Exception]:
    return error.worker_failures if isinstance(error, WorkerGroupError) else {}


def _death(error: Exception) -> RayActorError | None:
    """The end of the worker's process that an exception tells of."""
    inner = getattr(error, "health_check_failure", error)
    return inner if isinstance(inner, RayActorError) else None


def _named(checkpoint: str | None) -> str:
    """What is gone on from, as Ray's list has it: the first checkpoint may be complete and not be in it yet."""
    return f"the checkpoint {checkpoint}" if checkpoint else "its last complete checkpoint, or its beginning"
