"""The canonical corpus folder.

corpus/part-*.parquet    candidates                                                          ITEM_SCHEMA
queries/part-*.parquet   queries with their split and task                                   QUERY_SCHEMA
qrels/part-*.parquet     relevance judgements; 0 is judged irrelevant                        QRELS_SCHEMA
triples/part-*.parquet   pictures with a question and its concise answer; may be missing     TRIPLE_SCHEMA
prompts/part-*.parquet   wordings of instructions, from a source; may be missing             PROMPT_SCHEMA
pools/part-*.parquet     candidates of the pools that queries name; may be missing           POOL_SCHEMA
kin/part-*.parquet       pairs of candidates likely to be equally correct, from curation     KIN_SCHEMA
held/part-*.parquet      held-out candidates, from curation; see `held_out`                  HELD_SCHEMA
rejects/part-*.parquet   rejected rows with the reason, the source and the line              REJECT_SCHEMA

The first step of an item's `source` path is the name of its source.
"""

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Modality

QUERY_SCHEMA = ITEM_SCHEMA
for _field in (
    pa.field("split", pa.string(), nullable=False),
    pa.field("task", pa.string(), nullable=False),
    pa.field("dataset", pa.string()),  # by which results are reported; none: the name of the source
    pa.field("pool", pa.string()),  # the pool of its data set in pools/; none: the whole corpus
    pa.field("answers", pa.list_(pa.string())),  # strings any of which makes a passage that has it relevant, where nothing is judged
):
    QUERY_SCHEMA = QUERY_SCHEMA.append(_field)
QRELS_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("relevance", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),  # of a teacher
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
    ]
)
TRIPLE_SCHEMA = ITEM_SCHEMA  # the question is the text
for _field in (
    pa.field("split", pa.string(), nullable=False),
    pa.field("answer", pa.string(), nullable=False),
    pa.field("evidence", pa.list_(pa.string()), nullable=False),  # ids of candidates that contain the answer
):
    TRIPLE_SCHEMA = TRIPLE_SCHEMA.append(_field)
PROMPT_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("task", "wording", "source")])
POOL_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("pool", "item_id")])
KIN_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("item_id", "kin_id", "why")])
HELD_SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False)])
REJECT_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("part", "id", "reason", "detail", "source")] + [pa.field("line", pa.int64())]
)
PARTS = {
    "corpus": ITEM_SCHEMA,
    "queries": QUERY_SCHEMA,
    "qrels": QRELS_SCHEMA,
    "triples": TRIPLE_SCHEMA,
    "prompts": PROMPT_SCHEMA,
    "pools": POOL_SCHEMA,
    "kin": KIN_SCHEMA,
    "held": HELD_SCHEMA,
    "rejects": REJECT_SCHEMA,
}

TASK = re.compile("[itv]+->[itv]+")

GROUP_ROWS, GROUP_BYTES = 1000, 16 << 20
ROWS = 16  # at a time: pictures are large
JOINED = 1_000_000  # of a part without pictures, whose ids are looked up together


