"""The canonical corpus: a folder of Parquet files, as our stages write it and as users may give it.

    corpus/*.parquet     id; text, images (list of bytes), video (list of frames), instruction, source, line
    queries/*.parquet    the same, and split, task ("t->it"); dataset, pool, answers (list of texts)
    qrels/*.parquet      query_id, item_id; relevance (1 where there is none), score, source, line
    triples/*.parquet    optional: as queries without task, and answer, evidence (list of candidates' ids)
    prompts/*.parquet    optional: task, wording, source
    pools/*.parquet      optional: pool, item_id

Columns after the semicolon may be missing; other columns are ignored, and so are the parts kin/, held/ and rejects/ of an artefact. A row
with a source and a line keeps them.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mirepoix.components.corpus.parts import PARTS, TASK, part_files
from mirepoix.components.ingestion.formats.rows import (
    Candidate,
    Judgement,
    Member,
    Prompt,
    Query,
    RejectedRow,
    Row,
    RowError,
    Triple,
    rowwise,
)
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused, first_line
from mirepoix.models.item import Item

NAME = "canonical"
NEEDED = {
    "corpus": ("id",),
    "queries": ("id", "split", "task"),
    "qrels": ("query_id", "item_id"),
    "triples": ("id", "split", "answer"),
    "prompts": ("task", "wording"),
    "pools": ("pool", "item_id"),
}
OPTIONAL = ("triples", "prompts", "pools")


def detect(tree: SourceFiles) -> bool:
    """At least two of the three required parts, and no qrels of another layout in the same folders (`query-id`, `corpus-id`)."""
    found = {part: _files(tree, part) for part in NEEDED if part not in OPTIONAL}
    foreign = found["qrels"] and "query-id" in tree.schema(found["qrels"][0]).names
    return sum(map(bool, found.values())) >= 2 and not foreign


def shards(tree: SourceFiles) -> list[Shard]:
    pieces = []
    for part in NEEDED:
        files = _files(tree, part)
        if not files and part not in OPTIONAL:
            raise Refused(
                f"{tree.path} has no {part}/*.parquet; a canonical corpus is a folder with corpus/, queries/ and qrels/ of Parquet files"
            )
        pieces += [shard for file in files for shard in tree.parquet_shards(file, part)]
    return pieces


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, parse = tree.source(shard.file), READERS[shard.part]
    return rowwise(shard.part, source, _records(tree, shard), lambda line, row: [parse(source, line, row)])


def write(target: Path, corpus: Path) -> Counter[str]:
    """Copies the parts except kin/, held/ and rejects/."""
    for part in NEEDED:
        for file in part_files(corpus, part):
            (target / part).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / part / Path(file).name)
    return Counter()


def _files(tree: SourceFiles, part: str) -> list[str]:
    return tree.files(rf"{part}/.*\.parquet")


def _records(tree: SourceFiles, shard: Shard) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows as dicts of the schema's columns that the file has, cast to the schema's types."""
    schema, there = PARTS[shard.part], tree.schema(shard.file).names
    lacking = [column for column in NEEDED[shard.part] if column not in there]
    if lacking:
        raise Refused(f"{tree.source(shard.file)} has no column {', '.join(lacking)}; it has {', '.join(there)}; see docs/architecture.md")
    fields = pa.schema([field.with_nullable(True) for field in schema if field.name in there])
    for first, table in tree.tables(shard, fields.names):
        try:
            rows = table.select(fields.names).cast(fields).to_pylist()
        except pa.ArrowException as error:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)
            raise Refused(f"{tree.source(shard.file)} cannot be read ({first_line(error)}); its columns are to be {columns}") from error
        yield from enumerate(rows, first)


def _item(source: str, line: int, row: dict[str, Any]) -> Item:
    id, text = row["id"] or "", row.get("text") or ""
    images, video = tuple(row.get("images") or ()), tuple(row.get("video") or ())
    if not id or any(letter.isspace() for letter in id):
        raise RowError("bad id", "id is empty or has white space")
    if not (text or images or video):
        raise RowError("empty side", "neither text nor picture nor video")
    if not all([*images, *video]):
        raise RowError("missing picture", "a picture is empty")
    return Item(id, text, images, video, row.get("instruction") or "", row.get("source") or source, row.get("line") or line)


def _split(row: dict[str, Any]) -> str:
    if not row["split"]:
        raise RowError("bad split", "split is empty")
    return row["split"]


def _query(source: str, line: int, row: dict[str, Any]) -> Query:
    item, split = _item(source, line, row), _split(row)
    if not TASK.fullmatch(row["task"] or ""):
        raise RowError("bad task", f"task is not of the form it->t: {row['task'] or 'it is empty'}"[:200])
    answers = tuple(filter(None, row.get("answers") or ()))
    return Query(item, split, row["task"], dataset=row.get("dataset") or "", pool=row.get("pool") or "", answers=answers)


def _judgement(source: str, line: int, row: dict[str, Any]) -> Judgement | RejectedRow:
    relevance = row.get("relevance", 1)
    if not row["query_id"] or not row["item_id"] or relevance is None:
        name = f"{row['query_id']} {row['item_id']}"
        return RejectedRow("qrels", name, "bad row", "query_id, item_id or relevance is empty", source, line)
    origin = row.get("source") or source, row.get("line") or line
    return Judgement(row["query_id"], row["item_id"], relevance, row.get("score"), *origin)


def _triple(source: str, line: int, row: dict[str, Any]) -> Triple:
    item, split = _item(source, line, row), _split(row)
    if not row["answer"] or not item.images:
        raise RowError("empty side", "the answer is empty" if item.images else "there is no picture")
    return Triple(item, split, row["answer"], tuple(filter(None, row.get("evidence") or ())))


def _prompt(source: str, line: int, row: dict[str, Any]) -> Prompt:
    if not row["task"] or not row["wording"]:
        raise RowError("bad row", "task or wording is empty")
    return Prompt(row["task"], row["wording"], row.get("source") or "")


def _member(source: str, line: int, row: dict[str, Any]) -> Member:
    if not row["pool"] or not row["item_id"]:
        raise RowError("bad row", "pool or item_id is empty")
    return Member(row["pool"], row["item_id"])


READERS: dict[str, Callable[[str, int, dict[str, Any]], Row]] = {
    "corpus": lambda source, line, row: Candidate(_item(source, line, row)),
    "queries": _query,
    "qrels": _judgement,
    "triples": _triple,
    "prompts": _prompt,
    "pools": _member,
}
