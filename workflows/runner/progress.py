"""What running stages say: a small board on the cluster that collects their reports, and the lines in which they are shown."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

BOARD_SIZE = 100_000  # reports; a driver that does not drain for so long loses the oldest
BAR_WIDTH = 24
TTY_SECONDS, PLAIN_SECONDS = 0.2, 5.0  # between two drawings; between two plain lines of one stage


@dataclass(frozen=True)
class Note:
    """One thing that a stage said: numbers by name, and when."""

    stage: str
    moment: float
    numbers: dict[str, float]


class Board:
    """The one actor of a run to which its stages report, wherever they run."""

    def __init__(self) -> None:
        self.reports: deque[Note] = deque(maxlen=BOARD_SIZE)

    def put(self, report: Note) -> None:
        self.reports.append(report)

    def size(self) -> int:
        return len(self.reports)

    def drain(self) -> list[Note]:
        reports = list(self.reports)
        self.reports.clear()
        return reports


@dataclass(frozen=True)
class Reporter:
    """A stage's end of the board: callable, picklable, and never waiting for an answer."""

    board: ActorHandle
    stage: str

    def __call__(self, report: dict[str, float]) -> None:
        self.board.put.remote(Note(self.stage, time.time(), {name: float(number) for name, number in report.items()}))

    def flush(self) -> None:
        """Wait until what this process said has arrived, for a board answers its callers in order."""
        ray.wait([self.board.size.remote()], timeout=5)


class Mailbox:
    """The driver's end of the board, which starts with the first reporter."""

    def __init__(self) -> None:
        self._board: ActorHandle | None = None
        self._asked: ray.ObjectRef | None = None

    def reporter(self, stage: str) -> Reporter:
        if self._board is None:
            self._board = ray.remote(Board).options(num_cpus=0).remote()
        return Reporter(self._board, stage)

    def collect(self, patience_s: float = 0.0) -> list[Note]:
        """What arrived since the last call; a board that is slow, or died with its node, costs lines and curves, not the run."""
        if self._board is None:
            return []
        self._asked = self._asked or self._board.drain.remote()
        if not ray.wait([self._asked], timeout=patience_s)[0]:
            return []
        answer, self._asked = self._asked, None
        try:
            return ray.get(answer)
        except RayError:
            self._board = None
            return []

    def close(self) -> list[Note]:
        """The last notes; the board goes."""
        notes = self.collect(patience_s=2.0) + self.collect(patience_s=2.0)  # the first may answer a question asked before the end
        if self._board is not None:
            ray.kill(self._board)
            self._board = None
        return notes


class Display:
    """One line per running stage: redrawn with a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.width = 12
        self._first: dict[str, Note] = {}
        self._latest: dict[str, Note] = {}
        self._shown: dict[str, float] = {}
        self._drawn_lines = 0
        self._drawn_at = 0.0

    def fit(self, stages: Iterable[str]) -> None:
        """Make room for the names of the stages."""
        self.width = max(self.width, *map(len, stages))

    def say(self, stage: str, text: str) -> None:
        """A line that stays."""
        self._erase()
        self.stream.write(f"{stage:<{self.width}} {text}\n")
        self._draw()

    def begin(self, stage: str) -> None:
        self._latest[stage] = Note(stage, time.time(), {})
        self._draw()

    def end(self, stage: str) -> None:
        for known in (self._first, self._latest, self._shown):
            known.pop(stage, None)
        self._erase()
        self._draw()

    def show(self, report: Note) -> None:
        """Take a stage's newest numbers to its line."""
        if report.stage not in self._latest:
            return
        self._latest[report.stage] = report
        self._first.setdefault(report.stage, report)

    def refresh(self) -> None:
        """Draw what is due."""
        now = time.monotonic()
        if self.live and now - self._drawn_at >= TTY_SECONDS:
            self._erase()
            self._draw()
        for stage, report in self._latest.items():
            if not self.live and report.numbers and now - self._shown.get(stage, -PLAIN_SECONDS) >= PLAIN_SECONDS:
                self._shown[stage] = now
                self.stream.write(f"{stage:<{self.width}} {line(report, self._first[stage])}\n")
        self.stream.flush()

    def close(self) -> None:
        self._erase()
        self._latest.clear()
        self.stream.flush()

    def _erase(self) -> None:
        if self._drawn_lines:
            self.stream.write(f"\x1b[{self._drawn_lines}F\x1b[0J")
            self._drawn_lines = 0

    def _draw(self) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            for stage, report in self._latest.items():
                text = f"{stage:<{self.width}} {bar(report)}{line(report, self._first.get(stage, report))}"
                self.stream.write(f"{text[:width]}\n")
            self._drawn_lines, self._drawn_at = len(self._latest), time.monotonic()
        self.stream.flush()


def bar(report: Note) -> str:
    """A bar of the work done; nothing where the total is not known."""
    total = report.numbers.get("total", 0)
    if total <= 0:
        return ""
    done = round(BAR_WIDTH * min(1.0, max(0.0, report.numbers.get("step", 0) / total)))
    return "━" * done + "─" * (BAR_WIDTH - done) + " "


def line(report: Note, first: Note) -> str:
    """The numbers of a report as text: 120/300  loss 2.31  1:02 left."""
    numbers = dict(report.numbers)
    step, total = numbers.pop("step", None), numbers.pop("total", None)
    parts = []
    if step is not None:
        parts.append(f"{step:.0f}/{total:.0f}" if total else f"step {step:.0f}")
    parts += [f"{name} {number:.4g}" for name, number in numbers.items()]
    steps, seconds = (step or 0) - first.numbers.get("step", 0), report.moment - first.moment
    if total and steps > 0 and seconds > 0:
        parts.append(f"{clock((total - step) * seconds / steps)} left")
    return "  ".join(parts) or "running"


def clock(seconds: float) -> str:
    """1:02, or 1:01:02 from an hour on."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
