"""FlagEmbedding's (BGE's) training examples, JSON lines, text alone:

    {"query": str, "pos": [str, ...], "neg": [str, ...], "pos_scores": [...], "neg_scores": [...], "prompt": str, "type": str}
    {"text": str}                                        a line of the pool that negatives are mined from: a candidate that no query names

`prompt` becomes the instruction of the query, the scores those of a teacher. `type` says how FlagEmbedding prompts its own model, and is
left aside. "no_in_batch_neg" in the name of a file or folder stays where it is told, in the source of each of its rows; training masks
what is known to answer and what has equal content, and takes the rest of a batch as negatives. The pool is written into candidate_pool/,
where FlagEmbedding's own loader does not look for examples.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import (
    Examples,
    Shown,
    columns,
    data_files,
    list_of,
    pieces,
    scores_of,
    side,
    text_of,
    unread,
)
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Example, Files, examples, fits, scored, split_file, unworded

NAME = "flagembedding"
WHAT = "FlagEmbedding's JSON lines: query, pos and neg as texts, with a teacher's scores"
READ = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type")


def detect(place: SourceFiles) -> bool:
    return any({"query", "pos"} <= set(columns(place, file)) for file in data_files(place, "json", "jsonl")[:4])


def shards(place: SourceFiles) -> list[Shard]:
    return pieces(place, data_files(place, "json", "jsonl"))


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(place, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        if "query" not in row and "text" in row:
            unread(row, ("text",))
            return [made.candidate(line, side(text_of(row["text"]), what="text"))]
        unread(row, READ)
        query = side(text_of(row["query"]), instruction=text_of(row.get("prompt")), what="query")
        return made.rows(line, query, _documents(row, "pos"), _documents(row, "neg"))

    return rowwise("queries", made.source, place.records(shard), parse)


def _documents(row: dict[str, Any], name: str) -> list[Shown]:
    if isinstance(row.get(name), str):
        raise RowError("bad row", f"{name} is one text and no list")
    texts = list_of(row.get(name), name)
    scores = scores_of(row.get(f"{name}_scores"), len(texts), f"{name}_scores")
    return [Shown(side(text_of(text), what=name), score) for text, score in zip(texts, scores, strict=True)]


def write(target: Path, corpus: Path) -> Counter[str]:
    left: Counter[str] = Counter()
    named: set[str] = set()
    with Files(target) as files:
        for example in examples(corpus, left, scored=True):
            files.row(split_file(example.split, NAME, "jsonl"), _row(example))
            named.update(shown.item.id for shown in example.positives + example.negatives)
        for item in CorpusReader(corpus).candidates():
            if item.id not in named:
                files.row("candidate_pool/pool.jsonl", {"text": fits(unworded(item, left), NAME, images=0).text})
    del left["candidates that no query names"]
    return +left


def _row(example: Example) -> dict[str, Any]:
    query = fits(example.query, NAME, images=0, instruction=True)
    row: dict[str, Any] = {"query": query.text}
    scores = scored(example, NAME)
    for name, documents in (("pos", example.positives), ("neg", example.negatives)):
        row[name] = [fits(shown.item, NAME, images=0).text for shown in documents]
        if scores:
            row[f"{name}_scores"] = [shown.score for shown in documents]
    return row | ({"prompt": query.instruction} if query.instruction else {})
