"""Two or more systems on the same queries: differences of their means with intervals, and paired tests corrected for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.evaluation.boards.board import MAIN, Board
from mirepoix.components.evaluation.evaluate_config import Mean
from mirepoix.components.evaluation.scoring.averaging import averaged
from mirepoix.components.evaluation.scoring.significance import corrected, interval, paired_test
from mirepoix.models.errors import Refused

By = Literal["all", "task", "dataset"]


@dataclass(frozen=True)
class Compared:
    """One measure of two systems, over all queries or those of a task or data set."""

    of: str  # the task or data set; empty: all
    measure: str
    system: str  # that is compared with the first
    queries: int
    first: float
    other: float
    difference: float  # of the other to the first
    low: float
    high: float
    p: float
    p_corrected: float


def compare(
    values: Mapping[str, pa.Table],
    measures: Sequence[str],
    mean: Mean,
    by: By = "all",
    draws: int = 10_000,
    seed: int = 0,
    board: Board | None = None,
) -> list[Compared]:
    """Each system against the first, by every measure; `values` are rows of one query each, as `Measuring` gives them.

    The means are over tasks, data sets or queries, as those of a result. All tests together are one family.
    """
    first, *others = values
    found = []
    tables = {name: table.sort_by([("query", "ascending")]) for name, table in values.items()}
    _refuse_others(tables)
    parts = averaged(tables[first]["dataset"].to_pylist(), tables[first]["task"].to_pylist(), mean, board)
    for name in others:
        for of, chosen in _parts(tables[first], by):
            for measure in measures:
                one, other = (tables[system][measure].to_numpy() for system in (first, name))
                known = chosen[~np.isnan(one[chosen]) & ~np.isnan(other[chosen])]
                if not len(known) or (measure != MAIN and len(known) < len(chosen)):
                    continue  # of the board's measure queries of other data sets are left out, as in a result
                groups = [group for part in parts if len(group := known[np.isin(known, part)])]
                differences = [other[group] - one[group] for group in groups]
                before, after = (float(np.mean([column[group].mean() for group in groups])) for column in (one, other))
                low, high = interval(differences, draws, seed)
                p = paired_test(differences, draws, seed)
                found.append(Compared(of, measure, name, len(known), before, after, after - before, low, high, p, p))
    once = corrected([each.p for each in found])
    return [replace(each, p_corrected=value) for each, value in zip(found, once, strict=True)]


def _refuse_others(tables: Mapping[str, pa.Table]) -> None:
    """Refuses systems that were asked other queries than the first."""
    first, *others = tables
    asked = tables[first]["query"].to_pylist()
    for name in others:
        if (other := tables[name]["query"].to_pylist()) != asked:
            lacking, more = sorted(set(asked) - set(other)), sorted(set(other) - set(asked))
            one = f"{name} was not asked {lacking[0]!r}" if lacking else f"{first} was not asked {more[0]!r}"
            shared = len(set(asked) & set(other))
            raise Refused(
                f"{first} and {name} were not asked the same queries ({one}; {shared:,} are in both); compare runs on the same data"
            )


def _parts(table: pa.Table, by: By) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """All queries, or those of each task or data set."""
    if by == "all":
        return [("", np.arange(table.num_rows))]
    column = np.array(table[by].to_pylist())
    return [(str(name), np.flatnonzero(column == name)) for name in np.unique(column)]
