"""What a stage's work is given and what it returns; `work(context, config, **inputs) -> Outcome`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Rows:
    """The row counts of a stage: each row that was read was written, rejected with a reason, or merged into another."""

    read: int
    written: int
    rejected: int = 0
    merged: int = 0

    def __post_init__(self) -> None:
        accounted = self.written + self.rejected + self.merged
        assert self.read == accounted, (
            f"{self.read} rows were read but {accounted} are accounted for "
            f"({self.written} written + {self.rejected} rejected + {self.merged} merged)"
        )


@dataclass(frozen=True)
class Outcome:
    """What a stage returns besides its folder."""

    rows: Rows
    metrics: Mapping[str, float]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # small ones; those with a column "count" are plotted too


class ProgressFunction(Protocol):
    """Takes the progress of a stage: {"step": 3, "total": 10, "loss": 0.2} is a line and points of curves.

    Notes are sentences for whoever watches the run: each becomes a line that stays, and a part of the run's description in MLflow.
    """

    def __call__(self, numbers: dict[str, float], /, notes: Sequence[str] = ()) -> None: ...


@dataclass(frozen=True)
class Context:
    """What the runner passes to a stage's work."""

    folder: Path  # empty and local; what is written here is published when the work returns
    scratch: str  # path or URI that survives kills until the stage is published: checkpoints of long stages
    report: ProgressFunction  # pickles for Ray workers
    seed: int
    artefacts: str = ""  # path or URI of the storage's finished results, by stage and key; empty: none may be read

    def counter(self, total: int) -> Callable[[int], None]:
        """A function that is told how many more are done, and reports how many of the total that makes."""
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self.report({"step": done, "total": total})

        return count
