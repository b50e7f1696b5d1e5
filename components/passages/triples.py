"""What passages are made of: the triples of the training split, and the texts of the corpus around them, some rows at a time.

What answers a query of another split than train, and what curation found to be like it or like the query, is held out: it goes into no
passage, and mining takes none of it.
"""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mirepoix.components.corpus.parts import part_tables, read_part
from mirepoix.models.errors import Refused

BATCH = 64  # rows with their pictures that are held at a time


def count_training(curate: Path, kind: str) -> int:
    """How many triples the training split has; refused if there is none."""
    splits = read_part(curate, "triples", ["split"])["split"]
    if not len(splits):
        raise Refused(
            f"passages.kind is {kind} and the corpus has no triples (pictures with a question and its answer); bring a source that has "
            "some, such as ViD2R or the generated world, or set passages.kind=none"
        )
    count = pc.sum(pc.equal(splits, "train")).as_py()
    if not count:
        there = ", ".join(sorted(splits.unique().to_pylist()))
        raise Refused(f"passages.kind is {kind} and no triple is of the split train; there are {there}: check the splits")
    return count


def training_rows(curate: Path, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The triples of the training split, some at a time; all columns unless some are named."""
    for table in part_tables(curate, "triples", columns, BATCH):
        yield [row for row in table.to_pylist() if row["split"] == "train"]


def held_out(curate: Path) -> set[str]:
    """Candidates that tell of a query of another split than train, by their judgements, their kin, or what curation found."""
    asked: set[str] = set()
    for table in part_tables(curate, "queries", ["id", "split"]):
        asked.update(table.filter(pc.not_equal(table["split"], "train"))["id"].to_pylist())
    answers: set[str] = set()
    for table in part_tables(curate, "qrels", ["query_id", "item_id", "relevance"]):
        judged = table.filter(pc.greater(table["relevance"], 0))
        pairs = zip(judged["query_id"].to_pylist(), judged["item_id"].to_pylist(), strict=True)
        answers.update(item for query, item in pairs if query in asked)
    kin: set[str] = set()
    for table in part_tables(curate, "kin", ["item_id", "kin_id"]):
        for pair in zip(table["item_id"].to_pylist(), table["kin_id"].to_pylist(), strict=True):
            if not answers.isdisjoint(pair):
                kin.update(pair)
    return answers.union(kin, *(table["item_id"].to_pylist() for table in part_tables(curate, "held")))


def corpus_texts(curate: Path, alone: bool, without: Container[str]) -> Iterator[tuple[str, str]]:
    """Ids and texts of the candidates that have one, `without` some; `alone`: of those that have nothing else."""
    columns = ["id", "text", "images", "video"] if alone else ["id", "text"]
    for table in part_tables(curate, "corpus", columns, BATCH):
        for name in columns[2:]:
            table = table.filter(pc.equal(pc.list_value_length(table[name]), 0))
        texts = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
        yield from ((id, text) for id, text in texts if text and id not in without)
