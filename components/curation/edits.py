"""What curation changed of some rows, kept on disk and put back into the tables that come by in the same order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS

CHANGES_SCHEMA = pa.schema(
    [PARTS["triples"].field(name).with_nullable(True) for name in ("text", "images", "video", "instruction", "answer")]
)
"""A row's new values; null: the old one."""
AT_ONCE = 50


class Edits:
    """Changed rows by their number, written once in order and read once in order."""

    def __init__(self, folder: Path):
        self._path = folder / "changes.parquet"
        self._schema = pa.schema([pa.field("row", pa.int64()), *CHANGES_SCHEMA])
        self._writer = pq.ParquetWriter(self._path, self._schema)

    def add(self, first: int, table: pa.Table) -> None:
        """Notes the changes among rows that stand one after the other, the first of them under the given number."""
        changed = np.zeros(table.num_rows, bool)
        for name in CHANGES_SCHEMA.names:
            changed |= np.asarray(table[name].is_valid())
        if changed.any():
            rows = pa.array(first + np.flatnonzero(changed))
            kept = table.filter(pa.array(changed)).select(CHANGES_SCHEMA.names)
            self._writer.write_table(kept.add_column(0, self._schema.field("row"), rows))

    def seal(self) -> None:
        self._writer.close()

    def applied(self, first: int, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables with what was changed, the first of their rows under the given number."""
        changes = self._some()
        held = next(changes, None)
        for table in tables:
            while held is not None and held["row"][0].as_py() < first + table.num_rows:
                place = pc.index_in(pa.array(np.arange(first, first + table.num_rows)), value_set=held["row"].combine_chunks())
                for name in set(CHANGES_SCHEMA.names) & set(table.schema.names):
                    table = table.set_column(
                        table.schema.get_field_index(name), table.schema.field(name), _merged(table, held, name, place)
                    )
                if held["row"][-1].as_py() >= first + table.num_rows:
                    break
                held = next(changes, None)
            yield table
            first += table.num_rows

    def _some(self) -> Iterator[pa.Table]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=AT_ONCE):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])


def _merged(table: pa.Table, held: pa.Table, name: str, place: pa.Array) -> pa.ChunkedArray:
    """The column with the new values where there are some."""
    new = held[name].is_valid().take(pc.fill_null(place, 0))
    use_new = pc.and_(pc.is_valid(place), new.combine_chunks() if isinstance(new, pa.ChunkedArray) else new)
    if not pc.any(use_new).as_py():
        return table[name]
    at = pc.if_else(use_new, pc.add(pc.fill_null(place, 0), table.num_rows), pa.array(np.arange(table.num_rows), pa.int32()))
    both = pa.chunked_array([*table[name].chunks, *held[name].cast(table.schema.field(name).type).chunks])
    return both.take(at)
