"""Helpers of the tests of formats: pictures, rows read as sources reads them, a canonical corpus made of them, and their meaning."""

import json
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from pytest import MonkeyPatch

from mirepoix.components.corpus.parts import PartWriter, read_part
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Prompt, Query, RejectedRow, Row, Triple
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.item import Item, item_to_row
from tests.components.fixtures import held_out_of


def picture(red: int, kind: str = "PNG") -> bytes:
    """A small encoded picture; another one for every shade."""
    buffer = BytesIO()
    Image.new("RGB", (4, 4), (red, 20, 30)).save(buffer, kind)
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes | str | list[Any]]) -> Path:
    """A folder with the given files: bytes, text, or a list of objects as JSON lines."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


def rows_of(module: ModuleType, path: Path | str, **settings: Any) -> list[Row]:
    """All rows of a source, shard after shard."""
    tree = SourceFiles(str(path), **settings)
    return [row for shard in module.shards(tree) for row in module.read(tree, shard)]


def counted(monkeypatch: MonkeyPatch, method: str) -> Counter[str]:
    """How often each file is read by a method of SourceFiles, from now on."""
    calls: Counter[str] = Counter()
    plain = getattr(SourceFiles, method)

    def counting(tree: SourceFiles, shard: Shard) -> Any:
        calls[shard.file] += 1
        return plain(tree, shard)

    monkeypatch.setattr(SourceFiles, method, counting)
    return calls


def rejected_rows(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """File, line and reason of the rejected rows."""
    return [(row.source, row.line, row.reason) for row in rows if isinstance(row, RejectedRow)]


def corpus_of(folder: Path, rows: Iterable[Row]) -> Path:
    """A canonical corpus folder of the rows: equal candidates once, tasks derived from the first answer, no query without one."""
    rows = list(rows)
    candidates: dict[str, Item] = {}
    for row in rows:
        if isinstance(row, Candidate):
            candidates.setdefault(row.item.id, row.item)
    judged = [row for row in rows if isinstance(row, Judgement) and row.item_id in candidates]
    tasks: dict[str, str] = {}
    for row in judged:
        if row.relevance > 0:
            tasks.setdefault(row.query_id, candidates[row.item_id].modality.letters)
    queries = [row for row in rows if isinstance(row, Query) and row.item.id in tasks]
    with PartWriter(folder, "corpus") as writer:
        writer.write([item_to_row(item) for item in candidates.values()])
    with PartWriter(folder, "queries") as writer:
        derived = [row.task or f"{row.item.modality.letters}->{tasks[row.item.id]}" for row in queries]
        writer.write([_query_row(row, task) for row, task in zip(queries, derived, strict=True)])
    with PartWriter(folder, "qrels") as writer:
        writer.write([{name: getattr(row, name) for name in Judgement.__slots__} for row in judged])
    with PartWriter(folder, "held") as writer:
        written = (read_part(folder, part).to_pylist() for part in ("queries", "qrels"))
        writer.write([{"item_id": id} for id in sorted(held_out_of(*written, kin=()))])
    for part, kind in (("triples", Triple), ("prompts", Prompt), ("pools", Member)):
        if found := [row for row in rows if isinstance(row, kind)]:
            with PartWriter(folder, part) as writer:
                writer.write([_part_row(row) for row in found])
    return folder


def _query_row(row: Query, task: str) -> dict[str, Any]:
    origin = {"dataset": row.dataset or None, "pool": row.pool or None, "answers": list(row.answers) or None}
    return {**item_to_row(row.item), "split": row.split, "task": task} | origin


def _part_row(row: Triple | Prompt | Member) -> dict[str, Any]:
    if isinstance(row, Member):
        return {"pool": row.pool, "item_id": row.item_id}
    if isinstance(row, Prompt):
        return {"task": row.task, "wording": row.wording, "source": row.source}
    return {**item_to_row(row.item), "split": row.split, "answer": row.answer, "evidence": list(row.evidence)}


def meaning(rows: Iterable[Row], ids: bool = True) -> dict[str, Counter]:
    """The rows up to their order and provenance, and without `ids` up to the names of queries and candidates; missing tasks are derived."""
    rows = list(rows)
    candidates = {row.item.id: row.item for row in rows if isinstance(row, Candidate)}
    answers: dict[str, list[Judgement]] = {}
    for row in rows:
        if isinstance(row, Judgement):
            answers.setdefault(row.query_id, []).append(row)
    queries = []
    for row in rows:
        if isinstance(row, Query):
            judged = answers.get(row.item.id, [])
            first = next((found.item_id for found in judged if found.relevance > 0), None)
            wanted = candidates[first].modality.letters if first in candidates else ""
            judgements = tuple((_item(candidates.get(found.item_id), found.item_id, ids), found.relevance, found.score) for found in judged)
            task = row.task or f"{row.item.modality.letters}->{wanted}"
            about = row.item.instruction, row.split, task, row.pool, row.answers
            queries.append((_item(row.item, row.item.id, ids), *about, judgements))
    return {
        "candidates": Counter({_item(item, item.id, ids) for item in candidates.values()}),
        "queries": Counter(queries),
        "triples": Counter(
            (_item(row.item, row.item.id, ids), row.split, row.answer, row.evidence) for row in rows if isinstance(row, Triple)
        ),
        "pools": Counter({(row.pool, _item(candidates.get(row.item_id), row.item_id, ids)) for row in rows if isinstance(row, Member)}),
        "prompts": Counter((row.task, row.wording, row.source) for row in rows if isinstance(row, Prompt)),
        "rejected": Counter(row.reason for row in rows if isinstance(row, RejectedRow)),
    }


def _item(item: Item | None, name: str, ids: bool) -> tuple[Any, ...]:
    content = (item.text, item.images, item.video) if item else ()
    return (name, *content) if ids or not item else content
