"""Progress reports across processes: stages send them to one Ray actor of the run, and the driver reads them from there."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from mirepoix.workflows.runner.progress import ProgressReport

BOARD_SIZE = 100_000  # reports; a driver that does not read for so long loses the oldest
TIMEOUT_S = 10.0  # for the board's last answers; one that died answers at once, with an error


class Board:
    """The Ray actor of a run that keeps the reports of its stages until the driver reads them."""

    def __init__(self) -> None:
        self.reports: deque[ProgressReport] = deque(maxlen=BOARD_SIZE)

    def put(self, report: ProgressReport) -> None:
        self.reports.append(report)

    def size(self) -> int:
        return len(self.reports)

    def drain(self) -> list[ProgressReport]:
        reports = list(self.reports)
        self.reports.clear()
        return reports


@dataclass(frozen=True)
class Reporter:
    """Sends the reports of a stage to the board without waiting for an answer; it pickles."""

    board: ActorHandle
    stage: str

    def __call__(self, numbers: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        self.board.put.remote(ProgressReport.of(self.stage, time.time(), numbers, notes))

    def flush(self) -> None:
        """Wait until the reports of this process have arrived: the board answers the calls of one process in order."""
        ray.wait([self.board.size.remote()], timeout=TIMEOUT_S)


class Mailbox:
    """Reads the board for the driver; the board is started with the first reporter."""

    def __init__(self) -> None:
        self._board: Any = None
        self._pending: ray.ObjectRef | None = None

    def reporter(self, stage: str) -> Reporter:
        if self._board is None:
            self._board = ray.remote(Board).options(num_cpus=0).remote()
        return Reporter(self._board, stage)

    def collect(self, timeout_s: float = 0.0) -> list[ProgressReport]:
        """The reports that arrived since the last call.

        With a timeout of 0 they may be those up to the call before, because the board's answer is not waited for. A board that is slow, or
        that died with its node, costs progress lines and curves, not the run.
        """
        if self._board is None:
            return []
        self._pending = self._pending or self._board.drain.remote()
        if not ray.wait([self._pending], timeout=timeout_s)[0]:
            return []
        drained, self._pending = self._pending, None
        try:
            return ray.get(drained)
        except RayError:
            self._board = None
            return []

    def collect_all(self, timeout_s: float) -> list[ProgressReport]:
        """All reports that arrived until now."""
        return self.collect(timeout_s) + self.collect(timeout_s)  # the first may be the answer to an earlier call

    def close(self) -> list[ProgressReport]:
        """The last reports; the board ends."""
        reports = self.collect_all(TIMEOUT_S)
        if self._board is not None:
            ray.kill(self._board)
            self._board = None
        return reports
