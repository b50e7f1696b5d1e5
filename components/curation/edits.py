"""Cells that curation changed, stored on disk and applied to the tables of a part as these are read again in the same order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS

EDITS_SCHEMA = pa.schema(
    [PARTS["triples"].field(name).with_nullable(True) for name in ("text", "images", "video", "instruction", "answer")]
)
"""The new values of a row; null where the old value stays."""
BATCH_ROWS = 50


class Edits:
    """Changed rows by their numbers, written once and read once, both in order."""

    def __init__(self, folder: Path):
        self._path = folder / "edits.parquet"
        self._schema = pa.schema([pa.field("row", pa.int64()), *EDITS_SCHEMA])
        self._writer = pq.ParquetWriter(self._path, self._schema)

    def add(self, first: int, table: pa.Table) -> None:
        """Stores the changed ones of consecutive rows; `first` is the number of the first row."""
        changed = np.zeros(table.num_rows, bool)
        for name in EDITS_SCHEMA.names:
            changed |= np.asarray(table[name].is_valid())
        if changed.any():
            rows = pa.array(first + np.flatnonzero(changed))
            kept = table.filter(pa.array(changed)).select(EDITS_SCHEMA.names)
            self._writer.write_table(kept.add_column(0, self._schema.field("row"), rows))

    def finish(self) -> None:
        self._writer.close()

    def applied(self, first: int, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables with the new values; `first` is the number of their first row."""
        batches = self._batches()
        batch = next(batches, None)
        for table in tables:
            while batch is not None and batch["row"][0].as_py() < first + table.num_rows:
                positions = pc.index_in(pa.array(np.arange(first, first + table.num_rows)), value_set=batch["row"].combine_chunks())
                for name in set(EDITS_SCHEMA.names) & set(table.schema.names):
                    table = table.set_column(
                        table.schema.get_field_index(name), table.schema.field(name), _with_edits(table, batch, name, positions)
                    )
                if batch["row"][-1].as_py() >= first + table.num_rows:
                    break
                batch = next(batches, None)
            yield table
            first += table.num_rows

    def _batches(self) -> Iterator[pa.Table]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])


def _with_edits(table: pa.Table, batch: pa.Table, name: str, positions: pa.Array) -> pa.ChunkedArray:
    """The column with the new values filled in."""
    new = batch[name].is_valid().take(pc.fill_null(positions, 0))
    use_new = pc.and_(pc.is_valid(positions), new.combine_chunks() if isinstance(new, pa.ChunkedArray) else new)
    if not pc.any(use_new).as_py():
        return table[name]
    at = pc.if_else(use_new, pc.add(pc.fill_null(positions, 0), table.num_rows), pa.array(np.arange(table.num_rows), pa.int32()))
    both = pa.chunked_array([*table[name].chunks, *batch[name].cast(table.schema.field(name).type).chunks])
    return both.take(at)
