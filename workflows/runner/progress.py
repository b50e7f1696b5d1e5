"""Progress of running stages: the numbers that they report, and the lines that show them.

On a terminal each running stage has a line that is redrawn. Elsewhere (a log, a job) lines are written at growing distances, and only where
the numbers have changed. `--json` writes an object a line instead (its schema: docs/storage.md), `--quiet` nothing.
"""

import ast
import json
import re
import shutil
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TextIO

BAR_WIDTH = 24
TTY_SECONDS = 0.2  # between two drawings
PLAIN_SECONDS = (
    5.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
)  # from a stage's begin to its first line, from that to the next, ...; the last repeats
JSON_SECONDS = (1.0, 5.0)
CHANGED = re.compile(r"(?P<field>config changed: \S+) (?P<old>.*) -> (?P<new>.*)")
SHOWN = {"loss": "loss {:.4g}", "accuracy": "accuracy {:.3f}", "pairs_per_second": "{:.3g} pairs/s"}
"""The numbers of a training that its line shows, after the time left, and their forms."""
PACE_SECONDS, PACES = 1.0, 15
"""The speed of a stage is the median over so many of its last stretches, each at least so many seconds long."""
LINE = 119
"""The most characters of a line that stays."""
Output = Literal["text", "json", "quiet"]
State = Literal["running", "waiting", "up to date", "done", "failed", "not run"]


@dataclass(frozen=True)
class ProgressReport:
    """One progress report of a stage: numbers by name, the time, and notes, which are sentences for people."""

    stage: str
    moment: float
    numbers: dict[str, float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, stage: str, moment: float, numbers: Mapping[str, float], notes: Sequence[str] = ()) -> "ProgressReport":
        return cls(stage, moment, {name: float(number) for name, number in numbers.items()}, tuple(notes))


class Pace:
    """How long a step of a stage takes, by its last reports.

    It is a median over stretches between reports, so that a pause, such as the restart of workers, does not change it. Steps that are
    repeated after a restart start a new stretch. The time before the first report, with all that is done once, is in none.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None  # step and moment
        self._seconds: deque[float] = deque(maxlen=PACES)

    def add(self, report: ProgressReport) -> None:
        step = report.numbers.get("step")
        if step is None:
            return
        if self._last is None or step < self._last[0]:
            self._last = step, report.moment
            return
        steps, seconds = step - self._last[0], report.moment - self._last[1]
        if steps > 0 and (seconds >= PACE_SECONDS or (seconds > 0 and not self._seconds)):
            self._seconds.append(seconds / steps)
            self._last = step, report.moment

    def left(self, report: ProgressReport) -> float | None:
        """The seconds that the steps after a report will take; None where that is not known, or nothing is left."""
        steps = report.numbers.get("total", 0.0) - report.numbers.get("step", 0.0)
        return steps * median(self._seconds) if steps > 0 and self._seconds else None


class Display:
    """One line per running stage: redrawn with a bar on a terminal; elsewhere a plain line now and then."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic):
        self.stream = sys.stderr if stream is None else stream
        self.now = now
        self.live = self.stream.isatty()
        self.width = 12
        self.distances: Sequence[float] = PLAIN_SECONDS
        self._paces: dict[str, Pace] = {}
        self._noted: dict[str, float] = {}  # the last step whose notes were shown, by stage
        self._latest: dict[str, ProgressReport] = {}
        self._written: dict[str, tuple[int, float, dict[str, float]]] = {}  # lines so far, when the last was, and its numbers
        self._drawn_lines = 0
        self._drawn_at = 0.0

    def open(self, **facts: Any) -> None:
        """Tell what begins: the recipe, the folder of the run, the names of its stages."""

    def note(self, text: str) -> None:
        """Tell what to know before the first stage."""
        self.print_line("note", text)

    def fit(self, stages: Iterable[str]) -> None:
        """Make the column of names as wide as the longest of them."""
        self.width = max(self.width, *map(len, stages))

    def print_line(self, stage: str, text: str, state: State = "running", **facts: Any) -> None:
        """Write a line that is not drawn over, on further lines where it is long; of a failure the log is on a line of its own."""
        self._erase()
        log = facts.get("log")
        whole = f"{text} (log: {log})" if log else text
        lines = [whole]
        if len(whole) > LINE - self.width - 1:
            lines = textwrap.wrap(text, LINE - self.width - 1, break_on_hyphens=False)
            if log:  # by its place in the storage where its path is longer than a line
                place = "/".join(log.partition("?")[0].split("/")[-2:])
                lines.append(f"log: {log}" if len(log) < LINE - 8 else f"log: {place} in the storage")
        for number, each in enumerate(lines):
            head = f"{'' if number else stage:<{self.width}} "
            self.stream.write(f"{head if len(head + each) <= LINE else '  '}{each}\n")
        self._draw()

    def begin(self, stage: str) -> None:
        self._latest[stage] = ProgressReport(stage, time.time(), {})
        self._paces[stage] = Pace()
        self._written[stage] = (0, self.now(), {})
        self._draw()

    def end(self, stage: str) -> None:
        for known in (self._paces, self._noted, self._latest, self._written):
            known.pop(stage, None)
        self._erase()
        self._draw()

    def update(self, report: ProgressReport) -> None:
        """Set the numbers of a stage's line, and write its notes; those of a step that is repeated after a restart are left out."""
        if report.stage not in self._latest:
            return
        step = report.numbers.get("step")
        if report.notes and (step is None or step > self._noted.get(report.stage, -1.0)):
            if step is not None:
                self._noted[report.stage] = step
            for note in report.notes:
                self.print_line(report.stage, f"warns: {note}", warning=note)
        if report.numbers:
            self._latest[report.stage] = report
            self._paces[report.stage].add(report)

    def refresh(self) -> None:
        """Draw or write the lines whose time has come."""
        if self.live:
            if self.now() - self._drawn_at >= TTY_SECONDS:
                self._erase()
                self._draw()
        else:
            for report in self._due():
                self.stream.write(f"{f'{report.stage:<{self.width}} {line(report, self._paces[report.stage])}'[:LINE]}\n")
        self.stream.flush()

    def _due(self) -> list[ProgressReport]:
        """The reports that are to be written now: those that differ from what was written last, which was long enough ago."""
        found = []
        for stage, report in self._latest.items():
            count, at, numbers = self._written[stage]
            distance = self.distances[min(count, len(self.distances) - 1)]
            if report.numbers and report.numbers != numbers and self.now() - at >= distance:
                self._written[stage] = (count + 1, self.now(), report.numbers)
                found.append(report)
        return found

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
                text = f"{stage:<{self.width}} {bar(report)}{line(report, self._paces[stage])}"
                self.stream.write(f"{text[:width]}\n")
            self._drawn_lines, self._drawn_at = len(self._latest), self.now()
        self.stream.flush()


