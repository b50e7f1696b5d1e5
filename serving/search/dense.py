"""The index of vectors: FAISS or a filter selects candidates, exact MaxSim over the candidates' rows ranks them.

Mining and evaluation search through the same index that is served, so what was measured and what is served cannot differ. A folder holds
index.faiss (the rows), items.parquet (id, modality and rows of each item) and index.json (the description). Items are sorted by id: ties
are ranked by id, and the files do not depend on the order in which the vectors were computed.

Shapes: N items, R rows of all items, Q queries, S rows of all queries, C candidates, D width.
"""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.hits import Hit, position
from mirepoix.serving.search.index_config import IndexConfig

_BLOCK = 8192  # rows per block of scoring
_SCORES = 1 << 24  # scores in memory at a time
_ROUNDING = 2e-5  # bound on the difference of two float32 scores of the same unit rows
_AT_ONCE = 1024  # queries that are ranked together
_FEW = 16  # fewer queries are scored by numpy, which begins sooner than FAISS
_COPIED = 1 << 28  # bytes of rows that are copied at a time where some of all are searched

Ranking = tuple[np.ndarray, np.ndarray]
"""The positions of items and their scores, best first."""


@dataclass(frozen=True)
class Description:
    """The content of index.json: how to search the rows, and the digest of the encoder that made them."""

    config: IndexConfig
    kind: str
    width: int
    items: int
    rows: int
    encoder: str
    metric: str = "inner_product"
    faiss: str = faiss.__version__


