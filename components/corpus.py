"""The canonical corpus folder.

corpus/part-*.parquet    candidates                          ITEM_SCHEMA
queries/part-*.parquet   queries with their split and task   QUERY_SCHEMA
qrels/part-*.parquet     which candidate answers which query QRELS_SCHEMA
rejects/part-*.parquet   what was left out, and why          REJECT_SCHEMA
"""

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.models.item import ITEM_SCHEMA

QUERY_SCHEMA = ITEM_SCHEMA.append(pa.field("split", pa.string(), nullable=False)).append(pa.field("task", pa.string(), nullable=False))
QRELS_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("relevance", pa.int32(), nullable=False),
    ]
)
REJECT_SCHEMA = pa.schema([pa.field(name, pa.string()) for name in ("part", "id", "reason", "source")] + [pa.field("line", pa.int64())])
PARTS = {"corpus": ITEM_SCHEMA, "queries": QUERY_SCHEMA, "qrels": QRELS_SCHEMA, "rejects": REJECT_SCHEMA}


class PartWriter:
    """Writes the rows of one part into files of bounded size, and holds no more than a file in memory."""

    def __init__(self, folder: Path, part: str, rows_per_file: int = 50_000, bytes_per_file: int = 1 << 28):
        self.folder = folder / part
        self.schema = PARTS[part]
        self.rows_per_file = rows_per_file
        self.bytes_per_file = bytes_per_file
        self.written = 0
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = self._files = 0

    def write(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        table = (
            rows.select(self.schema.names).cast(self.schema)
            if isinstance(rows, pa.Table)
            else pa.Table.from_pylist(rows, schema=self.schema)
        )
        self.written += table.num_rows
        while self._rows + table.num_rows >= self.rows_per_file:
            room = self.rows_per_file - self._rows
            self._hold(table.slice(0, room))
            self._flush()
            table = table.slice(room)
        self._hold(table)
        if self._bytes >= self.bytes_per_file:
            self._flush()

    def _hold(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes

    def _flush(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        table = pa.concat_tables([self.schema.empty_table(), *self._pending]).combine_chunks()
        pq.write_table(table, self.folder / f"part-{self._files:05d}.parquet", row_group_size=1000)
        self._pending, self._rows, self._bytes = [], 0, 0
        self._files += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and (self._rows or not self._files):
            self._flush()


def part_files(folder: Path, part: str) -> list[str]:
    """The files of a part, in the order of their rows."""
    return sorted(str(file) for file in (folder / part).glob("*.parquet"))


def part_rows(folder: Path, part: str) -> int:
    """How many rows a part has, from the ends of its files alone."""
    return sum(pq.read_metadata(file).num_rows for file in part_files(folder, part))


def read_part(folder: Path, part: str, columns: list[str] | None = None) -> pa.Table:
    """A whole part in memory; for parts without pictures, or small ones."""
    files = part_files(folder, part)
    return pq.read_table(files, columns=columns) if files else PARTS[part].empty_table().select(columns or PARTS[part].names)
