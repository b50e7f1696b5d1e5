"""The one search path: FAISS or a filter names candidates, MaxSim over the candidates' own rows gives the order.

Mining and evaluation search through the index that is served. A folder holds index.faiss (the rows), items.parquet (whose rows they
are) and index.json (what they are). Items stand in the order of their ids, so equal scores come out in that order, and the order
in which vectors were computed leaves no trace in the bytes.

Shapes: N items, R rows of all items, Q queries, S rows of all queries, C candidates, D width.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option, refuse_unknown
from mirepoix.models.vectors import Vectors

if TYPE_CHECKING:
    from mirepoix.serving.search.bm25 import SparseIndex

_BLOCK = 8192  # rows scored at once
_SCORES = 1 << 24  # scores held at once
_ROUNDING = 2e-5  # two float32 scores of unit rows err by less than this between them


@dataclass(frozen=True)
class IndexConfig:
    """Which rows a search looks at; the order it returns is exact among them."""

    kind: Literal["auto", "flat", "hnsw", "ivf"] = option(
        "auto", "flat looks at all rows, hnsw walks a graph, ivf opens lists; auto goes by the number of rows"
    )
    exact_rows: int = option(50_000, "up to this many rows, of an index or of what a filter leaves, are all looked at")
    graph_rows: int = option(1_000_000, "auto: from this many rows on, ivf instead of hnsw")
    links: int = option(32, "hnsw: links of a row")
    ef_construction: int = option(100, "hnsw: rows looked at for the links of a new one")
    ef_search: int = option(64, "hnsw: rows looked at in a search, at least")
    lists: int = option(0, "ivf: lists; 0 is four times the square root of the rows")
    probes: int = option(64, "ivf: lists opened in a search")
    oversample: int = option(4, "rows asked of FAISS for each wanted result, times the mean number of rows of an item")

    def __post_init__(self) -> None:
        refuse_unknown(self, "index.")
        if min(self.links, self.ef_construction, self.ef_search, self.probes, self.oversample) < 1 or min(self.lists, self.exact_rows) < 0:
            raise Refused(f"{self} has a number that is too small; lists and exact_rows may be 0, the others start at 1")


@dataclass(frozen=True)
class Description:
    """What index.json says: how to search the rows, and which encoder they came from."""

    config: IndexConfig
    kind: str
    width: int
    items: int
    rows: int
    encoder: str
    metric: str = "inner_product"
    faiss: str = faiss.__version__


class Hit(NamedTuple):
    id: str
    score: float


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
        """Where the item stands in the order of ids; None if it is not here."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle].as_py() < id:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.ids[low].as_py() == id else None

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self._faiss, str(folder / "index.faiss"))
        pq.write_table(self._items, folder / "items.parquet")
        (folder / "index.json").write_text(json.dumps(asdict(self.description), indent=2, sort_keys=True) + "\n")

    def search(
        self, queries: Vectors, k: int, modalities: Collection[Modality] | None = None, exclude: Sequence[Collection[str]] | None = None
    ) -> list[list[Hit]]:
        """The k best items of each query, best first, equal scores by id; only items of exactly these modalities, none that is excluded."""
        if k < 1:
            raise Refused(f"k is {k}; ask for at least one result")
        rows_SD, bounds = _ragged(queries, "query")
        if rows_SD.shape[1] != self.description.width:
            raise Refused(
                f"the queries are {rows_SD.shape[1]} wide, the index {self.description.width}; search with the encoder it was built with"
            )
        if exclude is not None and len(exclude) != len(queries):
            raise Refused(f"exclude has {len(exclude)} entries for {len(queries)} queries; give one collection of ids a query")
        barred = [{p for p in map(self.position, ids) if p is not None} for ids in exclude or [()] * len(queries)]
        allowed_C = self._allowed(modalities)
        wanted = min(k + max(map(len, barred)), len(allowed_C))
        if not wanted:
            return [[] for _ in barred]
        hits = []
        for candidates_C, start, end, out in zip(self._near(rows_SD, bounds, wanted, allowed_C), bounds, bounds[1:], barred, strict=False):
            kept_C = candidates_C[~np.isin(candidates_C, list(out))] if out else candidates_C
            hits.append(self._ranked(rows_SD[start:end], kept_C, k))
        return hits

    def score(self, queries: Vectors, ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores that a search gives to items of each query's own; refused where one is not here."""
        rows_SD, bounds = _ragged(queries, "query")
        scores = []
        for own, (start, end) in zip(ids, pairwise(bounds), strict=True):
            positions_C = np.array([-1 if place is None else place for place in map(self.position, own)], np.int64)
            if (positions_C < 0).any():
                raise Refused(f"the index has no item {own[int(np.argmin(positions_C))]!r}; give ids of items that were indexed")
            once_C, place_C = np.unique(positions_C, return_inverse=True)
            scores.append(self._exact(rows_SD[start:end], once_C)[place_C].tolist() if own else [])
        return scores

    def _allowed(self, modalities: Collection[Modality] | None) -> np.ndarray:
        if modalities is None:
            return np.arange(len(self))
        return np.flatnonzero(np.isin(self.modalities_N, [int(code) for code in modalities]))

    def _near(self, rows_SD: np.ndarray, bounds: np.ndarray, wanted: int, allowed_C: np.ndarray) -> Iterator[np.ndarray]:
        """Candidates of each query, in turn: at least `wanted` of the allowed items."""
        total = self.description.rows
        allowed_rows = total if len(allowed_C) == len(self) else int(self._count_N[allowed_C].sum())
        fetch = wanted * self.description.config.oversample * math.ceil(total / len(self))
        # A graph under a selective filter comes back with too little, and what the filter leaves is few enough to look at.
        if self.description.kind == "flat" or allowed_rows <= max(fetch, self.description.config.exact_rows):
            yield from self._best(rows_SD, bounds, wanted, allowed_C)
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
        """The `wanted` best of the allowed items of each query, and all that rounding may have put behind them."""
        longest = int(np.diff(bounds).max())
        at_once = max(1, min(_BLOCK // 4 // longest, _SCORES // len(allowed_C)))
        for start in range(0, len(bounds) - 1, at_once):
            part = bounds[start : start + at_once + 1]
            scores_QC = self._scores(rows_SD[part[0] : part[-1]], part - part[0], allowed_C)
            floor_Q = np.partition(scores_QC, -wanted, axis=1)[:, -wanted] - _ROUNDING * longest
            for scores_C, floor in zip(scores_QC, floor_Q, strict=True):
                yield allowed_C[scores_C >= floor]

    def _ranked(self, rows_SD: np.ndarray, positions_C: np.ndarray, k: int) -> list[Hit]:
        if not len(positions_C):
            return []
        scores_C = self._exact(rows_SD, positions_C)
        order = np.lexsort((positions_C, -scores_C))[:k]
        return [Hit(id, float(scores_C[n])) for id, n in zip(self.ids.take(positions_C[order]).to_pylist(), order, strict=True)]

    def _exact(self, rows_SD: np.ndarray, positions_C: np.ndarray) -> np.ndarray:
        """MaxSim of one query in float64, rounded: equal rows get equal scores wherever they stand in a block."""
        return self._scores(rows_SD.astype(np.float64), np.array([0, len(rows_SD)]), positions_C)[0].astype(np.float32)

    def _scores(self, rows_SD: np.ndarray, bounds: np.ndarray, positions_C: np.ndarray) -> np.ndarray:
        """MaxSim of each query and each of the items, in the precision of the query."""
        scores_QC = np.empty((len(bounds) - 1, len(positions_C)), dtype=rows_SD.dtype)
        for part, rows_RD, first_C in self._blocks(positions_C):
            scores_SR = rows_SD @ rows_RD.astype(rows_SD.dtype, copy=False).T
            scores_SC = scores_SR if len(first_C) == len(rows_RD) else np.maximum.reduceat(scores_SR, first_C, axis=1)
            scores_QC[:, part] = scores_SC if len(scores_QC) == len(rows_SD) else np.add.reduceat(scores_SC, bounds[:-1], axis=0)
        return scores_QC

    def _blocks(self, positions_C: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Some of the items at a time, with their rows and where each one's rows begin among them."""
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
            return self._faiss.reconstruct_batch(numbers_R)
        if numbers_R[-1] - numbers_R[0] == len(numbers_R) - 1:
            return self._view_RD[numbers_R[0] : numbers_R[-1] + 1]
        return self._view_RD[numbers_R]


def build(
    vectors: Vectors | np.ndarray, ids: Sequence[str], modalities: Sequence[int], config: IndexConfig | None = None, encoder: str = ""
) -> Index:
    """An index of items with the given vectors, or one row each; `encoder` names (by digest) what the vectors came from."""
    config = config or IndexConfig()
    vectors = Vectors.single(torch.from_numpy(vectors)) if isinstance(vectors, np.ndarray) else vectors
    if not len(vectors) == len(ids) == len(modalities):
        raise Refused(f"there are {len(vectors)} vectors, {len(ids)} ids and {len(modalities)} modalities; give one of each an item")
    rows_RD, bounds = _ragged(vectors, "item")
    order_N = np.array(sorted(range(len(ids)), key=ids.__getitem__))
    twice = next((ids[a] for a, b in pairwise(order_N) if ids[a] == ids[b]), None)
    if twice is not None:
        raise Refused(f"the id {twice!r} stands for two items; give each item its own")
    count_N = np.diff(bounds)[order_N]
    begin_N = np.cumsum(count_N) - count_N
    rows_RD = np.ascontiguousarray(rows_RD[np.repeat(bounds[order_N] - begin_N, count_N) + np.arange(len(rows_RD))])
    items = pa.table(
        {
            "id": pa.array([ids[n] for n in order_N], pa.string()),
            "modality": pa.array([int(modalities[n]) for n in order_N], pa.int8()),
            "first": pa.array(begin_N, pa.int64()),
            "rows": pa.array(count_N, pa.int32()),
        }
    )
    kind = config.kind if config.kind != "auto" else _kind(len(rows_RD), config)
    description = Description(config=config, kind=kind, width=rows_RD.shape[1], items=len(ids), rows=len(rows_RD), encoder=encoder)
    return Index(_filled(rows_RD, kind, config), items, description)


def open_index(folder: str | Path) -> "Index | SparseIndex":
    """The index that `Index.save` wrote, its rows mapped and not read; or the word index of `sparse.py`."""
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise Refused(f"{folder} holds no index.json; give the folder of an index")
    plain = json.loads((folder / "index.json").read_text())
    if plain["kind"] == "bm25":
        from mirepoix.serving.search.bm25 import open_sparse

        return open_sparse(folder)
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
        lists = min(config.lists or round(4 * math.sqrt(rows)), max(1, rows // 39))  # FAISS wants 39 rows to place a list
        index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(rows_RD)
    index.add(rows_RD)
    if kind == "ivf":
        index.set_direct_map_type(faiss.DirectMap.Array)
    return index


def _ragged(vectors: Vectors, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The real rows, and the bounds between those of one and the next; refused unless each has a row and each row is of unit norm."""
    if not len(vectors):
        raise Refused(f"there is no {name} vector; give at least one")
    mask_NT = vectors.mask_NT.cpu().numpy()
    count_N = mask_NT.sum(1)
    if not count_N.all():
        raise Refused(f"{name} {int(np.argmin(count_N))} has no row; every {name} needs one")
    rows_RD = vectors.rows_NTD.detach().float().cpu().numpy()[mask_NT]
    norm_R = np.linalg.norm(rows_RD, axis=1)
    bad = ~(np.abs(norm_R - 1) < 1e-3)
    if bad.any():
        row = int(np.argmax(bad))
        place = int(np.searchsorted(np.cumsum(count_N), row, side="right"))
        raise Refused(f"a row of {name} {place} has norm {norm_R[row]:.4g}; rows must be finite and of unit norm")
    return np.ascontiguousarray(rows_RD), np.append(0, np.cumsum(count_N))
