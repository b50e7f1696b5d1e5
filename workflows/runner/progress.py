"""Progress of running stages: the numbers that they report, and the lines that show them."""

import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

BAR_WIDTH = 24
TTY_SECONDS, PLAIN_SECONDS = 0.2, 5.0  # between two drawings; between two plain lines of one stage


@dataclass(frozen=True)
class ProgressReport:
    """One progress report of a stage: numbers by name, and the time."""

    stage: str
    moment: float
    numbers: dict[str, float]


class Display:
    """One line per running stage: redrawn with a bar on a terminal; elsewhere a plain line every PLAIN_SECONDS."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.width = 12
        self._first: dict[str, ProgressReport] = {}
        self._latest: dict[str, ProgressReport] = {}
        self._shown: dict[str, float] = {}
        self._drawn_lines = 0
        self._drawn_at = 0.0

    def fit(self, stages: Iterable[str]) -> None:
        """Make the column of names as wide as the longest of them."""
        self.width = max(self.width, *map(len, stages))

    def print_line(self, stage: str, text: str) -> None:
        """Write a line that is not drawn over."""
        self._erase()
        self.stream.write(f"{stage:<{self.width}} {text}\n")
        self._draw()

    def begin(self, stage: str) -> None:
        self._latest[stage] = ProgressReport(stage, time.time(), {})
        self._draw()

    def end(self, stage: str) -> None:
        for known in (self._first, self._latest, self._shown):
            known.pop(stage, None)
        self._erase()
        self._draw()

    def update(self, report: ProgressReport) -> None:
        """Set the numbers of a stage's line."""
        if report.stage not in self._latest:
            return
        self._latest[report.stage] = report
        self._first.setdefault(report.stage, report)

    def refresh(self) -> None:
        """Draw or write the lines whose time has come."""
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


def bar(report: ProgressReport) -> str:
    """The share of the work that is done, as a bar; empty where the total is not known."""
    total = report.numbers.get("total", 0)
    if total <= 0:
        return ""
    done = round(BAR_WIDTH * min(1.0, max(0.0, report.numbers.get("step", 0) / total)))
    return "━" * done + "─" * (BAR_WIDTH - done) + " "


def line(report: ProgressReport, first: ProgressReport) -> str:
    """The numbers of a report as text: 120/300  loss 2.31  1:02 left."""
    numbers = dict(report.numbers)
    step, total = numbers.pop("step", None), numbers.pop("total", None)
    parts = []
    if step is not None:
        parts.append(f"{step:.0f}/{total:.0f}" if total else f"step {step:.0f}")
    parts += [f"{name} {number:.4g}" for name, number in numbers.items()]
    done = step or 0
    steps, seconds = done - first.numbers.get("step", 0), report.moment - first.moment
    if total and steps > 0 and seconds > 0:
        parts.append(f"{clock((total - done) * seconds / steps)} left")
    return "  ".join(parts) or "running"


def clock(seconds: float) -> str:
    """A duration as text: 1:02, or 1:01:02 from an hour on."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
