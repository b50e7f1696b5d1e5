"""A ranker by a table of scores, and a corpus that it ranks, for tests that work their values by hand."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.scoring.judgements import Judged, read_judged
from mirepoix.components.evaluation.scoring.measuring import Measuring
from mirepoix.models.item import Modality
from tests.components.fixtures import write_corpus


class ByTable:
    """Ranks by the scores that a table gives each query's candidates, ties by place; a candidate that it lacks is not ranked."""

    def __init__(self, judged: Judged, table: Mapping[str, Mapping[str, float]]):
        ids = judged.ids.to_pylist()
        self.rows = [[table.get(question.id, {}).get(id, -np.inf) for id in ids] for question in judged.questions]

    def rank(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for query in queries.tolist():
            scores = np.array(self.rows[query], np.float32)
            places = np.arange(len(scores)) if among is None else np.asarray(among)
            places = places[np.isfinite(scores[places])]
            order = places[np.lexsort((places, -scores[places]))][:k]
            yield order, scores[order]

    def scores(self, query: int, places: np.ndarray) -> np.ndarray:
        return np.array(self.rows[query], np.float32)[places]


def judged(folder: Path, config: EvaluateConfig, **parts: Any) -> Judged:
    """The judgements of a corpus that is written into the folder; an item without content is a text."""
    parts["corpus"] = [{"text": row["id"]} | row for row in parts["corpus"]]
    parts["queries"] = [{"text": "?", "split": "test", "task": "t->t"} | row for row in parts["queries"]]
    curate = write_corpus(folder, **parts)
    rows = sorted(parts["corpus"], key=lambda row: row["id"])
    codes = [Modality.TEXT * bool(row.get("text")) | Modality.IMAGE * bool(row.get("images")) for row in rows]
    ids = pa.array([row["id"] for row in rows], pa.string())
    return read_judged(curate, ids, np.array(list(map(int, codes))), lambda _, split: split != "train", config.public_board)


def measured(folder: Path, config: EvaluateConfig, table: Mapping[str, Mapping[str, float]], **parts: Any) -> dict[tuple[str, str], dict]:
    """The values of each query in each pool, by the pool and the query."""
    of = judged(folder / "curate", config, **parts)
    (folder / "runs").mkdir()
    rows = Measuring(of, config, folder / "runs", 0).measure("table", ByTable(of, table)).to_pylist()
    assert len({(row["pool"], row["query"]) for row in rows}) == len(rows)
    return {(row["pool"], row["query"]): row for row in rows}