class Index:
    """Rows of items, searched by MaxSim."""

    def __init__(self, rows: faiss.Index, items: pa.Table, description: Description):
        self.description = description
        self.ids: pa.ChunkedArray = items["id"]
        self.modalities_N = items["modality"].to_numpy()
        self._first_N = items["first"].to_numpy()
        self._count_N = items["rows"].to_numpy()
        self._items = items
        self._faiss = rows
        self._item_of_row_R = np.repeat(np.arange(len(self), dtype=np.int64), self._count_N)
        storage = faiss.downcast_index(rows.storage) if description.kind == "hnsw" else rows
        self._view_RD = (
            None if description.kind == "ivf" else faiss.rev_swig_ptr(storage.get_xb(), rows.ntotal * rows.d).reshape(rows.ntotal, rows.d)
        )

    def __len__(self) -> int:
        return self.description.items

    def position(self, id: str) -> int | None:
        """The place of an item in the order of ids; None if it is not in the index."""
        return position(self.ids, id)

    def vectors(self, positions: np.ndarray) -> RaggedRows:
        """The rows of the items at the given positions, as they were indexed: every kind of index keeps them whole."""
        counts_C = self._count_N[positions]
        ends_C = np.cumsum(counts_C)
        numbers_R = np.repeat(self._first_N[positions] - (ends_C - counts_C), counts_C) + np.arange(counts_C.sum())
        rows_RD = self._rows(numbers_R) if len(numbers_R) else np.empty((0, self.description.width), np.float32)
        return RaggedRows(np.array(rows_RD, np.float32), np.append(0, ends_C))  # a copy, which may outlive the index

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self._faiss, str(folder / "index.faiss"))
        pq.write_table(self._items, folder / "items.parquet")
        (folder / "index.json").write_text(json.dumps(asdict(self.description), indent=2, sort_keys=True) + "\n")

    def search(
        self, queries: RaggedRows, k: int, modalities: Collection[Modality] | None = None, exclude: Sequence[Collection[str]] | None = None
    ) -> list[list[Hit]]:
        """The k best items of each query, best first, ties by id; only items of exactly these modalities, without the excluded ids."""
        if exclude is not None and len(exclude) != len(queries):
            raise Refused(f"exclude has {len(exclude)} entries for {len(queries)} queries; give one collection of ids a query")
        excluded = [{p for p in map(self.position, ids) if p is not None} for ids in exclude or [()] * len(queries)]
        hits = []
        ranked = self.rank(queries, k + max(map(len, excluded), default=0), self._allowed(modalities), wanted=k)
        for (positions_K, scores_K), out in zip(ranked, excluded, strict=True):
            if out:
                kept_K = ~np.isin(positions_K, list(out))
                positions_K, scores_K = positions_K[kept_K], scores_K[kept_K]
            found = zip(self.ids.take(positions_K[:k]).to_pylist(), scores_K[:k].tolist(), strict=True)
            hits.append([Hit(id, score) for id, score in found])
        return hits

    def rank(self, queries: RaggedRows, k: int, among: np.ndarray | None = None, wanted: int | None = None) -> Iterator[Ranking]:
        """The k best items of each query, best first, ties by id, one query after another; `among` has the positions that are searched.

        Memory does not grow with the number of queries. `wanted` is the number that a refusal names, where it is not k.
        """
        if (k if wanted is None else wanted) < 1:
            raise Refused(f"k is {k if wanted is None else wanted}; ask for at least one result")
        rows_SD, bounds = _unit_rows(queries, "query"), queries.bounds
        if rows_SD.shape[1] != self.description.width:
            raise Refused(
                f"the queries are {rows_SD.shape[1]} wide, the index {self.description.width}; search with the encoder it was built with"
            )
        return self._rankings(rows_SD, bounds, k, np.arange(len(self)) if among is None else among)

    def _rankings(self, rows_SD: np.ndarray, bounds: np.ndarray, k: int, among_C: np.ndarray) -> Iterator[Ranking]:
        for start in range(0, len(bounds) - 1, _AT_ONCE):
            part = bounds[start : start + _AT_ONCE + 1]
            own_SD, own = rows_SD[part[0] : part[-1]], part - part[0]
            if not len(among_C):
                yield from [(np.empty(0, np.int64), np.empty(0, np.float32))] * (len(own) - 1)
                continue
            candidates = self._near(own_SD, own, min(k, len(among_C)), among_C)
            for candidates_C, (first, end) in zip(candidates, pairwise(own), strict=True):
                scores_C = self._exact(own_SD[first:end], candidates_C)
                order = np.lexsort((candidates_C, -scores_C))[:k]
                yield candidates_C[order], scores_C[order]

    def score(self, queries: RaggedRows, ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the given items for each query, as `search` computes them; refused where an item is not in the index."""
        positions = []
        for own in ids:
            positions.append(np.array([-1 if place is None else place for place in map(self.position, own)], np.int64))
            if (positions[-1] < 0).any():
                raise Refused(f"the index has no item {own[int(np.argmin(positions[-1]))]!r}; give ids of items that were indexed")
        return [scores_C.tolist() for scores_C in self.scores(queries, positions)]

    def scores(self, queries: RaggedRows, positions: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each query the scores of the items at its own positions, in their order, as `rank` computes them."""
        rows_SD, bounds = _unit_rows(queries, "query"), queries.bounds
        for own_C, (start, end) in zip(positions, pairwise(bounds), strict=True):
            once_C, place_C = np.unique(own_C, return_inverse=True)
            yield self._exact(rows_SD[start:end], once_C)[place_C] if len(own_C) else np.empty(0, np.float32)

    def _allowed(self, modalities: Collection[Modality] | None) -> np.ndarray:
        if modalities is None:
            return np.arange(len(self))
        return np.flatnonzero(np.isin(self.modalities_N, [int(code) for code in modalities]))

    def _near(self, rows_SD: np.ndarray, bounds: np.ndarray, wanted: int, allowed_C: np.ndarray) -> Iterator[np.ndarray]:
        """The candidates of each query, one query after another: at least `wanted` of the allowed items."""
        total = self.description.rows
        allowed_rows = total if len(allowed_C) == len(self) else int(self._count_N[allowed_C].sum())
        fetch = wanted * self.description.config.oversample * math.ceil(total / len(self))
        # A graph search under a selective filter returns too few items; what such a filter leaves is small enough to score in full.
        if self.description.kind == "flat" or allowed_rows <= max(fetch, self.description.config.exact_rows):
            single = total == len(self) and len(rows_SD) == len(bounds) - 1 >= _FEW
            yield from (self._nearest(rows_SD, wanted, allowed_C) if single else self._best(rows_SD, bounds, wanted, allowed_C))
            return
        _, found_SF = self._faiss.search(rows_SD, fetch, params=self._parameters(allowed_C, allowed_rows, fetch))
        for start, end in pairwise(bounds):
            found_F = found_SF[start:end].ravel()
            items_C = np.unique(self._item_of_row_R[found_F[found_F >= 0]])
            if len(items_C) < wanted:
                (items_C,) = self._best(rows_SD[start:end], np.array([0, end - start]), wanted, allowed_C)
            yield items_C

    def _parameters(self, allowed_C: np.ndarray, allowed_rows: int, fetch: int) -> faiss.SearchParameters:
        share = allowed_rows / self.description.rows
        selector = None
        if share < 1:
            allowed_N = np.zeros(len(self), dtype=bool)
            allowed_N[allowed_C] = True
            selector = faiss.IDSelectorBitmap(np.packbits(allowed_N[self._item_of_row_R], bitorder="little"))
        config = self.description.config
        if self.description.kind == "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=math.ceil(max(config.ef_search, fetch) / share))
        return faiss.SearchParametersIVF(sel=selector, nprobe=min(self._faiss.nlist, math.ceil(config.probes / share)))

    def _best(self, rows_SD: np.ndarray, bounds: np.ndarray, wanted: int, allowed_C: np.ndarray) -> Iterator[np.ndarray]:
        """The `wanted` best allowed items of each query, and all whose score is within rounding of the last of them."""
        longest = int(np.diff(bounds).max())
        at_once = max(1, min(_BLOCK // 4 // longest, _SCORES // len(allowed_C)))
        for start in range(0, len(bounds) - 1, at_once):
            part = bounds[start : start + at_once + 1]
            scores_QC = self._scores(rows_SD[part[0] : part[-1]], part - part[0], allowed_C)
            floor_Q = np.partition(scores_QC, -wanted, axis=1)[:, -wanted] - _ROUNDING * longest
            for scores_C, floor in zip(scores_QC, floor_Q, strict=True):
                yield allowed_C[scores_C >= floor]

    def _nearest(self, rows_QD: np.ndarray, wanted: int, allowed_C: np.ndarray) -> Iterator[np.ndarray]:
        """As `_best`, where every item and every query is one row: FAISS selects while it scores.

        It is asked for some more than are wanted. Where the last of these is not clearly worse than the last wanted one, others may be
        within rounding too, and the query is scored in full.
        """
        more = min(len(allowed_C), wanted + max(32, wanted // 16))
        scores_QM, found_QM = self._knn(rows_QD, more, allowed_C)
        for query, (scores_M, found_M) in enumerate(zip(scores_QM, found_QM, strict=True)):
            floor = scores_M[wanted - 1] - _ROUNDING
            if more == len(allowed_C) or scores_M[-1] < floor:
                yield np.sort(allowed_C[found_M[scores_M >= floor]])
            else:
                yield from self._best(rows_QD[query : query + 1], np.array([0, 1]), wanted, allowed_C)

    def _knn(self, rows_QD: np.ndarray, k: int, allowed_C: np.ndarray) -> Ranking:
        """The scores of the k nearest of the allowed rows and their places among these; rows are copied where not all are allowed."""
        if self._view_RD is not None and len(allowed_C) == len(self):
            whole: Ranking = faiss.knn(rows_QD, self._view_RD, k, metric=faiss.METRIC_INNER_PRODUCT)
            return whole
        each = max(k, _COPIED // rows_QD.itemsize // rows_QD.shape[1])
        best_QK, places_QK = np.empty((len(rows_QD), 0), np.float32), np.empty((len(rows_QD), 0), np.int64)
        for start in range(0, len(allowed_C), each):
            part_C = allowed_C[start : start + each]
            rows_RD = np.ascontiguousarray(self._rows(part_C), dtype=np.float32)
            scores_QP, places_QP = faiss.knn(rows_QD, rows_RD, min(k, len(part_C)), metric=faiss.METRIC_INNER_PRODUCT)
            best_QK, places_QK = np.hstack([best_QK, scores_QP]), np.hstack([places_QK, places_QP + start])
            kept_QK = np.argsort(-best_QK, axis=1, kind="stable")[:, :k]
            best_QK, places_QK = np.take_along_axis(best_QK, kept_QK, 1), np.take_along_axis(places_QK, kept_QK, 1)
        return best_QK, places_QK

    def _exact(self, rows_SD: np.ndarray, positions_C: np.ndarray) -> np.ndarray:
        """MaxSim of one query in float64, rounded to float32: equal rows get equal scores whatever their place in a block."""
        scores_C: np.ndarray = self._scores(rows_SD.astype(np.float64), np.array([0, len(rows_SD)]), positions_C)[0].astype(np.float32)
        return scores_C

    def _scores(self, rows_SD: np.ndarray, bounds: np.ndarray, positions_C: np.ndarray) -> np.ndarray:
        """MaxSim of each query with each of the items, in the precision of the query."""
        scores_QC = np.empty((len(bounds) - 1, len(positions_C)), dtype=rows_SD.dtype)
        for part, rows_RD, first_C in self._blocks(positions_C):
            scores_SR = rows_SD @ rows_RD.astype(rows_SD.dtype, copy=False).T
            scores_SC = scores_SR if len(first_C) == len(rows_RD) else np.maximum.reduceat(scores_SR, first_C, axis=1)
            scores_QC[:, part] = scores_SC if len(scores_QC) == len(rows_SD) else np.add.reduceat(scores_SC, bounds[:-1], axis=0)
        return scores_QC

    def _blocks(self, positions_C: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The items in blocks: their slice, their rows, and where the rows of each item begin among these."""
        ends_C = np.cumsum(self._count_N[positions_C])
        start = 0
        while start < len(positions_C):
            done = ends_C[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends_C, done + _BLOCK, side="right")))
            counts_C = self._count_N[positions_C[start:stop]]
            first_C = np.cumsum(counts_C) - counts_C
            numbers_R = np.repeat(self._first_N[positions_C[start:stop]] - first_C, counts_C) + np.arange(counts_C.sum())
            yield slice(start, stop), self._rows(numbers_R), first_C
            start = stop

    def _rows(self, numbers_R: np.ndarray) -> np.ndarray:
        if self._view_RD is None:
            rows_RD: np.ndarray = self._faiss.reconstruct_batch(numbers_R)
        elif numbers_R[-1] - numbers_R[0] == len(numbers_R) - 1:
            rows_RD = self._view_RD[numbers_R[0] : numbers_R[-1] + 1]
        else:
            rows_RD = self._view_RD[numbers_R]
        return rows_RD


def build(
    vectors: RaggedRows | np.ndarray, ids: Sequence[str], modalities: Sequence[int], config: IndexConfig | None = None, encoder: str = ""
) -> Index:
    """An index over the given vectors; an array is one row per item. `encoder` is the digest of the encoder that made them."""
    config = config or IndexConfig()
    vectors = RaggedRows.single(vectors) if isinstance(vectors, np.ndarray) else vectors
    if not len(vectors) == len(ids) == len(modalities):
        raise Refused(f"there are {len(vectors)} vectors, {len(ids)} ids and {len(modalities)} modalities; give one of each an item")
    _unit_rows(vectors, "item")
    order_N = np.array(sorted(range(len(ids)), key=ids.__getitem__))
    twice = next((ids[a] for a, b in pairwise(order_N) if ids[a] == ids[b]), None)
    if twice is not None:
        raise Refused(f"the id {twice!r} is given to two items; give each item an id of its own")
    ordered = vectors[order_N]
    rows_RD = np.ascontiguousarray(ordered.rows_RD, dtype=np.float32)
    items = pa.table(
        {
            "id": pa.array([ids[n] for n in order_N], pa.string()),
            "modality": pa.array([int(modalities[n]) for n in order_N], pa.int8()),
            "first": pa.array(ordered.bounds[:-1], pa.int64()),
            "rows": pa.array(ordered.counts_N, pa.int32()),
        }
    )
    kind = config.kind if config.kind != "auto" else _kind(len(rows_RD), config)
    description = Description(config=config, kind=kind, width=rows_RD.shape[1], items=len(ids), rows=len(rows_RD), encoder=encoder)
    return Index(_filled(rows_RD, kind, config), items, description)


def build_flat(batches: Iterable[np.ndarray], width: int, ids: Sequence[str], modality: Modality) -> Index:
    """A flat index of one row an item, in batches, in the order of the ids, which are sorted: no row is in memory twice."""
    rows = faiss.IndexFlatIP(width)
    for batch_BD in batches:
        rows.add(_unit_rows(RaggedRows.single(batch_BD), "item"))
    if rows.ntotal != len(ids) or any(a >= b for a, b in pairwise(ids)):
        raise Refused(f"there are {rows.ntotal} rows and {len(ids)} ids; give one of each an item, sorted by id, each id once")
    ones = np.ones(len(ids), np.int32)
    items = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "modality": pa.array(ones.astype(np.int8) * int(modality)),
            "first": pa.array(np.arange(len(ids))),
            "rows": pa.array(ones),
        }
    )
    return Index(rows, items, Description(IndexConfig(kind="flat"), "flat", width, len(ids), len(ids), encoder=""))


def open_dense(folder: str | Path) -> Index:
    """The index that `Index.save` wrote, its rows memory-mapped."""
    folder = Path(folder)
    plain = json.loads((folder / "index.json").read_text())
    description = Description(**{**plain, "config": IndexConfig(**plain["config"])})
    items = pq.read_table(folder / "items.parquet")
    rows = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    found = {"width": rows.d, "items": items.num_rows, "rows": rows.ntotal}
    for name, number in found.items():
        if number != getattr(description, name):
            raise Refused(f"{folder} says {name} {getattr(description, name)} and holds {number}; build the index again")
    if int(items["rows"].to_numpy().sum()) != rows.ntotal:
        raise Refused(f"{folder} has items with {int(items['rows'].to_numpy().sum())} rows and {rows.ntotal} rows; build the index again")
    return Index(rows, items, description)


def _kind(rows: int, config: IndexConfig) -> str:
    if rows <= config.exact_rows:
        return "flat"
    return "hnsw" if rows < config.graph_rows else "ivf"


def _filled(rows_RD: np.ndarray, kind: str, config: IndexConfig) -> faiss.Index:
    rows, width = rows_RD.shape
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, config.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.ef_construction
    else:
        lists = min(config.lists or round(4 * math.sqrt(rows)), max(1, rows // 39))  # FAISS warns below 39 rows per list
        index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(rows_RD)
    index.add(rows_RD)
    if kind == "ivf":
        index.set_direct_map_type(faiss.DirectMap.Array)
    return index


def _unit_rows(vectors: RaggedRows, name: str) -> np.ndarray:
    """The rows as contiguous float32; refused unless every vector has a row and every row is finite and of unit norm."""
    if not len(vectors):
        raise Refused(f"there is no {name} vector; give at least one")
    count_N = vectors.counts_N
    if not count_N.all():
        raise Refused(f"{name} {int(np.argmin(count_N))} has no row; every {name} needs one")
    rows_RD = np.ascontiguousarray(vectors.rows_RD, dtype=np.float32)
    norm_R = np.linalg.norm(rows_RD, axis=1)
    bad = ~(np.abs(norm_R - 1) < 1e-3)
    if bad.any():
        row = int(np.argmax(bad))
        place = int(np.searchsorted(vectors.bounds[1:], row, side="right"))
        raise Refused(f"a row of {name} {place} has norm {norm_R[row]:.4g}; rows must be finite and of unit norm")
    return rows_RD
