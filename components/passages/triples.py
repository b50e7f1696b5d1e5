"""The input of the passages stage: the triples of the training split, and the texts of the corpus, in batches."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mirepoix.components.corpus.parts import part_tables, read_part
from mirepoix.models.errors import Refused

BATCH = 64  # rows, with their pictures, that are in memory at a time


def count_training(curate: Path, kind: str) -> int:
    """The number of triples of the training split; refused if there is none."""
    splits = read_part(curate, "triples", ["split"])["split"]
    if not len(splits):
        raise Refused(
            f"passages.kind is {kind} and the corpus has no triples (pictures with a question and its answer); give a source that has "
            "some, such as ViD2R or the generated world, or set passages.kind=none"
        )
    count = pc.sum(pc.equal(splits, "train")).as_py()
    if not count:
        present = ", ".join(sorted(splits.unique().to_pylist()))
        raise Refused(f"passages.kind is {kind} and no triple is of the split train; there are {present}: check the splits")
    return count


def training_rows(curate: Path, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The triples of the training split, in batches; all columns unless some are named."""
    for table in part_tables(curate, "triples", columns, BATCH):
        yield [row for row in table.to_pylist() if row["split"] == "train"]


def corpus_texts(curate: Path, alone: bool, without: Container[str]) -> Iterator[tuple[str, str]]:
    """Ids and texts of the candidates with a text, except those in `without`; with `alone`, only of those without picture and clip."""
    columns = ["id", "text", "images", "video"] if alone else ["id", "text"]
    for table in part_tables(curate, "corpus", columns, BATCH):
        for name in columns[2:]:
            table = table.filter(pc.equal(pc.list_value_length(table[name]), 0))
        texts = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
        yield from ((id, text) for id, text in texts if text and id not in without)
