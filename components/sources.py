"""The canonical corpus folder, and the first stage: a corpus brought into it, from canonical Parquet or from the generated world.

corpus/part-*.parquet    candidates                          ITEM_SCHEMA
queries/part-*.parquet   queries with their split and task   QUERY_SCHEMA
qrels/part-*.parquet     which candidate answers which query QRELS_SCHEMA
rejects/part-*.parquet   what was left out, and why          REJECT_SCHEMA
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mirepoix.components import world as generated
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows

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


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: str | None = option(None, "folder or URI of a canonical corpus (corpus/, queries/, qrels/ of Parquet); null: the generated world")
    fingerprint: str | None = option(None, "names, sizes and times of the files at path, filled in when the run starts")
    world: generated.WorldConfig = option(generated.WorldConfig, "the generated world, for when path is null")


class PartWriter:
    """Writes the rows of one part into files of bounded size."""

    def __init__(self, folder: Path, part: str, rows_per_file: int = 50_000):
        self.folder = folder / part
        self.schema = PARTS[part]
        self.rows_per_file = rows_per_file
        self.written = 0
        self._pending: list[pa.Table] = []
        self._files = 0

    def write(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        table = (
            rows.select(self.schema.names).cast(self.schema)
            if isinstance(rows, pa.Table)
            else pa.Table.from_pylist(rows, schema=self.schema)
        )
        self._pending.append(table)
        self.written += table.num_rows
        while sum(part.num_rows for part in self._pending) >= self.rows_per_file:
            whole = pa.concat_tables(self._pending)
            self._flush(whole.slice(0, self.rows_per_file))
            self._pending = [whole.slice(self.rows_per_file)]

    def _flush(self, table: pa.Table) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.combine_chunks(), self.folder / f"part-{self._files:05d}.parquet", row_group_size=1000)
        self._files += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        left = sum(part.num_rows for part in self._pending)
        if kind is None and (left or not self._files):
            self._flush(pa.concat_tables(self._pending) if self._pending else self.schema.empty_table())


def part_files(folder: Path, part: str) -> list[str]:
    """The files of a part, in the order of their rows."""
    return sorted(str(file) for file in (folder / part).glob("*.parquet"))


def read_part(folder: Path, part: str, columns: list[str] | None = None) -> pa.Table:
    """A whole part in memory; for parts without pictures, or small ones."""
    files = part_files(folder, part)
    return pq.read_table(files, columns=columns) if files else PARTS[part].empty_table().select(columns or PARTS[part].names)


def fingerprint(path: str) -> str:
    """Names, sizes and times of the files at `path` in one line; refuses a path that holds no corpus."""
    filesystem, root = _place(path)
    lines = []
    for part in ("corpus", "queries", "qrels"):
        found = filesystem.get_file_info(pafs.FileSelector(f"{root}/{part}", recursive=True, allow_not_found=True))
        files = [info for info in found if info.is_file and info.path.endswith(".parquet")]
        if not files:
            raise Refused(
                f"{path} has no {part}/*.parquet; a canonical corpus is a folder with corpus/, queries/ and qrels/ of Parquet files"
            )
        lines += [f"{info.path.removeprefix(root)} {info.size} {info.mtime_ns}" for info in files]
    return "; ".join(sorted(lines))


def _place(path: str) -> tuple[pafs.FileSystem, str]:
    try:
        if "://" in path:
            return pafs.FileSystem.from_uri(path)
        return pafs.LocalFileSystem(), str(Path(path).expanduser().resolve())
    except (OSError, pa.ArrowInvalid) as error:
        raise Refused(
            f"corpus {path!r} cannot be reached ({str(error).splitlines()[0]}); give a folder or a URI such as s3://bucket/corpus"
        ) from error


def work(context: Context, config: SourcesConfig) -> Outcome:
    """Brings the corpus into canonical form."""
    if config.path is None:
        return generated.work(context, config.world)
    filesystem, root = _place(config.path)
    counts = {}
    with PartWriter(context.folder, "rejects") as rejects:
        for part in ("corpus", "queries", "qrels"):
            seen: set[str] = set()
            with PartWriter(context.folder, part) as writer:
                for rows in _rows(filesystem, f"{root}/{part}", part):
                    faults = [_fault(part, row, seen) for row in rows]
                    writer.write([row for row, fault in zip(rows, faults, strict=True) if fault is None])
                    rejects.write([_reject(part, row, fault) for row, fault in zip(rows, faults, strict=True) if fault is not None])
                    context.report({"step": writer.written, "unit": part})
                counts[part] = writer.written
    if not counts["corpus"]:
        raise Refused(f"the corpus at {config.path} is empty: not one usable row in corpus/; {rejects.written} rows were rejected")
    written = sum(counts.values())
    return Outcome(Rows(read=written + rejects.written, written=written, rejected=rejects.written), {**counts, "rejected": rejects.written})


def _rows(filesystem: pafs.FileSystem, root: str, part: str) -> Iterator[list[dict[str, Any]]]:
    """Batches of rows, each with every column of its schema; a row without provenance gets its file and number."""
    schema = PARTS[part]
    for info in sorted(filesystem.get_file_info(pafs.FileSelector(root, recursive=True)), key=lambda info: info.path):
        if not info.path.endswith(".parquet"):
            continue
        name, line = f"{part}/{info.base_name}", 0
        dataset = pads.dataset(info.path, filesystem=filesystem, format="parquet")
        columns = [column for column in schema.names if column in dataset.schema.names]
        lacking = {"corpus": {"id"}, "queries": {"id", "split", "task"}, "qrels": {"query_id", "item_id"}}[part] - set(columns)
        if lacking:
            raise Refused(
                f"{name} has no column {', '.join(sorted(lacking))}; it has {', '.join(dataset.schema.names)}; see docs/architecture.md"
            )
        for batch in dataset.to_batches(columns=columns, batch_size=1000):
            rows = []
            for row in batch.to_pylist():
                line += 1
                rows.append(_completed(part, row, name, line))
            yield rows


def _completed(part: str, row: dict[str, Any], name: str, line: int) -> dict[str, Any]:
    if part == "qrels":
        return {"relevance": 1, **row}
    full = {
        "id": row["id"] or "",
        "text": row.get("text") or "",
        "images": row.get("images") or [],
        "video": row.get("video") or [],
        "instruction": row.get("instruction") or "",
        "source": row.get("source") or name,
        "line": row.get("line") or line,
    }
    return full if part == "corpus" else {**full, "split": row["split"], "task": row["task"]}


def _fault(part: str, row: dict[str, Any], seen: set[str]) -> str | None:
    if part == "qrels":
        return None
    if not row["id"] or any(letter.isspace() for letter in row["id"]):
        return "id is empty or has white space"
    if row["id"] in seen:
        return "id stands twice"
    if not (row["text"] or row["images"] or row["video"]):
        return "neither text nor picture nor video"
    seen.add(row["id"])
    return None


def _reject(part: str, row: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"part": part, "id": row["id"], "reason": reason, "source": row["source"], "line": row["line"]}