class PartWriter:
    """Writes the rows of a part into files of bounded size; buffers one row group, whose size does not depend on how rows are passed in.

    A file gets its final name only when it is complete.
    """

    def __init__(self, folder: Path, part: str, rows_per_file: int = 50_000, bytes_per_file: int = 1 << 28):
        self.folder = folder / part
        self.schema = PARTS[part]
        self.rows_per_file = rows_per_file
        self.bytes_per_file = bytes_per_file
        self.written = 0
        self._pending: list[pa.Table] = []
        self._group_rows = self._group_bytes = 0  # of the buffered row group
        self._rows = self._bytes = 0  # of the file, with the buffered row group
        self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        table = (
            rows.select(self.schema.names).cast(self.schema)
            if isinstance(rows, pa.Table)
            else pa.Table.from_pylist(rows, schema=self.schema)
        )
        self.written += table.num_rows
        first = 0
        for row, size in enumerate(row_sizes(table), 1):
            self._group_rows, self._group_bytes = self._group_rows + 1, self._group_bytes + size
            self._rows, self._bytes = self._rows + 1, self._bytes + size
            full = self._rows >= self.rows_per_file or self._bytes >= self.bytes_per_file
            if full or self._group_rows >= GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
                self._pending.append(table.slice(first, row - first))
                first = row
                self._flush()
                if full:
                    self._finish()
        if first < table.num_rows:
            self._pending.append(table.slice(first))

    def _flush(self) -> None:
        """Writes the buffered rows as a row group."""
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._draft, self.schema)
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending).combine_chunks(), row_group_size=self._group_rows)
        self._pending, self._group_rows, self._group_bytes = [], 0, 0

    def _finish(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._draft.rename(self.folder / f"part-{self._files:05d}.parquet")
        self._writer, self._rows, self._bytes = None, 0, 0
        self._files += 1

    @property
    def _draft(self) -> Path:
        return self.folder / ".draft"

    def close(self) -> None:
        """Writes the rest; a part without rows is one empty file."""
        if self._rows or not self._files:
            self._flush()
            self._finish()

    def discard(self) -> None:
        """Deletes the unfinished file."""
        if self._writer is not None:
            self._writer.close()
            self._draft.unlink()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def row_sizes(table: pa.Table) -> Iterator[int]:
    """The size of each row in bytes: its text and pictures, and 100 for the rest."""
    sizes = np.full(table.num_rows, 100, np.int64)
    for name in ("text", "images", "video"):
        if name in table.schema.names:
            column = table[name].combine_chunks() if table.num_rows else table[name]
            lengths = pc.binary_length(column if name == "text" else pc.list_flatten(column))
            parents = np.arange(table.num_rows) if name == "text" else pc.list_parent_indices(column)
            np.add.at(sizes, np.asarray(parents), np.asarray(pc.fill_null(lengths, 0)))
    return map(int, sizes)


def first_picture(row: Mapping[str, Any]) -> bytes | None:
    """The first picture of an item by its row, or the middle frame of its clip; None where it has neither."""
    frames = row["video"] or []
    return next(iter(row["images"] or frames[len(frames) // 2 :]), None)


def modality_codes(table: pa.Table) -> npt.NDArray[np.int32]:
    """The code of each row's modality; an absent cell is empty, as a text of white space is."""
    lengths = {
        Modality.TEXT: pc.utf8_length(pc.utf8_trim_whitespace(table["text"])),
        Modality.IMAGE: pc.list_value_length(table["images"]),
        Modality.VIDEO: pc.list_value_length(table["video"]),
    }
    codes = np.zeros(table.num_rows, np.int32)
    for bit, column in lengths.items():
        codes |= int(bit) * (pc.fill_null(column, 0).to_numpy() > 0)
    return codes


def modalities(table: pa.Table) -> list[Modality]:
    """The modality of each row."""
    return [Modality(code) for code in modality_codes(table).tolist()]


def source_name(source: str | None) -> str:
    """The name of a row's source, the first step of its `source` path."""
    return (source or "").partition("/")[0]


def part_files(folder: Path, part: str) -> list[str]:
    """The files of a part, in order."""
    return sorted(str(file) for file in (folder / part).glob("*.parquet"))


def part_rows(folder: Path, part: str) -> int:
    """The row count of a part, from the footers of its files."""
    return sum(pq.read_metadata(file).num_rows for file in part_files(folder, part))


def part_tables(
    folder: Path, part: str, columns: list[str] | None = None, rows: int = 1000, chosen: npt.NDArray[np.bool_] | None = None
) -> Iterator[pa.Table]:
    """The rows of a part in order, in tables that never span row groups, since row groups bound the size in bytes.

    With `chosen`, only the rows for which it is true; row groups without any of them are not read.
    """
    first = 0
    for file in part_files(folder, part):
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                size = opened.metadata.row_group(group).num_rows
                if chosen is None or chosen[first : first + size].any():
                    place = first
                    for batch in opened.iter_batches(batch_size=rows, columns=columns, row_groups=[group]):
                        table = pa.Table.from_batches([batch])
                        yield table if chosen is None else table.filter(pa.array(chosen[place : place + table.num_rows]))
                        place += table.num_rows
                first += size


def joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables in larger ones, each of `JOINED` rows or a little more, since every lookup of ids costs a pass over all ids."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(each.num_rows for each in waiting) >= JOINED:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_part(folder: Path, part: str, columns: list[str] | None = None) -> pa.Table:
    """A whole part in memory; for parts without pictures, or small ones."""
    files = part_files(folder, part)
    return pq.read_table(files, columns=columns) if files else PARTS[part].empty_table().select(columns or PARTS[part].names)


def held_out(curate: Path) -> set[str]:
    """The ids of held-out candidates.

    These are judged answers of queries outside the split train, their kin, and with `curate.leakage=all` candidates near-equal to such a
    query or answer.

    They are used neither to write passages nor as mined negatives.
    """
    if not part_files(curate, "held"):
        raise Refused(f"{curate} has no held/part-*.parquet, in which curation lists the held-out candidates; give a curated corpus")
    return set(read_part(curate, "held")["item_id"].to_pylist())


def rows_with_ids(folder: Path, part: str, wanted: Container[str]) -> Iterator[pa.Table]:
    """The rows with the wanted ids, in the order of the part; of row groups without any of them, only the ids are read."""
    for file in part_files(folder, part):
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                ids = opened.read_row_group(group, ["id"])["id"].to_pylist()
                chosen = np.fromiter((id in wanted for id in ids), bool, len(ids))
                if not chosen.any():
                    continue
                start = 0
                for batch in opened.iter_batches(batch_size=ROWS, row_groups=[group]):
                    kept = chosen[start : start + batch.num_rows]
                    start += batch.num_rows
                    if kept.any():
                        yield pa.Table.from_batches([batch.filter(pa.array(kept))])
