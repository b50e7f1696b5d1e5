"""Candidates, queries and triples of a corpus in one numbering: the id, source and line of every row, and columns of few values.

Memory per row is the id in an Arrow array and a few numbers, since a corpus of short texts has many rows in few bytes.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import joined, part_rows, part_tables, read_part, source_name
from mirepoix.components.curation.row_checks import CHECKED

JUDGED = np.dtype([("query", "i8"), ("item", "i8"), ("relevance", "i4"), ("place", "i8")])  # place: its rank by source and line

Array = npt.NDArray


class RowIndex:
    """Finds the id, source and line of a row, and the row of an id."""

    def __init__(self, corpus: Path):
        ends = np.cumsum([0, *(part_rows(corpus, part) for part in CHECKED)])
        self.candidates, self.queries, self.triples = (np.arange(*span) for span in pairwise(ends))
        ids, sources, lines = [], [], []
        for table in (table for part in CHECKED for table in part_tables(corpus, part, ["id", "source", "line"])):
            ids += table["id"].cast(pa.large_string()).chunks
            sources += table["source"].dictionary_encode().chunks
            lines.append(table["line"].to_numpy())
        self._ids = pa.chunked_array(ids, pa.large_string()).combine_chunks()
        self._source, self._sources = _unified(sources)
        self._line = np.concatenate([np.empty(0, np.int64), *lines])

    def __len__(self) -> int:
        return len(self._line)

    def ids(self, rows: Array) -> list[str]:
        return self._ids.take(pa.array(rows)).to_pylist()

    def id(self, row: int) -> str:
        return self._ids[row].as_py()

    def rows(self, ids: pa.ChunkedArray | pa.Array, among: Array) -> Array:
        """The rows of the ids, looked up among consecutive rows; -1 where an id is unknown."""
        first = int(among[0]) if len(among) else 0
        found = pc.index_in(ids.cast(pa.large_string()), value_set=self._ids.slice(first, len(among)))
        return np.asarray(pc.fill_null(pc.add(found.cast(pa.int64()), first), -1))

    def source_names(self, rows: Array) -> list[str]:
        """The name of the source that each row came from."""
        names = [source_name(source) for source in self._sources]
        return [names[code] for code in self._source[rows].tolist()]

    def order(self, late: Array) -> Array:
        """The rows in order of preference: those that are not `late` first, then by source, line and id."""
        rank = np.argsort(np.argsort(np.array(self._sources, object)))
        columns = {"late": pa.array(late), "source": pa.array(rank[self._source]), "line": pa.array(self._line), "id": self._ids}
        return np.asarray(pc.sort_indices(pa.table(columns), [(name, "ascending") for name in columns])).astype(np.int64)


def judged_rows(corpus: Path, index: RowIndex) -> Array:
    """The judgements by the rows of their query and candidate, -1 where an id is unknown; see `JUDGED`."""
    parts, sources, lines = [np.zeros(0, JUDGED)], [], []
    for table in joined(part_tables(corpus, "qrels", ["query_id", "item_id", "relevance", "source", "line"])):
        part = np.zeros(table.num_rows, JUDGED)
        part["query"] = index.rows(table["query_id"], index.queries)
        part["item"] = index.rows(table["item_id"], index.candidates)
        part["relevance"] = table["relevance"].to_numpy()
        parts.append(part)
        sources += table["source"].dictionary_encode().chunks
        lines.append(table["line"].to_numpy())
    judged = np.concatenate(parts)
    codes, names = _unified(sources)
    rank = np.append(np.argsort(np.argsort(np.array(names, object))), len(names))  # the last entry is the one that code -1 reads
    judged["place"][np.lexsort((np.concatenate([np.empty(0, np.int64), *lines]), rank[codes]))] = np.arange(len(judged))
    return judged


def evidence_rows(corpus: Path, index: RowIndex) -> tuple[Array, Array]:
    """The rows of the evidence of all triples, -1 where an id is unknown, and where that of each triple begins and the last ends."""
    named = read_part(corpus, "triples", ["evidence"])["evidence"]
    ends = np.cumsum([0, *pc.list_value_length(named).to_pylist()])
    return index.rows(pc.list_flatten(named), index.candidates), ends


class CodedColumn:
    """A dictionary-encoded column: a code for each row, and the values by code; -1 is no value."""

    def __init__(self, tables: Iterable[pa.Table], column: str, before: int = 0):
        codes, self.values = _unified([chunk for table in tables for chunk in table[column].dictionary_encode().chunks])
        self.codes = np.concatenate([np.full(before, -1, codes.dtype), codes])

    def __getitem__(self, row: int) -> str:
        return self.values[self.codes[row]]

    def among(self, value: str) -> Array:
        """True for the rows that have the value."""
        return self.codes == (self.values.index(value) if value in self.values else len(self.values))

    def set(self, rows: Array | list[int], value: str) -> None:
        if value not in self.values:
            self.values.append(value)
        self.codes[rows] = self.values.index(value)

    def of(self, rows: Array) -> list[str]:
        return [self.values[code] for code in self.codes[rows].tolist()]


def _unified(chunks: list[pa.DictionaryArray]) -> tuple[Array, list[str]]:
    """The codes of all rows in one dictionary, -1 for those without a value, and its values."""
    if not chunks:
        return np.empty(0, np.int32), []
    encoded = pa.chunked_array(chunks).unify_dictionaries()
    codes = np.concatenate([np.asarray(pc.fill_null(chunk.indices, -1)) for chunk in encoded.chunks]).astype(np.int32)
    return codes, encoded.chunks[-1].dictionary.to_pylist()
