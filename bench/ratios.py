"""Ratios that are measured interleaved, with their spread."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Row:
    """A ratio, or another figure, in each round; the most or the least that is promised of its median."""

    what: str
    values: Sequence[float]
    most: float | None = None
    least: float | None = None
    note: str = field(default="")

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def holds(self) -> bool:
        return (self.most is None or self.median <= self.most) and (self.least is None or self.median >= self.least)

    @property
    def promise(self) -> str:
        return f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}" if self.least is not None else ""


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = ["| | median (quartiles) | promised | |", "|---|---|---|---|"]
    for row in rows:
        low, high = np.quantile(row.values, [0.25, 0.75])
        spread = f" ({low:.3g} to {high:.3g})" if len(row.values) > 1 else ""
        lines.append(f"| {row.what} | {row.median:.3g}{spread} | {row.promise} | {row.note} |")
    return "\n".join(lines)


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
