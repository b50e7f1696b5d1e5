"""Tevatron, JSON lines or Parquet, in either layout; what a file holds is told by its columns:

    queries      query_id, query_text, query_image, query_video, positive_document_ids, negative_document_ids
    corpus       docid, text, image, video (or document_text, document_image, document_video), and optionally title
    passages     query_id, query, positive_passages, negative_passages: lists of {"docid", "title", "text"}     (the older, text alone)

A picture is a path, or an object with bytes or path; a clip is a list of paths of frames. A document is its title, a space, its text.
`answers`, `source` and `metadata` are left aside. The same passage may come with many queries; with another text it is a fault.
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
    obstacle,
    pictures,
    pieces,
    records,
    side,
    text_of,
    titled,
    unread,
    without_audio,
)
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Files, fits, split_file, unheld, unworded
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash

NAME = "tevatron"
WHAT = "Tevatron: queries with ids of documents and a corpus, or the older rows with their passages"
ASIDE = ("answers", "source", "metadata")
QUERY = ("query_id", "query_text", "query_image", "query_video", "positive_document_ids", "negative_document_ids")
DOCUMENT = ("docid", "title", *(f"{prefix}{kind}" for prefix in ("", "document_") for kind in ("text", "image", "video")))
PASSAGES = ("query_id", "query", "positive_passages", "negative_passages")


def detect(place: SourceFiles) -> bool:
    return any(_part(columns(place, file)) for file in data_files(place, "json", "jsonl", "parquet")[:4])


def _part(names: list[str]) -> str:
    if "query_id" in names:
        if "positive_passages" in names:
            return "passages"
        if "positive_document_ids" in names:
            return "queries"
    return "corpus" if "docid" in names and set(names) & set(DOCUMENT[2:]) else ""


def shards(place: SourceFiles) -> list[Shard]:
    parts: dict[str, list[Shard]] = {"corpus": [], "queries": [], "passages": []}
    for file in data_files(place, "json", "jsonl", "parquet"):
        part = _part(columns(place, file))
        if not part:
            why = obstacle(place, file) or "it begins with none of their columns"
            raise Refused(f"{place.source(file)} is neither queries nor corpus of {NAME}: {why}; mend it or leave it out")
        parts[part] += pieces(place, [file], part)
    return [shard for found in parts.values() for shard in found]


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split = place.source(shard.file), place.split(shard.file)
    passages: dict[str, bytes] = {}  # what each one in this piece holds

    def document(line: int, row: dict[str, Any]) -> list[Row]:
        unread(without_audio(row), (*DOCUMENT, *ASIDE))
        text, image, video = (row.get(kind) or row.get(f"document_{kind}") for kind in ("text", "image", "video"))
        made = side(titled(text_of(row.get("title")), text_of(text)), pictures(place, image), frames(place, video))
        return [Candidate(Item(id_of(row["docid"]), made.text, made.images, made.video, source=source, line=line))]

    def query(line: int, row: dict[str, Any]) -> list[Row]:
        unread(without_audio(row), (*QUERY, *ASIDE))
        made = side(text_of(row.get("query_text")), pictures(place, row.get("query_image")), frames(place, row.get("query_video")))
        item = Item(id_of(row["query_id"]), made.text, made.images, made.video, source=source, line=line)
        positives, negatives = (
            [id_of(name) for name in list_of(row.get(f"{kind}_document_ids"), f"{kind}_document_ids")] for kind in ("positive", "negative")
        )
        return asked(item, positives, negatives)

    def example(line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, (*PASSAGES, *ASIDE))
        item = Item(id_of(row["query_id"]), side(text_of(row["query"])).text, source=source, line=line)
        fresh: dict[str, Item] = {}
        told = []
        for kind in ("positive_passages", "negative_passages"):
            told.append([])
            for passage in list_of(row.get(kind), kind):
                unread(passage, ("docid", "title", "text", "score"))
                text = titled(text_of(passage.get("title")), text_of(passage.get("text")))
                made = Item(id_of(passage["docid"]), side(text, what=kind).text, source=source, line=line)
                if passages.get(made.id, content_hash(fresh.setdefault(made.id, made))) != content_hash(made):
                    raise RowError("duplicate id", f"passage {made.id} has another text than before")
                told[-1].append(made.id)
        rows = asked(item, *told)
        candidates = [Candidate(made, named=False) for made in fresh.values() if made.id not in passages]
        passages.update((name, content_hash(made)) for name, made in fresh.items())
        return [*candidates, *rows]

    def asked(item: Item, positives: list[str], negatives: list[str]) -> list[Row]:
        if not positives:
            raise RowError("no answer", f"{item.id} has no positive")
        told = [(name, relevance) for relevance, names in ((1, positives), (0, negatives)) for name in names]
        return [Query(item, split), *(Judgement(item.id, name, relevance, None, source, item.line) for name, relevance in told)]

    parse = {"corpus": document, "queries": query, "passages": example}[shard.part]
    return rowwise("corpus" if shard.part == "corpus" else "queries", source, records(place, shard, rows=64), parse)


def write(target: Path, corpus: Path) -> Counter[str]:
    shelf, left = CorpusReader(corpus), unheld(corpus)
    with Files(target) as files:
        for item in shelf.candidates():
            cells = _cells(files, unworded(item, left))
            files.row("corpus.jsonl", {"docid": item.id, **{kind: cell for kind, cell in cells.items() if cell}})
        for query, split, _, judgements in shelf.queries():
            cells = _cells(files, query)
            positives, negatives = (
                [told["item_id"] for told in judgements if (told["relevance"] > 0) is answers] for answers in (True, False)
            )
            row = {"query_id": query.id, **{f"query_{kind}": cell for kind, cell in cells.items() if cell}}
            files.row(split_file(split, NAME, "jsonl"), row | {"positive_document_ids": positives, "negative_document_ids": negatives})
            for told in judgements:
                left["grades of relevance"] += told["relevance"] not in (0, 1)
                left["scores of a teacher"] += told["score"] is not None
    return +left


def _cells(files: Files, item: Item) -> dict[str, str | None]:
    fits(item, NAME, images=1)
    return {"text": item.text, "image": files.picture(item.images[0]) if item.images else None}
