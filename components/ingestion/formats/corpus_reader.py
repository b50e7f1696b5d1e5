"""Reads a canonical corpus folder for the writers of formats: rows in order, a candidate by its id, and never the whole corpus.

In memory are the judgements, the members of pools, 16 bytes for each candidate, and a cache of row groups of candidates of up to
`HELD_BYTES`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS, part_files, part_tables
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Item, row_to_item, table_to_items

HELD_BYTES = 256 << 20  # of cached row groups; the last one is cached whatever its size
ROWS = 64  # read at a time: pictures are large


class QueryOrigin(NamedTuple):
    """What a query has for evaluation besides its judgements; empty where it has none."""

    dataset: str
    pool: str
    answers: tuple[str, ...]


class CorpusReader:
    """Iterates over the parts of a canonical corpus, and looks candidates up by id."""

    def __init__(self, corpus: Path, held_bytes: int = HELD_BYTES):
        self.corpus, self.held_bytes = corpus, held_bytes
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()  # the last used last
        self._bytes = 0  # of them

    def candidates(self) -> Iterator[Item]:
        """All candidates, in the order of the corpus."""
        for table in part_tables(self.corpus, "corpus", rows=ROWS):
            yield from table_to_items(table)

    def item(self, id: str) -> Item:
        """The candidate with this id."""
        for position in self._candidates.positions(id):
            file, group, row = self._at(position)
            table = self._group(file, group)
            if table["id"][row].as_py() == id:
                return row_to_item(table.slice(row, 1).to_pylist()[0])
        raise Refused(f"{self.corpus} has no candidate {id!r}, which its qrels/ or triples/ name; give a corpus that is whole")

    def __contains__(self, id: str) -> bool:
        """Whether a candidate has this id, by its 64-bit hash alone."""
        return bool(len(self._candidates.positions(id)))

    def queries(self) -> Iterator[tuple[Item, str, str, list[dict[str, Any]]]]:
        """All queries in their order, with split, task and judgements as rows of `QRELS_SCHEMA`."""
        for table in part_tables(self.corpus, "queries", rows=ROWS):
            judgements_of_queries = self._judgements_of(table["id"].to_pylist())
            tails = table.select(["split", "task"]).to_pylist()
            for item, tail, judgements in zip(table_to_items(table), tails, judgements_of_queries, strict=True):
                yield item, tail["split"], tail["task"], judgements

    def origins(self) -> Iterator[QueryOrigin]:
        """The data set, the pool and the answers of each query, in their order."""
        for table in part_tables(self.corpus, "queries", ["dataset", "pool", "answers"]):
            for dataset, pool, answers in zip(*(column.to_pylist() for column in table.columns), strict=True):
                yield QueryOrigin(dataset or "", pool or "", tuple(answers or ()))

    def triples(self) -> Iterator[tuple[Item, str, str, tuple[str, ...]]]:
        """All triples in their order: the question with its picture, split, answer, and the ids of evidence."""
        for table in part_tables(self.corpus, "triples", rows=ROWS):
            tails = table.select(["split", "answer", "evidence"]).to_pylist()
            for item, tail in zip(table_to_items(table), tails, strict=True):
                yield item, tail["split"], tail["answer"], tuple(tail["evidence"])

    def prompts(self) -> Iterator[dict[str, Any]]:
        """All rows of prompts."""
        for table in part_tables(self.corpus, "prompts"):
            yield from table.to_pylist()

    def texts(self) -> Iterator[tuple[str, str]]:
        """The id and text of every candidate; no picture is read."""
        for table in part_tables(self.corpus, "corpus", ["id", "text"]):
            yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)

    @property
    def pools(self) -> list[str]:
        """The names of the pools that candidates are members of."""
        return self._members[0]

    def pools_of(self, id: str) -> list[str]:
        """The pools that the candidate with this id is a member of, in the order of their rows."""
        names, codes, ids, index = self._members
        found = (int(codes[place]) for place in index.positions(id) if ids[place].as_py() == id)
        return [names[code] for code in dict.fromkeys(found)]

    @cached_property
    def _members(self) -> tuple[list[str], np.ndarray, pa.ChunkedArray, "_Index"]:
        """The names of pools; and of every member the number of its pool, and its id."""
        numbers: dict[str, int] = {}
        codes, ids = [np.empty(0, np.int32)], []
        for table in part_tables(self.corpus, "pools"):
            codes.append(np.array([numbers.setdefault(pool, len(numbers)) for pool in table["pool"].to_pylist()], np.int32))
            ids += table["item_id"].cast(pa.large_string()).chunks
        whole = pa.chunked_array(ids, pa.large_string()).combine_chunks()
        return [*numbers], np.concatenate(codes), whole, _Index(id for chunk in ids for id in chunk.to_pylist())

    # Lookup of candidates

    @cached_property
    def _candidates(self) -> "_Index":
        return _Index(id for table in part_tables(self.corpus, "corpus", ["id"]) for id in table["id"].to_pylist())

    @cached_property
    def _starts(self) -> tuple[list[tuple[str, int]], np.ndarray]:
        """The row groups of the corpus, and the number of each one's first row."""
        groups, sizes = [], []
        for file in part_files(self.corpus, "corpus"):
            about = pq.read_metadata(file)
            groups += [(file, group) for group in range(about.num_row_groups)]
            sizes += [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        return groups, np.cumsum([0, *sizes])

    def _at(self, position: int) -> tuple[str, int, int]:
        groups, starts = self._starts
        number = int(np.searchsorted(starts, position, side="right")) - 1
        return *groups[number], int(position - starts[number])

    def _group(self, file: str, group: int) -> pa.Table:
        cached = self._groups.pop((file, group), None)
        if cached is None:
            with pq.ParquetFile(file) as opened:
                cached = opened.read_row_group(group, columns=ITEM_SCHEMA.names)
            self._bytes += cached.nbytes
        self._groups[file, group] = cached
        while len(self._groups) > 1 and self._bytes > self.held_bytes:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return cached

    # Judgements by query

    @cached_property
    def _qrels(self) -> tuple[pa.Table, "_Index"]:
        tables = [table.set_column(4, "source", table["source"].dictionary_encode()) for table in part_tables(self.corpus, "qrels")]
        whole = pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else PARTS["qrels"].empty_table()
        return whole, _Index(id for table in tables for id in table["query_id"].to_pylist())

    def _judgements_of(self, queries: list[str]) -> list[list[dict[str, Any]]]:
        whole, index = self._qrels
        positions = [index.positions(query) for query in queries]
        rows = iter(whole.take(np.concatenate([np.empty(0, np.int64), *positions])).to_pylist())
        judgements = []
        for query, own in zip(queries, positions, strict=True):
            found = [next(rows) for _ in own]
            judgements.append([row for row in found if row["query_id"] == query])
        return judgements


class _Index:
    """The positions of ids in a list, by their 64-bit hashes; the caller compares the ids."""

    def __init__(self, ids: Iterable[str]):
        hashes = np.fromiter(map(_hash, ids), np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def positions(self, id: str) -> np.ndarray:
        key = np.uint64(_hash(id))
        return self._order[np.searchsorted(self._hashes, key) : np.searchsorted(self._hashes, key, side="right")]


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")
