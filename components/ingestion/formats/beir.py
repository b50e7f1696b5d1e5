"""BEIR, text alone:

    corpus.jsonl         {"_id": "d1", "title": "...", "text": "..."}      the document is title + " " + text
    queries.jsonl        {"_id": "q1", "text": "...", "metadata": {}}
    qrels/<split>.tsv    a header line, then query-id, corpus-id and score between tabs; dev is called validation from here on

`<p>-queries.jsonl` goes with `<p>-qrels/`. `metadata` is left aside. A query belongs to the split whose qrels name it, and one that none
names is left out, and counted in a notice. One that several name belongs to the last of train, validation, others, test: what is tested
on is not trained on, and what the other splits say of it is a fault.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import columns, grade_of, id_of, side, text_of, titled, unread
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Files, fits, unheld, unworded
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "beir"
WHAT = "BEIR: corpus.jsonl, queries.jsonl and qrels/<split>.tsv"
HEADER = "query-id\tcorpus-id\tscore\n"
QUERIES, QRELS = r"([^/]+-)?queries\.jsonl(\.gz)?", r"([^/]+-)?qrels/[^/]+\.tsv(\.gz)?"


def detect(place: SourceFiles) -> bool:
    return any("_id" in columns(place, file) for file in place.files(r"corpus\.jsonl(\.gz)?"))


def shards(place: SourceFiles) -> list[Shard]:
    parts = {"corpus": r"corpus\.jsonl(\.gz)?", "queries": QUERIES, "qrels": QRELS}
    return [shard for part, pattern in parts.items() for file in place.files(pattern) for shard in place.shards(file, part)]


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = place.source(shard.file)
    if shard.part == "corpus":
        return rowwise("corpus", source, place.records(shard), lambda line, row: [Candidate(_item(row, source, line, "title"))])
    if shard.part == "queries":
        return _queries(place, shard, source)
    split, taken = split_named(shard.file), _splits(place, shard.file)
    return rowwise("qrels", source, _told(place, shard), lambda line, row: [_judgement(row, source, line, split, taken)])


def _item(row: dict[str, Any], source: str, line: int, *more: str) -> Item:
    unread(row, ("_id", "text", "metadata", *more))
    text = titled(*(text_of(row.get(name)) for name in ("title", "text")))
    return Item(id_of(row["_id"]), side(text).text, source=source, line=line)


def _queries(place: SourceFiles, shard: Shard, source: str) -> Iterator[Row]:
    splits, unnamed, first = _splits(place, shard.file), 0, 0

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        nonlocal unnamed, first
        item = _item(row, source, line)
        if item.id in splits:
            return [Query(item, splits[item.id])]
        unnamed, first = unnamed + 1, first or line
        return []

    yield from rowwise("queries", source, place.records(shard), parse)
    if unnamed:
        yield Notice(source, f"queries that no qrels name: {unnamed}, the first in line {first}; they are left out")


def _judgement(row: list[str], source: str, line: int, split: str, splits: dict[str, str]) -> Judgement:
    query, document, score = (row[0], row[1], row[2]) if len(row) == 3 else _trouble(row)
    if splits[query] != split:
        raise RowError("duplicate id", f"{query} is a query of {splits[query]} too, and is taken as that")
    return Judgement(id_of(query), id_of(document), grade_of(score), source=source, line=line)


def _trouble(row: list[str]) -> Any:
    raise RowError("bad row", f"{len(row)} columns between tabs where query-id, corpus-id and score belong")


def _told(place: SourceFiles, shard: Shard) -> Iterator[tuple[int, list[str] | RowError]]:
    """The lines of qrels as their columns; a header, which does not end in a number, is left out."""
    for line, text in place.lines(shard):
        row = text if isinstance(text, RowError) else text.split("\t")
        if line > 1 or isinstance(row, RowError) or _is_number(row[-1]):
            yield line, row


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _splits(place: SourceFiles, file: str) -> dict[str, str]:
    """The split of each query that the qrels beside this file name."""
    prefix = re.match(r"(?:([^/]+)-)?(?:queries|qrels)", file).group(1)
    folder = f"{prefix}-qrels" if prefix else "qrels"
    files = tuple(place.files(rf"{re.escape(folder)}/[^/]+\.tsv(\.gz)?"))
    return _splits_of(place.path, files, place.fingerprint(files))


@lru_cache(maxsize=4)
def _splits_of(path: str, files: tuple[str, ...], fingerprint: str) -> dict[str, str]:
    """What these qrels say, read once in a process and again when they change: each piece of the source asks for it."""
    place, found = SourceFiles(path), {qrels: split_named(qrels) for qrels in files}
    splits: dict[str, str] = {}
    for qrels in sorted(found, key=lambda qrels: _rank(found[qrels])):
        with suppress(Unreadable):  # is told where the qrels are read
            splits.update((row[0], found[qrels]) for _, row in _told(place, Shard(qrels)) if isinstance(row, list))
    return splits


def _rank(split: str) -> tuple[int, str]:
    return {"train": 0, "validation": 1, "test": 3}.get(split, 2), split


def split_named(file: str) -> str:
    """The split that a file of qrels is named after."""
    stem = re.sub(r"(?i)\.tsv(\.gz)?$", "", file.rpartition("/")[2])
    return {"dev": "validation", "val": "validation", "valid": "validation"}.get(stem, re.sub(r"\s", "_", stem))


def write(target: Path, corpus: Path) -> Counter[str]:
    shelf, left = CorpusReader(corpus), unheld(corpus)
    with Files(target) as files:
        for item in shelf.candidates():
            files.row("corpus.jsonl", {"_id": item.id, "title": "", "text": fits(unworded(item, left), NAME, images=0).text})
        for query, split, _, judgements in shelf.queries():
            files.row("queries.jsonl", {"_id": query.id, "text": fits(query, NAME, images=0).text, "metadata": {}})
            file = f"qrels/{'dev' if split == 'validation' else split}.tsv"
            if "/" in split or split_named(file) != split:
                raise Refused(f"split {split!r} cannot be the name of a file of qrels; call it otherwise (sources.splits)")
            files.text(file, HEADER if file not in files else "")
            for told in judgements:
                files.text(file, f"{told['query_id']}\t{told['item_id']}\t{told['relevance']}\n")
                left["scores of a teacher"] += told["score"] is not None
    return +left
