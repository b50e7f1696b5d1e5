"""The members of pools: those of a merged candidate pass on to the one that is kept, those of a rejected one are left out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import PartWriter, part_files, part_tables
from mirepoix.components.curation.row_index import CodedColumn, RowIndex
from mirepoix.components.curation.verdicts import Verdicts

TWICE, REJECTED = "member twice", "candidate was rejected"
ROWS_PER_FILE = 1_000_000
FOUND_AT_ONCE = 1_000_000  # ids: for each call the index hashes all of its own
WRITTEN_AT_ONCE = 100_000

Array = npt.NDArray


def write_members(folder: Path, sources: Path, index: RowIndex, keeper: Array, verdicts: Verdicts, why: Counter[tuple[str, str]]) -> int:
    """Writes pools/ in the order of the sources, each member once, and returns how many; counts in `why` those that are left out.

    `keeper` is the candidate that each one was merged into, or itself.
    """
    if not part_files(sources, "pools"):
        return 0
    pools = CodedColumn(part_tables(sources, "pools", ["pool"]), "pool")
    rows = np.concatenate([np.empty(0, np.int64), *(index.rows(ids, index.candidates) for ids in _ids(sources))])
    rows = np.where(rows >= 0, keeper[rows], -1)
    kept = np.flatnonzero((rows >= 0) & verdicts.accepted(rows))
    first = np.unique(pools.codes[kept].astype(np.int64) * len(index) + rows[kept], return_index=True)[1]
    chosen = kept[np.sort(first)]
    with PartWriter(folder, "pools", ROWS_PER_FILE) as writer:
        for part in np.split(chosen, range(WRITTEN_AT_ONCE, len(chosen), WRITTEN_AT_ONCE)):
            columns = {"pool": pools.of(part), "item_id": index.ids(rows[part])}
            writer.write(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))
    for reason, count in ((TWICE, len(kept) - len(chosen)), (REJECTED, len(rows) - len(kept))):
        why.update({(reason, "pools"): count} if count else {})
    return writer.written


def _ids(sources: Path) -> Iterator[pa.ChunkedArray]:
    """The ids of members, many at a time."""
    chunks: list[pa.Array] = []
    for table in part_tables(sources, "pools", ["item_id"]):
        chunks += table["item_id"].chunks
        if sum(map(len, chunks)) >= FOUND_AT_ONCE:
            yield pa.chunked_array(chunks)
            chunks = []
    yield pa.chunked_array(chunks, pa.string())


def queries_with_answers(sources: Path, index: RowIndex) -> Array:
    """The rows of the queries that have answers as texts."""
    lengths = [pc.fill_null(pc.list_value_length(table["answers"]), 0) for table in part_tables(sources, "queries", ["answers"])]
    return index.queries[np.concatenate([np.empty(0, np.int64), *map(np.asarray, lengths)]) > 0]
