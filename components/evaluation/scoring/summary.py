"""Averages over queries by task, data set, pool and split, with intervals; the table of a board; which floors an encoder is below."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.evaluation.boards.board import MAIN, Board, BoardRow
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig, not_reached
from mirepoix.components.evaluation.scoring.averaging import averaged
from mirepoix.components.evaluation.scoring.measuring import CURVES
from mirepoix.components.evaluation.scoring.significance import interval

DIGITS = 6
KEYS = ("system", "pool", "split")
Values = npt.NDArray[np.float64]


@dataclass
class Summary:
    """The averages of the values that `Measuring` gave."""

    rows: pa.Table
    config: EvaluateConfig
    seed: int

    def results(self) -> list[dict[str, Any]]:
        """One entry for each system, pool and split: the number of queries, and each measure's average with its interval and its parts."""
        return [self._entry(dict(zip(KEYS, place, strict=True)), table) for place, table in self._places.items()]

    @cached_property
    def _places(self) -> dict[tuple[str, str, str], pa.Table]:
        """The rows of each system, pool and split."""
        found = {}
        unique = sorted(set(zip(*(self.rows[name].to_pylist() for name in KEYS), strict=True)))
        for place in unique:
            chosen = pa.array(np.ones(self.rows.num_rows, bool))
            for name, value in zip(KEYS, place, strict=True):
                chosen = pc.and_(chosen, pc.equal(self.rows[name], value))
            found[place] = self.rows.filter(chosen)
        return found

    def _entry(self, place: dict[str, str], table: pa.Table) -> dict[str, Any]:
        groups = _groups(table)
        tasks = sorted({task for _, task in groups})
        entry: dict[str, Any] = {
            **place,
            "queries": {task: sum(len(own) for (_, of), own in groups.items() if of == task) for task in tasks},
        }
        datasets = sorted({dataset for dataset, _ in groups})
        entry["datasets"] = {name: {task: len(groups[name, task]) for task in tasks if (name, task) in groups} for name in datasets}
        for name in self._named(table):
            values = table[name].to_numpy()
            if np.isnan(values).any():
                if name == MAIN and not np.isnan(values).all():  # queries of data sets that the board has not are left out
                    kept = {key: own[~np.isnan(values[own])] for key, own in groups.items()}
                    entry[name] = self._figures(values, {key: own for key, own in kept.items() if len(own)})
                continue
            entry[name] = self._figures(values, groups)
        entry["curve"] = self._curve(table, groups)
        return entry

    def _named(self, table: pa.Table) -> list[str]:
        return [each.name for each in self.config.measured] + [MAIN] * (MAIN in table.schema.names)

    def _figures(self, values: Values, groups: Mapping[tuple[str, str], npt.NDArray[np.int64]]) -> dict[str, Any]:
        parts = [values[own] for own in self._averaged(groups)]
        low, high = interval(parts, self.config.draws, self.seed)
        tasks = sorted({task for _, task in groups})
        datasets = sorted({dataset for dataset, _ in groups})
        return {
            "average": _round(np.mean([part.mean() for part in parts])),
            "low": _round(low),
            "high": _round(high),
            "tasks": {
                task: _round(values[np.concatenate([own for (_, of), own in groups.items() if of == task])].mean()) for task in tasks
            },
            "datasets": {
                name: {task: _round(values[groups[name, task]].mean()) for task in tasks if (name, task) in groups} for name in datasets
            },
        }

    def _averaged(self, groups: Mapping[tuple[str, str], npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
        """The rows of each part of which the average is taken."""
        names = [*groups]
        parts = averaged([name for name, _ in names], [task for _, task in names], self.config.mean, self.config.public_board)
        return [np.concatenate([groups[names[place]] for place in part]) for part in parts]

    def _curve(self, table: pa.Table, groups: Mapping[tuple[str, str], npt.NDArray[np.int64]]) -> dict[str, dict[str, float]]:
        """The averages of recall and of the hit rate at every depth of a curve."""
        found: dict[str, dict[str, float]] = {}
        for name in table.schema.names:
            kind, _, depth = name.partition("@")
            if kind in CURVES:
                values = table[name].to_numpy()
                if not np.isnan(values).any():
                    average = np.mean([values[own].mean() for own in self._averaged(groups)])
                    found.setdefault(kind, {})[depth] = _round(average)
        return {kind: dict(sorted(points.items(), key=lambda point: int(point[0]))) for kind, points in found.items()}


def headline(results: Iterable[Mapping[str, Any]], config: EvaluateConfig) -> dict[str, Any]:
    """The average that the config names, of every system, and which floors an encoder does not reach."""
    name, pool = config.headline_measure, config.measured_pools[0]
    found = {entry["system"]: entry for entry in results if (entry["pool"], entry["split"]) == (pool, config.split)}
    figures = {system: entry[name] for system, entry in found.items() if name in entry}
    called = name
    if name == MAIN and (board := config.public_board):
        called = " or ".join(dict.fromkeys(board.called(row.measure) for row in board.rows))
    head: dict[str, Any] = {"split": config.split, "measure": name, "called": called, "pool": pool, "mean": config.mean} | figures
    return head | {"below": not_reached({system: each["average"] for system, each in figures.items()})}


def board_table(results: list[dict[str, Any]], config: EvaluateConfig) -> dict[str, Any]:
    """The tables of a board, one for each pool, with every system; rows that were not measured are there without values."""
    board, split = config.public_board, config.split
    assert board is not None
    places = {(entry["system"], entry["pool"]): entry for entry in results if entry["split"] == split}
    tables = []
    for pool in config.measured_pools:
        systems = [system for system, of in places if of == pool]
        if not systems:
            continue
        entries = {system: places[system, pool] for system in systems}
        rows = [_board_row(board, row, entries) for row in board.rows]
        if not any(row["values"] for row in rows):
            continue
        means = []
        for system in systems:
            values = {id(row): each["values"].get(system) for row, each in zip(board.rows, rows, strict=True)}
            for name, value, there, of in board.means_of(lambda row, values=values: values[id(row)]):  # type: ignore[misc]
                means.append({"name": name, "system": system, "value": _round(value), "rows": there, "of": of})
        tables.append({"pool": pool, "split": split, "systems": systems, "rows": rows, "means": means})
    return {"name": board.name, "title": board.title, "source": board.source, "note": board.note, "tables": tables}


def _board_row(board: Board, row: BoardRow, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(entries.values()))
    tasks = {task: count for task, count in first["datasets"].get(row.dataset, {}).items() if row.holds(row.dataset, task)}
    queries = sum(tasks.values())

    def value(entry: Mapping[str, Any], name: str) -> float | None:
        if not tasks or name not in entry:
            return None
        of = entry[name]["datasets"][row.dataset]
        return _round(sum(of[task] * count for task, count in tasks.items()) / queries)

    values = {system: found for system, entry in entries.items() if (found := value(entry, row.measure)) is not None}
    columns = [
        {
            "name": board.called(name),
            "values": {system: found for system, entry in entries.items() if (found := value(entry, name)) is not None},
        }
        for name in board.columns
    ]
    return {
        "label": row.label,
        "groups": list(row.groups),
        "measure": row.measure,
        "called": board.called(row.measure),
        "queries": queries,
        "values": values,
        "columns": columns,
        "below": not_reached(values),
    }


def _groups(table: pa.Table) -> dict[tuple[str, str], npt.NDArray[np.int64]]:
    """The numbers of the rows of each data set and task."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(zip(table["dataset"].to_pylist(), table["task"].to_pylist(), strict=True)):
        found.setdefault(key, []).append(place)
    return {key: np.array(places) for key, places in sorted(found.items())}


def _round(value: Any) -> float:
    return round(float(value), DIGITS)
