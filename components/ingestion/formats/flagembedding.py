"""FlagEmbedding's (BGE's) training examples, JSON lines, text alone:

    {"query": str, "pos": [str, ...], "neg": [str, ...], "pos_scores": [...], "neg_scores": [...], "prompt": str, "type": str}
    {"text": str}                                        a document of the pool that negatives are mined from: a candidate without a query

`prompt` becomes the instruction of the query, and the scores become those of a teacher. `type`, which selects prompts of FlagEmbedding's
own models, is ignored. "no_in_batch_neg" in the name of a file or folder has no effect: training masks known answers and equal documents,
and uses the rest of a batch as negatives. The pool is written to candidate_pool/, where FlagEmbedding's loader does not look for examples.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import (
    Document,
    Examples,
    columns,
    data_files,
    list_of,
    pieces,
    refuse_unread,
    scores_of,
    side,
    text_of,
)
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Example, Files, examples, fits, has_scores, split_file, without_instruction

NAME = "flagembedding"
READ = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type")


def detect(tree: SourceFiles) -> bool:
    return any({"query", "pos"} <= set(columns(tree, file)) for file in data_files(tree, "json", "jsonl")[:4])


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, data_files(tree, "json", "jsonl"))


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(tree, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        if "query" not in row and "text" in row:
            refuse_unread(row, ("text",))
            return [made.candidate(line, side(text_of(row["text"]), what="text"))]
        refuse_unread(row, READ)
        query = side(text_of(row["query"]), instruction=text_of(row.get("prompt")), what="query")
        return made.rows(line, query, _documents(row, "pos"), _documents(row, "neg"))

    return rowwise("queries", made.source, tree.records(shard), parse)


def _documents(row: dict[str, Any], name: str) -> list[Document]:
    if isinstance(row.get(name), str):
        raise RowError("bad row", f"{name} is one text and no list")
    texts = list_of(row.get(name), name)
    scores = scores_of(row.get(f"{name}_scores"), len(texts), f"{name}_scores")
    return [Document(side(text_of(text), what=name), score) for text, score in zip(texts, scores, strict=True)]


def write(target: Path, corpus: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    named: set[str] = set()
    with Files(target) as files:
        for example in examples(corpus, dropped, keep_scores=True):
            files.row(split_file(example.split, NAME, "jsonl"), _row(example))
            named.update(document.item.id for document in example.positives + example.negatives)
        for item in CorpusReader(corpus).candidates():
            if item.id not in named:
                files.row("candidate_pool/pool.jsonl", {"text": fits(without_instruction(item, dropped), NAME, images=0).text})
    del dropped["candidates that no query names"]
    return +dropped


def _row(example: Example) -> dict[str, Any]:
    query = fits(example.query, NAME, images=0, instruction=True)
    row: dict[str, Any] = {"query": query.text}
    scores = has_scores(example, NAME)
    for name, documents in (("pos", example.positives), ("neg", example.negatives)):
        row[name] = [fits(document.item, NAME, images=0).text for document in documents]
        if scores:
            row[f"{name}_scores"] = [document.score for document in documents]
    return row | ({"prompt": query.instruction} if query.instruction else {})
