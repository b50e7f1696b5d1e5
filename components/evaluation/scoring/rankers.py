"""What ranks the candidates of a query: an encoder's vectors, words, the pixels of pictures, or chance."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.bm25 import SparseIndex
from mirepoix.serving.search.dense import Index, Ranking

Places = npt.NDArray[np.integer]


class Ranker(Protocol):
    """Ranks candidates, which are given and returned as their places among the sorted ids of the corpus."""

    def rank(self, queries: Places, k: int, among: Places | None) -> Iterator[Ranking]:
        """The k best of the candidates for each query, best first, ties by place; fewer where it can tell nothing of others."""
        ...

    def scores(self, query: int, places: Places) -> npt.NDArray[np.float32]:
        """The scores of candidates for a query; negative infinity where it can tell nothing of one."""
        ...


class ByVectors:
    """Candidates and queries as vectors, all or some of them: those without have none."""

    def __init__(self, index: Index, vectors: RaggedRows, rows_Q: Places, places_N: Places | None = None):
        """`rows_Q` is the vector of each query, -1 for none; `places_N` the places of the items of the index, where it has not all."""
        self.index, self.vectors, self.rows_Q, self.places_N = index, vectors, np.asarray(rows_Q), places_N

    def rank(self, queries: Places, k: int, among: Places | None) -> Iterator[Ranking]:
        rows = self.rows_Q[queries]
        if self.places_N is not None and among is not None:
            among = np.flatnonzero(np.isin(self.places_N, among))
        with_one = rows[rows >= 0]
        ranked = self.index.rank(self.vectors[with_one], k, among) if len(with_one) else iter(())
        for row in rows:
            places, scores = next(ranked) if row >= 0 else _NOTHING
            yield places if self.places_N is None else self.places_N[places], scores

    def scores(self, query: int, places: Places) -> npt.NDArray[np.float32]:
        found = np.full(len(places), -np.inf, np.float32)
        row = int(self.rows_Q[query])
        if row < 0:
            return found
        known = np.ones(len(places), bool)
        if self.places_N is not None:
            at = np.searchsorted(self.places_N, places)
            known = at < len(self.places_N)
            known[known] = self.places_N[at[known]] == places[known]
            places = at
        (found[known],) = self.index.scores(self.vectors[[row]], [places[known]])
        return found


class ByWords:
    """Texts ranked by BM25; a candidate that shares no word with the query is not ranked."""

    def __init__(self, index: SparseIndex, texts: Sequence[str]):
        self.index, self.texts = index, texts

    def rank(self, queries: Places, k: int, among: Places | None) -> Iterator[Ranking]:
        return self.index.rank([self.texts[query] for query in queries.tolist()], k, among)

    def scores(self, query: int, places: Places) -> npt.NDArray[np.float32]:
        found = self.index.scores(self.texts[query])[places]
        return np.where(found > 0, found, -np.inf).astype(np.float32)


class ByChance:
    """Candidates in an order that is drawn by seed and query."""

    def __init__(self, items: int, seed: int):
        self.items, self.seed = items, seed

    def rank(self, queries: Places, k: int, among: Places | None) -> Iterator[Ranking]:
        pool = np.arange(self.items) if among is None else among
        for query in queries.tolist():
            drawn = np.random.default_rng([self.seed, query]).choice(pool, min(k, len(pool)), replace=False)
            yield drawn, -np.arange(len(drawn), dtype=np.float32)

    def scores(self, query: int, places: Places) -> npt.NDArray[np.float32]:
        return np.random.default_rng([self.seed, query]).random(len(places), dtype=np.float32)


_NOTHING: Ranking = (np.empty(0, np.int64), np.empty(0, np.float32))
