"""BEIR, text alone:

    corpus.jsonl         {"_id": "d1", "title": "...", "text": "..."}      the document is title + " " + text
    queries.jsonl        {"_id": "q1", "text": "...", "metadata": {}}
    qrels/<split>.tsv    a header line, then query-id, corpus-id and score between tabs; dev is called validation from here on

`<p>-queries.jsonl` belongs to `<p>-qrels/`. `metadata` is ignored. A query is in the split whose qrels judge it; queries without
judgements are dropped, and counted in a notice. A query that several splits judge is in the last of train, validation, others, test, so
that no test query is trained on; its judgements in the other splits are rejected. Qrels of splits that are not read are not opened, so that
their queries are dropped without a notice.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import columns, grade_of, id_of, refuse_unread, side, text_of, titled
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Files, count_unsupported, fits, without_instruction
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "beir"
HEADER = "query-id\tcorpus-id\tscore\n"
QUERIES, QRELS = r"([^/]+-)?queries\.jsonl(\.gz)?", r"([^/]+-)?qrels/[^/]+\.tsv(\.gz)?"


def detect(tree: SourceFiles) -> bool:
    return any("_id" in columns(tree, file) for file in tree.files(r"corpus\.jsonl(\.gz)?"))


def shards(tree: SourceFiles) -> list[Shard]:
    parts = {"corpus": tree.files(r"corpus\.jsonl(\.gz)?"), "queries": tree.files(QUERIES), "qrels": _read_qrels(tree, QRELS)}
    return [shard for part, files in parts.items() for file in files for shard in tree.shards(file, part)]


def _read_qrels(tree: SourceFiles, pattern: str) -> list[str]:
    """The files of qrels of the splits that are read."""
    return [file for file in tree.files(pattern) if tree.reads(split_named(file))]


def named_splits(tree: SourceFiles) -> set[str]:
    """The splits that there are qrels of."""
    return {split_named(file) for file in tree.files(QRELS)}


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    if shard.part == "corpus":
        return rowwise("corpus", source, tree.records(shard), lambda line, row: [Candidate(_item(row, source, line, "title"))])
    if shard.part == "queries":
        return _queries(tree, shard, source)
    split, taken = split_named(shard.file), _splits(tree, shard.file)
    return rowwise("qrels", source, _qrels_rows(tree, shard), lambda line, row: [_judgement(row, source, line, split, taken)])


def _item(row: dict[str, Any], source: str, line: int, *more: str) -> Item:
    refuse_unread(row, ("_id", "text", "metadata", *more))
    text = titled(*(text_of(row.get(name)) for name in ("title", "text")))
    return Item(id_of(row["_id"]), side(text).text, source=source, line=line)


def _queries(tree: SourceFiles, shard: Shard, source: str) -> Iterator[Row]:
    splits, unnamed, first = _splits(tree, shard.file), 0, 0

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        nonlocal unnamed, first
        item = _item(row, source, line)
        if item.id in splits:
            return [Query(item, splits[item.id])]
        unnamed, first = unnamed + 1, first or line
        return []

    yield from rowwise("queries", source, tree.records(shard), parse)
    if unnamed and not tree.only_splits:
        yield Notice(source, f"queries that no qrels name: {unnamed}, the first in line {first}; they are dropped")


def _judgement(row: list[str], source: str, line: int, split: str, splits: dict[str, str]) -> Judgement:
    query, document, score = (row[0], row[1], row[2]) if len(row) == 3 else _bad_columns(row)
    if splits[query] != split:
        raise RowError("duplicate id", f"{query} is a query of {splits[query]} too, and is taken as that")
    return Judgement(id_of(query), id_of(document), grade_of(score), source=source, line=line)


def _bad_columns(row: list[str]) -> Any:
    raise RowError("bad row", f"{len(row)} columns between tabs where query-id, corpus-id and score belong")


def _qrels_rows(tree: SourceFiles, shard: Shard) -> Iterator[tuple[int, list[str] | RowError]]:
    """The lines of a qrels file as lists of columns, without the header (a first line whose last column is no number)."""
    for line, text in tree.lines(shard):
        row = text if isinstance(text, RowError) else text.split("\t")
        if line > 1 or isinstance(row, RowError) or _is_number(row[-1]):
            yield line, row


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _splits(tree: SourceFiles, file: str) -> dict[str, str]:
    """The split of each query, from the qrels that belong to this file."""
    named = re.match(r"(?:([^/]+)-)?(?:queries|qrels)", file)
    assert named is not None, file
    prefix = named.group(1)
    folder = f"{prefix}-qrels" if prefix else "qrels"
    files = tuple(_read_qrels(tree, rf"{re.escape(folder)}/[^/]+\.tsv(\.gz)?"))
    return _splits_of(tree.path, files, tree.fingerprint(files))


@lru_cache(maxsize=4)
def _splits_of(path: str, files: tuple[str, ...], fingerprint: str) -> dict[str, str]:
    """The split of each query in these qrels; cached per process until the files change, since every piece of the source needs it."""
    tree, found = SourceFiles(path), {qrels: split_named(qrels) for qrels in files}
    splits: dict[str, str] = {}
    for qrels in sorted(found, key=lambda qrels: _rank(found[qrels])):
        with suppress(Unreadable):  # reported when the qrels themselves are read
            splits.update((row[0], found[qrels]) for _, row in _qrels_rows(tree, Shard(qrels)) if isinstance(row, list))
    return splits


def _rank(split: str) -> tuple[int, str]:
    return {"train": 0, "validation": 1, "test": 3}.get(split, 2), split


def split_named(file: str) -> str:
    """The split in the name of a qrels file."""
    stem = re.sub(r"(?i)\.tsv(\.gz)?$", "", file.rpartition("/")[2])
    return {"dev": "validation", "val": "validation", "valid": "validation"}.get(stem, re.sub(r"\s", "_", stem))


def write(target: Path, corpus: Path) -> Counter[str]:
    reader, dropped = CorpusReader(corpus), count_unsupported(corpus)
    with Files(target) as files:
        for item in reader.candidates():
            files.row("corpus.jsonl", {"_id": item.id, "title": "", "text": fits(without_instruction(item, dropped), NAME, images=0).text})
        for query, split, _, judgements in reader.queries():
            files.row("queries.jsonl", {"_id": query.id, "text": fits(query, NAME, images=0).text, "metadata": {}})
            file = f"qrels/{'dev' if split == 'validation' else split}.tsv"
            if "/" in split or split_named(file) != split:
                raise Refused(f"split {split!r} cannot be the name of a qrels file; rename it (sources.splits)")
            files.text(file, HEADER if file not in files else "")
            for judgement in judgements:
                files.text(file, f"{judgement['query_id']}\t{judgement['item_id']}\t{judgement['relevance']}\n")
                dropped["scores of a teacher"] += judgement["score"] is not None
    return +dropped
