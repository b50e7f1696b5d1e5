"""Ratios that are measured interleaved, with their spread."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    """A ratio, or another figure, in each round, none if it was not measured; the most or the least that is promised of its median."""

    what: str
    values: Sequence[float]
    most: float | None = None
    least: float | None = None
    note: str = field(default="")
    reason: str = field(default="")  # for the number that is promised

    @property
    def median(self) -> float:
        return float(np.median(self.values)) if len(self.values) else math.nan

    @property
    def holds(self) -> bool:
        """Whether it was measured, and is as promised."""
        return (
            len(self.values) > 0 and (self.most is None or self.median <= self.most) and (self.least is None or self.median >= self.least)
        )

    @property
    def promise(self) -> str:
        bound = f"at most {self.most:.4g}" if self.most is not None else f"at least {self.least:.4g}" if self.least is not None else ""
        return f"{bound} ({self.reason})" if self.reason else bound

    @property
    def broken(self) -> str:
        """A line that says what does not hold."""
        if len(self.values) == 0:
            return f"{self.what}: not measured ({self.note})"
        return f"{self.what}: {self.median:.3g}, and {self.promise} is promised"


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = ["| | median (quartiles) | promised | |", "|---|---|---|---|"]
    for row in rows:
        found = f"{row.median:.3g}" if len(row.values) else "not measured"
        if len(row.values) > 1:
            low, high = np.quantile(row.values, [0.25, 0.75])
            found += f" ({low:.3g} to {high:.3g})"
        lines.append(f"| {row.what} | {found} | {row.promise} | {row.note} |")
    return "\n".join(lines)


def checked(rows: Sequence[Row], check: bool) -> int:
    """Says which rows do not hold; the exit status, which is 1 for them if `check`."""
    broken = [row for row in rows if not row.holds]
    for row in broken:
        print(row.broken, file=sys.stderr)
    return int(check and bool(broken))


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, warm: int = 2) -> dict[str, np.ndarray]:
    """CPU seconds of each candidate in each round; the order alternates, so that none is always the one after another."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm + rounds):
        names = list(candidates) if number % 2 else list(reversed(candidates))
        for name in names:
            started = time.process_time()
            candidates[name]()
            if number >= warm:
                seconds[name].append(time.process_time() - started)
    return {name: np.array(values) for name, values in seconds.items()}
