"""The first stage: a corpus brought into canonical form, from canonical Parquet or from the generated world."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mirepoix.components import world as generated
from mirepoix.components.corpus import PARTS, PartWriter
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows, refuse_credentials

NEEDED = {"corpus": ("id",), "queries": ("id", "split", "task"), "qrels": ("query_id", "item_id")}
TASK = re.compile("[itv]+->[itv]+")


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: str | None = option(None, "folder or URI of a canonical corpus (corpus/, queries/, qrels/ of Parquet); null: the generated world")
    fingerprint: str | None = option(None, "names, sizes and times of the files at path, filled in when the run starts")
    world: generated.WorldConfig = option(generated.WorldConfig, "the generated world, for when path is null")

    def __post_init__(self) -> None:
        if self.path is not None:
            refuse_credentials(self.path)


def fingerprint(path: str) -> str:
    """Names, sizes and times of the files at `path` in one line; refuses a path that holds no corpus."""
    place = _Place(path)
    infos = [info for part in NEEDED for info in place.files(part)]
    return "; ".join(sorted(f"{place.name(info)} {info.size} {info.mtime_ns}" for info in infos))


def work(context: Context, config: SourcesConfig) -> Outcome:
    """Brings the corpus into canonical form."""
    if config.path is None:
        return generated.work(context, config.world)
    place = _Place(config.path)
    counts: dict[str, int] = {}
    read = 0
    with PartWriter(context.folder, "rejects") as rejects:
        for part in NEEDED:
            seen: set[str] = set()
            with PartWriter(context.folder, part) as writer:
                for rows in place.rows(part):
                    faults = [_fault(part, row, seen) for row in rows]
                    writer.write([row for row, fault in zip(rows, faults, strict=True) if fault is None])
                    rejects.write([_reject(part, row, fault) for row, fault in zip(rows, faults, strict=True) if fault is not None])
                    read += len(rows)
                    context.report({"step": read})
                counts[part] = writer.written
    if not counts["corpus"]:
        raise Refused(f"the corpus at {config.path} is empty: not one usable row in corpus/; {rejects.written} rows were rejected")
    rows = Rows(read=read, written=sum(counts.values()), rejected=rejects.written)
    return Outcome(rows, {**counts, "rejected": rejects.written})


class _Place:
    """A canonical corpus where the user has it."""

    def __init__(self, path: str):
        self.path = path
        try:
            if "://" in path:
                self.filesystem, self.root = pafs.FileSystem.from_uri(path)
            else:
                self.filesystem, self.root = pafs.LocalFileSystem(), str(Path(path).expanduser().resolve())
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreachable(error) from error

    def files(self, part: str) -> list[pafs.FileInfo]:
        """The Parquet files of a part, in the order of their names."""
        try:
            found = self.filesystem.get_file_info(pafs.FileSelector(f"{self.root}/{part}", recursive=True, allow_not_found=True))
        except OSError as error:
            raise self._unreachable(error) from error
        files = sorted((info for info in found if info.is_file and info.path.endswith(".parquet")), key=lambda info: info.path)
        if not files:
            raise Refused(
                f"{self.path} has no {part}/*.parquet; a canonical corpus is a folder with corpus/, queries/ and qrels/ of Parquet files"
            )
        return files

    def name(self, info: pafs.FileInfo) -> str:
        return info.path.removeprefix(f"{self.root}/")

    def rows(self, part: str) -> Iterator[list[dict[str, Any]]]:
        """Batches of rows, each with every column of its schema; a row without provenance gets its file and number."""
        for info in self.files(part):
            name, line = self.name(info), 0
            for table in self._tables(info, part):
                rows = table.to_pylist()
                yield [_completed(part, row, name, number) for number, row in enumerate(rows, line + 1)]
                line += len(rows)

    def _tables(self, info: pafs.FileInfo, part: str) -> Iterator[pa.Table]:
        name, schema = self.name(info), PARTS[part]
        try:
            with self.filesystem.open_input_file(info.path) as stream, pq.ParquetFile(stream) as file:
                there = file.schema_arrow.names
                lacking = [column for column in NEEDED[part] if column not in there]
                if lacking:
                    raise Refused(f"{name} has no column {', '.join(lacking)}; it has {', '.join(there)}; see docs/architecture.md")
                fields = [field.with_nullable(True) for field in schema if field.name in there]
                for batch in file.iter_batches(batch_size=1000, columns=[field.name for field in fields]):
                    yield pa.Table.from_batches([batch]).select([field.name for field in fields]).cast(pa.schema(fields))
        except pa.ArrowException as error:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)
            raise Refused(f"{name} cannot be read ({str(error).splitlines()[0]}); its columns are to be {columns}") from error

    def _unreachable(self, error: Exception) -> Refused:
        reason = str(error).splitlines()[0]
        return Refused(f"corpus {self.path!r} cannot be reached ({reason}); give a folder or a URI such as s3://bucket/corpus")


def _completed(part: str, row: dict[str, Any], name: str, line: int) -> dict[str, Any]:
    if part == "qrels":
        return {"relevance": 1, **row, "source": name, "line": line}
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
        return "query_id, item_id or relevance is empty" if not row["query_id"] or not row["item_id"] or row["relevance"] is None else None
    if not row["id"] or any(letter.isspace() for letter in row["id"]):
        return "id is empty or has white space"
    if row["id"] in seen:
        return "id stands twice"
    if not (row["text"] or row["images"] or row["video"]):
        return "neither text nor picture nor video"
    if not all([*row["images"], *row["video"]]):
        return "a picture is empty"
    if part == "queries" and not row["split"]:
        return "split is empty"
    if part == "queries" and not TASK.fullmatch(row["task"] or ""):
        return "task is not of the form it->t"
    seen.add(row["id"])
    return None


def _reject(part: str, row: dict[str, Any], reason: str) -> dict[str, Any]:
    name = f"{row['query_id']} {row['item_id']}" if part == "qrels" else row["id"]
    return {"part": part, "id": name, "reason": reason, "source": row["source"], "line": row["line"]}
