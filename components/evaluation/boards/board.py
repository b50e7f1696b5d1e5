"""What a board is: a row for each data set and task, with its measure and its pool, and means over rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from mirepoix.components.evaluation.scoring.measures import measure

Pool = Literal["universal", "target", "dataset", "listed", "board"]
"""The candidates that a query is searched in: all; those of the modality that its task asks for; those of its data set; those that are
judged for it; whichever of these its board says."""
POOLS: tuple[Pool, ...] = get_args(Pool)
MAIN = "main"
"""In the place of a measure: that of the row of the board that a query belongs to."""
PRINTED = {"RR": "MRR", "R": "Recall", "Success": "Hit", "nDCG": "NDCG", "P": "P", "AP": "MAP"}


@dataclass(frozen=True)
class BoardRow:
    """A data set of a board, or one task of it."""

    dataset: str
    label: str
    measure: str  # by ir-measures' name
    groups: tuple[str, ...] = ()
    task: str | None = None  # None: all tasks of the data set
    pool: Pool | None = None  # None: every pool that is measured
    mteb: str = ""  # the name of the task of mteb that is the same, if there is one

    def holds(self, dataset: str, task: str) -> bool:
        """Whether queries of a data set and a task count in this row."""
        return dataset == self.dataset and task == (self.task or task)


@dataclass(frozen=True)
class Board:
    """A public board, as its authors compute and print it."""

    name: str
    title: str
    source: str  # where its protocol was read
    rows: tuple[BoardRow, ...]
    pools: tuple[Pool, ...]  # the first is that of the headline
    means: tuple[str, ...] = ()  # groups whose rows are averaged, in the order in which the board prints them
    overall: str = "All"  # what the mean over all rows is called
    columns: tuple[str, ...] = ()  # measures that it prints of each row, where these are several
    also: tuple[str, ...] = ()  # measures that are computed besides
    printed: Mapping[str, str] | None = None  # what it calls its measures, where not as PRINTED
    whole_words: bool = False  # answers are looked for as whole words, not as any string
    note: str = ""  # what of the published board cannot be had

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """All measures that are computed for it, by ir-measures' names."""
        return tuple(dict.fromkeys([*self.columns, *(row.measure for row in self.rows), *self.also]))

    def row(self, dataset: str, task: str) -> BoardRow | None:
        """The row that queries of a data set and a task count in; None where the board has none."""
        return next((row for row in self.rows if row.holds(dataset, task)), None)

    def called(self, name: str) -> str:
        """What the board calls a measure."""
        if self.printed and name in self.printed:
            return self.printed[name]
        parsed = measure(name)
        return f"{PRINTED[parsed.kind]}@{parsed.depth}"

    def mean_rows(self, mean: str) -> tuple[BoardRow, ...]:
        """The rows of a mean, by the name of its group or that of the mean over all."""
        return tuple(row for row in self.rows if mean == self.overall or mean in row.groups)

    def means_of(self, values: Callable[[BoardRow], float | None]) -> list[tuple[str, float, int, int]]:
        """Each mean over the rows that have a value: its name, the mean, how many have one, and how many there are."""
        found = []
        for name in (*self.means, self.overall):
            rows = self.mean_rows(name)
            there = [value for row in rows if (value := values(row)) is not None]
            if there:
                found.append((name, sum(there) / len(there), len(there), len(rows)))
        return found
