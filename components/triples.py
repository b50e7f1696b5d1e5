"""What passages are made of: the triples of the training split, and the texts of the corpus around them, some rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mirepoix.components.corpus import part_tables, read_part
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


def corpus_texts(curate: Path, alone: bool) -> Iterator[tuple[str, str]]:
    """Ids and texts of the candidates that have one; `alone`: of those that have nothing else."""
    columns = ["id", "text", "images", "video"] if alone else ["id", "text"]
    for table in part_tables(curate, "corpus", columns, BATCH):
        for name in columns[2:]:
            table = table.filter(pc.equal(pc.list_value_length(table[name]), 0))
        yield from ((id, text) for id, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True) if text)