class QuietDisplay(Display):
    """Shows nothing: what failed, and the result, are printed at the end of a run."""

    def print_line(self, stage: str, text: str, state: State = "running", **facts: Any) -> None:
        pass

    def refresh(self) -> None:
        pass

    def _draw(self) -> None:
        pass


class JsonDisplay(Display):
    """One JSON object a line, on standard output: the begin of a run, every change of a stage's state, and its numbers now and then."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic):
        super().__init__(sys.stdout if stream is None else stream, now)
        self.live = False
        self.distances = JSON_SECONDS

    def open(self, **facts: Any) -> None:
        self._write("begin", facts)

    def note(self, text: str) -> None:
        self._write("note", {"text": text})

    def print_line(self, stage: str, text: str, state: State = "running", **facts: Any) -> None:
        self._write("stage", {"stage": stage, "state": state, **facts})

    def refresh(self) -> None:
        for report in self._due():
            self._write("progress", {"stage": report.stage, "numbers": report.numbers})

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        write_event(event, self.stream, **facts)


def write_event(event: str, stream: TextIO | None = None, **facts: Any) -> None:
    """Write one event as a line of JSON."""
    print(json.dumps({"event": event, "time": round(time.time(), 3), **facts}), file=stream or sys.stdout, flush=True)


def display_of(output: Output) -> Display:
    """The display of a form of output."""
    return {"text": Display, "json": JsonDisplay, "quiet": QuietDisplay}[output]()


def shortened(reasons: str, room: int = LINE - 24) -> str:
    """The first of several reasons, separated by "; ", that fit into a line, and how many more there are."""
    parts = reasons.split("; ")
    kept = 1
    while kept < len(parts) and len("; ".join(parts[: kept + 1])) <= room - len("; and 99 more"):
        kept += 1
    return "; ".join(parts[:kept]) + (f"; and {len(parts) - kept} more" if kept < len(parts) else "")


def fitted(reasons: str, room: int) -> str:
    """Reasons in at most `room` characters, with the values of fields as the command line writes them, and how many more there are."""
    plain = "; ".join(map(_written_values, reasons.split("; ")))
    short = plain if len(plain) <= room else shortened(plain, room)
    if len(short) > room and ", " in short:
        names = short.split(", ")
        kept = max(1, next((count for count in range(len(names), 0, -1) if len(", ".join(names[:count])) <= room - len(" and 99 more")), 1))
        short = ", ".join(names[:kept]) + (f" and {len(names) - kept} more" if kept < len(names) else "")
    return short if len(short) <= room else f"{short[: room - 4]} ..."


def _written_values(reason: str) -> str:
    """A reason that tells the values of a field, which are Python's, as the command line writes them: a,b for a list, null, true."""
    found = CHANGED.fullmatch(reason)
    return reason if found is None else f"{found['field']} {_written(found['old'])} -> {_written(found['new'])}"


def _written(value: str) -> str:
    try:
        plain = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    if isinstance(plain, list | tuple) and plain and all(isinstance(each, str | int | float) for each in plain):
        return ",".join(map(str, plain))
    return json.dumps(plain) if isinstance(plain, list | tuple | bool | None) else value


def bar(report: ProgressReport) -> str:
    """The share of the work that is done, as a bar; empty where the total is not known."""
    total = report.numbers.get("total", 0)
    if total <= 0:
        return ""
    done = round(BAR_WIDTH * min(1.0, max(0.0, report.numbers.get("step", 0) / total)))
    return "━" * done + "─" * (BAR_WIDTH - done) + " "


def line(report: ProgressReport, pace: Pace) -> str:
    """A report as text: 120/300  1:02 left  loss 2.31  accuracy 0.125  24 pairs/s, or 2,998 rows where their total is not known.

    MLflow and `--json` have the other numbers of a training.
    """
    step, total = report.numbers.get("step"), report.numbers.get("total")
    parts = []
    if step is not None:
        parts.append(f"{step:.0f}/{total:.0f}" if total else f"{step:,.0f} row{'' if step == 1 else 's'}")
    if (seconds := pace.left(report)) is not None:
        parts.append(f"{time_left(seconds)} left")
    parts += [form.format(report.numbers[name]) for name, form in SHOWN.items() if name in report.numbers]
    return "  ".join(parts) or "running"


def time_left(seconds: float) -> str:
    """A duration as text: 8 s, and from a minute on 1:02."""
    return f"{max(0.0, seconds):.0f} s" if seconds < 59.5 else clock(seconds)


def clock(seconds: float) -> str:
    """A duration as text: 1:02, or 1:01:02 from an hour on."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
