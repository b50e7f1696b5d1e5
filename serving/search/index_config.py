"""The settings of an index of vectors."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class IndexConfig:
    """How approximate the search may be: which rows are scored. Among those, the ranking is exact."""

    kind: Literal["auto", "flat", "hnsw", "ivf"] = option(
        "auto", "flat scores all rows, hnsw walks a graph, ivf opens inverted lists; auto chooses by the number of rows"
    )
    exact_rows: int = option(50_000, "up to this many rows, in the index or left by a filter, are all scored")
    graph_rows: int = option(1_000_000, "auto: from this many rows on, ivf instead of hnsw")
    links: int = option(32, "hnsw: links per row")
    ef_construction: int = option(100, "hnsw: rows considered as neighbours of a new one")
    ef_search: int = option(64, "hnsw: rows visited per search, at least")
    lists: int = option(0, "ivf: lists; 0 is four times the square root of the rows")
    probes: int = option(64, "ivf: lists opened per search")
    oversample: int = option(4, "rows fetched from FAISS per result, times the mean number of rows per item")

    def __post_init__(self) -> None:
        refuse_unknown(self, "index.")
        if min(self.links, self.ef_construction, self.ef_search, self.probes, self.oversample) < 1 or min(self.lists, self.exact_rows) < 0:
            raise Refused(f"{self} has a number below its minimum; give lists and exact_rows of 0 or more and all others of 1 or more")
