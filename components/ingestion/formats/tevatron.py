"""Tevatron's training data, JSON lines or Parquet, in either layout; files are recognised by their columns:

    queries      query_id, query_text, query_image, query_video, positive_document_ids, negative_document_ids
    corpus       docid, text, image, video (or document_text, document_image, document_video), and optionally title
    passages     query_id, query, positive_passages, negative_passages: lists of {"docid", "title", "text"}     (the older, text alone)

A picture is a path, or an object with bytes or path; a clip is a list of paths of frames. A document is its title, a space, its text.
`answers`, `source` and `metadata` are ignored. A passage may come with many queries; one that repeats an id with another text is rejected.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import (
    columns,
    data_files,
    frames,
    id_of,
    list_of,
    pictures,
    pieces,
    records,
    refuse_unread,
    side,
    text_of,
    titled,
    why_no_columns,
    without_audio,
)
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Files, count_unsupported, fits, split_file, without_instruction
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash

NAME = "tevatron"
ASIDE = ("answers", "source", "metadata")
QUERY = ("query_id", "query_text", "query_image", "query_video", "positive_document_ids", "negative_document_ids")
DOCUMENT = ("docid", "title", *(f"{prefix}{kind}" for prefix in ("", "document_") for kind in ("text", "image", "video")))
PASSAGES = ("query_id", "query", "positive_passages", "negative_passages")


def detect(tree: SourceFiles) -> bool:
    return any(_part(columns(tree, file)) for file in data_files(tree, "json", "jsonl", "parquet")[:4])


def _part(names: list[str]) -> str:
    if "query_id" in names:
        if "positive_passages" in names:
            return "passages"
        if "positive_document_ids" in names:
            return "queries"
    return "corpus" if "docid" in names and set(names) & set(DOCUMENT[2:]) else ""


def shards(tree: SourceFiles) -> list[Shard]:
    parts: dict[str, list[Shard]] = {"corpus": [], "queries": [], "passages": []}
    for file in data_files(tree, "json", "jsonl", "parquet"):
        part = _part(columns(tree, file))
        if not part:
            why = why_no_columns(tree, file) or "it begins with none of their columns"
            raise Refused(f"{tree.source(file)} is neither queries nor corpus of {NAME}: {why}; repair it or leave it out")
        parts[part] += pieces(tree, [file], part)
    return [shard for found in parts.values() for shard in found]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split = tree.source(shard.file), tree.split(shard.file)
    passages: dict[str, bytes] = {}  # id -> content hash of the passages of this piece

    def document(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(without_audio(row), (*DOCUMENT, *ASIDE))
        text, image, video = (row.get(kind) or row.get(f"document_{kind}") for kind in ("text", "image", "video"))
        made = side(titled(text_of(row.get("title")), text_of(text)), pictures(tree, image), frames(tree, video))
        return [Candidate(Item(id_of(row["docid"]), made.text, made.images, made.video, source=source, line=line))]

    def query(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(without_audio(row), (*QUERY, *ASIDE))
        made = side(text_of(row.get("query_text")), pictures(tree, row.get("query_image")), frames(tree, row.get("query_video")))
        item = Item(id_of(row["query_id"]), made.text, made.images, made.video, source=source, line=line)
        positives, negatives = (
            [id_of(name) for name in list_of(row.get(f"{kind}_document_ids"), f"{kind}_document_ids")] for kind in ("positive", "negative")
        )
        return judged_query(item, positives, negatives)

    def example(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, (*PASSAGES, *ASIDE))
        item = Item(id_of(row["query_id"]), side(text_of(row["query"])).text, source=source, line=line)
        fresh: dict[str, Item] = {}
        ids: list[list[Any]] = []
        for kind in ("positive_passages", "negative_passages"):
            ids.append([])
            for passage in list_of(row.get(kind), kind):
                refuse_unread(passage, ("docid", "title", "text", "score"))
                text = titled(text_of(passage.get("title")), text_of(passage.get("text")))
                made = Item(id_of(passage["docid"]), side(text, what=kind).text, source=source, line=line)
                if passages.get(made.id, content_hash(fresh.setdefault(made.id, made))) != content_hash(made):
                    raise RowError("duplicate id", f"passage {made.id} has another text than before")
                ids[-1].append(made.id)
        rows = judged_query(item, *ids)
        candidates = [Candidate(made, named=False) for made in fresh.values() if made.id not in passages]
        passages.update((name, content_hash(made)) for name, made in fresh.items())
        return [*candidates, *rows]

    def judged_query(item: Item, positives: list[str], negatives: list[str]) -> list[Row]:
        if not positives:
            raise RowError("no answer", f"{item.id} has no positive")
        judged = [(name, relevance) for relevance, names in ((1, positives), (0, negatives)) for name in names]
        return [Query(item, split), *(Judgement(item.id, name, relevance, None, source, item.line) for name, relevance in judged)]

    parse = {"corpus": document, "queries": query, "passages": example}[shard.part]
    return rowwise("corpus" if shard.part == "corpus" else "queries", source, records(tree, shard, rows=64), parse)


def write(target: Path, corpus: Path) -> Counter[str]:
    reader, dropped = CorpusReader(corpus), count_unsupported(corpus)
    with Files(target) as files:
        for item in reader.candidates():
            cells = _cells(files, without_instruction(item, dropped))
            files.row("corpus.jsonl", {"docid": item.id, **{kind: cell for kind, cell in cells.items() if cell}})
        for query, split, _, judgements in reader.queries():
            cells = _cells(files, query)
            positives, negatives = (
                [judgement["item_id"] for judgement in judgements if (judgement["relevance"] > 0) is answers] for answers in (True, False)
            )
            row = {"query_id": query.id, **{f"query_{kind}": cell for kind, cell in cells.items() if cell}}
            files.row(split_file(split, NAME, "jsonl"), row | {"positive_document_ids": positives, "negative_document_ids": negatives})
            for judgement in judgements:
                dropped["grades of relevance"] += judgement["relevance"] not in (0, 1)
                dropped["scores of a teacher"] += judgement["score"] is not None
    return +dropped


def _cells(files: Files, item: Item) -> dict[str, str | None]:
    fits(item, NAME, images=1)
    return {"text": item.text, "image": files.picture(item.images[0]) if item.images else None}
