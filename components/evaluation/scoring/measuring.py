"""Measures a ranker on all queries in all pools, in parts of bounded size, and writes what it ranked.

In the listed pool a candidate that is not relevant goes before a relevant one of the same score, so that equal vectors find nothing; in the
other pools candidates of equal scores are in the order of their ids, which says nothing of their relevance.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.evaluation.boards.board import MAIN, Pool
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.files.run_writer import RunWriter
from mirepoix.components.evaluation.scoring.chance import expected
from mirepoix.components.evaluation.scoring.judgements import Judged, places_of
from mirepoix.components.evaluation.scoring.measures import Measure
from mirepoix.components.evaluation.scoring.metrics import per_query
from mirepoix.components.evaluation.scoring.rankers import ByChance, Ranker
from mirepoix.serving.search.dense import Ranking

VALUES = "queries.parquet"
"""The file with the values of every query, a row for each system and pool."""
RANKED = 1 << 21
"""Most ranked candidates of the queries that are measured together."""
LADDER = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The depths of curves, as far as rankings go."""
CURVES = ("R", "Success")
Grades = npt.NDArray[np.int32]


@dataclass
class Measuring:
    """The queries that systems are measured on, and how."""

    judged: Judged
    config: EvaluateConfig
    folder: Path  # where runs are written
    seed: int

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The measures of the config, and those of curves over depth."""
        depths = [*(depth for depth in LADDER if depth < self.config.depth), self.config.depth]
        curves = [Measure(kind, depth) for kind in CURVES for depth in depths]
        return tuple(dict.fromkeys([*self.config.measured, *curves]))

    def measure(self, system: str, ranker: Ranker, report: Callable[[int], None] | None = None) -> pa.Table:
        """The values of every query in every pool, a row each; the runs are written as SYSTEM-POOL.trec."""
        tables = []
        for pool in self.config.measured_pools:
            with RunWriter(self.folder / f"{system}-{pool}.trec", f"{system}-{pool}") as run:
                for queries, ranked in self._parts(ranker, pool):
                    run.write([self.judged.questions[query].id for query in queries], self.judged.ids, ranked)
                    tables.append(self._rows(system, pool, queries, self._values(queries, ranked)))
                    if report is not None:
                        report(len(queries))
        return pa.concat_tables(tables)

    def by_chance(self, report: Callable[[int], None] | None = None) -> pa.Table:
        """What chance has: the mean over all orders, or where relevance is by answer strings one order that is drawn."""
        drawn, tables = ByChance(len(self.judged.ids), self.seed), []
        for pool in self.config.measured_pools:
            for queries, among in self._searched(pool):
                values = self._values_by_chance(queries, among, drawn)
                tables.append(self._rows("chance", pool, queries, values))
                if report is not None:
                    report(len(queries))
        return pa.concat_tables(tables)

    # Rankings

    @property
    def _at_once(self) -> int:
        return max(1, RANKED // self.config.depth)

    def _in_parts(self, queries: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        for start in range(0, len(queries), self._at_once):
            yield queries[start : start + self._at_once]

    def _searched(self, pool: Pool) -> Iterator[tuple[npt.NDArray[np.int64], Iterable[npt.NDArray[np.int32] | None]]]:
        """The queries in parts, with the places of the candidates that each of them is searched in, None for all."""
        for queries, among in self.judged.groups(pool):
            for part in self._in_parts(queries):
                yield part, repeat(among, len(part))
        for part in self._in_parts(self.judged.listed(pool)):
            yield part, (self._list(query)[0] for query in part.tolist())

    def _list(self, query: int) -> tuple[npt.NDArray[np.int32], Grades]:
        """The candidates that are listed for a query, of those that are in the corpus, and their grades."""
        places, grades = self.judged.of(query)
        return places[places >= 0], grades[places >= 0]

    def _parts(self, ranker: Ranker, pool: Pool) -> Iterator[tuple[npt.NDArray[np.int64], list[Ranking]]]:
        """The queries with their rankings, in parts; ids in rising order within those that are searched in the same candidates."""
        for queries, among in self.judged.groups(pool):
            ordered = np.array(sorted(queries.tolist(), key=lambda query: self.judged.questions[query].id))
            ranked = self._without_themselves(ordered, ranker, among)
            for part in self._in_parts(ordered):
                yield part, list(islice(ranked, len(part)))
        for part in self._in_parts(self.judged.listed(pool)):
            yield part, [self._ranked_list(ranker, query) for query in part.tolist()]

    def _without_themselves(self, queries: npt.NDArray[np.int64], ranker: Ranker, among: npt.NDArray[np.int32] | None) -> Iterator[Ranking]:
        """The rankings of queries; where the config says so, without a candidate that has the id of the query."""
        depth, same = self.config.depth, self._same_id if self.config.ignore_same_id else None
        for query, (places, scores) in zip(queries, ranker.rank(queries, depth + (same is not None), among), strict=True):
            other = slice(None) if same is None else places != same[query]
            yield places[other][:depth], scores[other][:depth]

    @cached_property
    def _same_id(self) -> npt.NDArray[np.int32]:
        """The place of the candidate with the id of each query; -1 where there is none."""
        return places_of(pa.array([question.id for question in self.judged.questions], pa.string()), self.judged.ids)

    def _ranked_list(self, ranker: Ranker, query: int) -> Ranking:
        places, grades = self._list(query)
        scores = ranker.scores(query, places)
        order = np.lexsort((places, grades > 0, -scores))
        order = order[np.isfinite(scores[order])][: self.config.depth]
        return places[order].astype(np.int64), scores[order]

    # Values

    def _values(self, queries: npt.NDArray[np.int64], ranked: list[Ranking]) -> dict[str, npt.NDArray[np.float64]]:
        """The values of each measure; none, as NaN, where it depends on all that is relevant, and that is not known."""
        found: list[Grades] = []
        ideal: list[Grades] = []
        by_answer = self._by_answer(queries)
        read = [ranked[n][0] for n in np.flatnonzero(by_answer)]
        texts = self.judged.texts(np.concatenate(read)) if read else {}
        for query, (places, _), answered in zip(queries.tolist(), ranked, by_answer, strict=True):
            if answered:
                found.append(self._by_answers(query, places, texts))
                ideal.append(found[-1])
            else:
                found.append(self._graded(query, places))
                ideal.append(self.judged.of(query)[1])
        values = per_query(self.measures, found, ideal)
        for each in self.measures:
            if each.needs_all:
                values[each.name][by_answer] = np.nan
        return values

    def _by_answer(self, queries: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which queries are judged by answer strings."""
        return np.array([bool(self.judged.questions[query].answers) for query in queries], bool)

    def _graded(self, query: int, places: npt.NDArray[np.integer]) -> Grades:
        """The grades of ranked candidates; 0 for those that are not judged."""
        judged, grades = self.judged.of(query)
        if not len(judged):
            return np.zeros(len(places), np.int32)
        at = np.minimum(np.searchsorted(judged, places), len(judged) - 1)
        return np.where(judged[at] == places, grades[at], 0).astype(np.int32)

    def _by_answers(self, query: int, places: npt.NDArray[np.integer], texts: dict[int, str]) -> Grades:
        return np.array([self.judged.has_answer(query, texts.get(place, "")) for place in places.tolist()], np.int32)

    def _values_by_chance(
        self, queries: npt.NDArray[np.int64], among: Iterable[npt.NDArray[np.int32] | None], drawn: ByChance
    ) -> dict[str, npt.NDArray[np.float64]]:
        by_answer = self._by_answer(queries)
        known: dict[tuple[int, bytes, bytes], list[float]] = {}
        means: list[list[float]] = []
        ranked: list[Ranking] = []
        for query, own, answered in zip(queries, among, by_answer, strict=True):
            means.append(self._expected(query, own, known))
            if answered:
                ranked += drawn.rank(np.array([query]), self.config.depth, own)
        values = {each.name: column for each, column in zip(self.measures, np.array(means).T, strict=True)}
        if ranked:
            for name, column in self._values(queries[by_answer], ranked).items():
                values[name][by_answer] = column
        return values

    def _expected(self, query: int, among: npt.NDArray[np.int32] | None, known: dict[tuple[int, bytes, bytes], list[float]]) -> list[float]:
        """The mean of each measure over all orders of the candidates, by the grades; `known` are those that were computed before."""
        places, grades = self.judged.of(query)
        ideal = np.sort(grades[grades > 0])
        size, inside = (len(self.judged.ids), places >= 0) if among is None else (len(among), np.isin(places, among))
        there = np.sort(grades[(grades > 0) & inside])
        key = size, there.tobytes(), ideal.tobytes()
        if key not in known:
            known[key] = [expected(each, size, there.tolist(), ideal.tolist()) for each in self.measures]
        return known[key]

    def _rows(self, system: str, pool: Pool, queries: npt.NDArray[np.int64], values: dict[str, npt.NDArray[np.float64]]) -> pa.Table:
        questions = [self.judged.questions[query] for query in queries]
        columns = {
            "system": [system] * len(questions),
            "pool": [str(pool)] * len(questions),
            **{name: [getattr(question, name) for question in questions] for name in ("split", "task", "dataset")},
            "query": [question.id for question in questions],
        }
        table = {name: pa.array(column, pa.string()) for name, column in columns.items()}
        table |= {each.name: pa.array(values[each.name], pa.float64(), from_pandas=True) for each in self.measures}
        if self.judged.board is not None:
            rows = [self.judged.board.row(question.dataset, question.task) for question in questions]
            main = [values[row.measure][place] if row else np.nan for place, row in enumerate(rows)]
            table[MAIN] = pa.array(np.array(main, np.float64), pa.float64(), from_pandas=True)
        return pa.table(table)
