"""Results by a board, as `evaluate` computes them of given values."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pyarrow as pa

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.scoring.summary import Summary, board_table, headline


def boarded(board: str, values: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]], measure: str = "main") -> dict[str, Any]:
    """The results of a run by a board, in its first pool: values by data set and task, by system and measure, each of two queries."""
    config = EvaluateConfig(split="test", measure=measure, board=board, draws=2)
    assert config.public_board is not None
    columns: dict[str, list] = {name: [] for name in ("system", "pool", "split", "task", "dataset", "query")}
    scores: dict[str, list[float]] = {each.name: [] for each in config.measured} | {"main": []}
    for (dataset, task), systems in values.items():
        row = config.public_board.row(dataset, task)
        assert row is not None, (dataset, task)
        for (system, own), query in product(systems.items(), "ab"):
            place = (system, config.measured_pools[0], "test", task, dataset, f"{dataset} {task} {query}")
            for name, value in zip(columns, place, strict=True):
                columns[name].append(value)
            for name, column in scores.items():
                column.append(own[row.measure] if name == "main" else own.get(name, 0.0))
    summed = Summary(pa.table(columns | scores), config, 0).results()
    table = board_table(summed, config)
    return {"headline": headline(summed, config), "results": summed, "board": table, "facts": {}}
