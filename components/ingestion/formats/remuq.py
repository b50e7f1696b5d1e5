"""ReMuQ: questions that need a picture and ask for one passage of a corpus of 195,837.

    open_corpus_195837.csv          kid, text: the passages
    test.json                       the questions of the test set; see answer_passages.py; the first of their ctxs is the answer
    imgs.tsv, imgs.lineidx          the pictures in base64, and the byte offset of each line; picture number n is line n % 10,000,000

Files may be in any folder of the source; imgs.tsv and its index are those of the folder, or WebQA's, which are the same pictures. The
questions of other splits are not read.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mirepoix.components.ingestion.formats import answer_passages
from mirepoix.components.ingestion.formats.benchmark_files import PICTURED, Missing, needed_file, picture_of_line, refuse_missing
from mirepoix.components.ingestion.formats.fields import id_of
from mirepoix.components.ingestion.formats.rows import Judgement, Query, Row, RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import LONGEST_LINE, Shard, SourceFiles
from mirepoix.models.item import Item, Modality

NAME = "remuq"
OVER = ("folder", "vid2r")
DATASET = "ReMuQ"
PER_SERIES = 10_000_000
BLOCK = 1 << 20
CORPUS, QUESTIONS = r"open_corpus_\d+\.csv(\.gz)?", r"(remuq_)?test\.jsonl?(\.gz)?"
PICTURES, INDEX = r"imgs\.tsv", r"imgs\.lineidx(\.new)?"
DRIVE = "the Google Drive folder that github.com/luomancs/ReMuQ links to"
FILES = {
    CORPUS: Missing("open_corpus_195837.csv", DRIVE),
    QUESTIONS: Missing("test.json", DRIVE),
    PICTURES: Missing("imgs.tsv", f"{DRIVE}, or from WebQA"),
    INDEX: Missing("imgs.lineidx", f"{DRIVE}, or from WebQA"),
}


def detect(tree: SourceFiles) -> bool:
    return bool(tree.files(rf"(.*/)?{CORPUS}"))


def named_splits(tree: SourceFiles) -> set[str]:
    return {"test"}


def modality(tree: SourceFiles) -> Modality:
    return PICTURED


def missing(tree: SourceFiles) -> list[Missing]:
    return [where for pattern, where in FILES.items() if not tree.files(rf"(.*/)?{pattern}")]


def shards(tree: SourceFiles) -> list[Shard]:
    refuse_missing(tree, NAME, missing(tree))
    corpus, questions, pictures, index = (needed_file(tree, NAME, pattern, where) for pattern, where in FILES.items())
    return [Shard(corpus, "passages"), Shard(questions, f"questions {pictures}\n{index}"), Shard(pictures, ""), Shard(index, "")]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    kind, _, files = shard.part.partition(" ")
    if kind == "passages":
        return answer_passages.passages(tree, shard)
    return _questions(tree, shard, *files.split("\n")) if kind else iter(())  # pictures are read with the questions


def _questions(tree: SourceFiles, shard: Shard, pictures: str, index: str) -> Iterator[Row]:
    source, starts = tree.source(shard.file), _line_starts(tree, pictures, index)
    with tree.open(pictures) as tsv:

        def rows(line: int, row: dict[str, Any], question: str) -> Iterator[Row]:
            name, answer = id_of(row["question_id"]), id_of(row["ctxs"][0]["id"])
            item = Item(name, question, (_picture(tsv, starts, id_of(row["img_id"])),), source=source, line=line)
            yield Query(item, "test", "it->t", dataset=DATASET)
            yield Judgement(name, answer, source=source, line=line)

        yield from answer_passages.questions(tree, shard, rows)


def _line_starts(tree: SourceFiles, pictures: str, index: str) -> np.ndarray:
    """The byte offset of every line of imgs.tsv; Unreadable if the index is not its own."""
    with tree.stream(index) as stream:
        lines = stream.read().split()
    if not all(map(bytes.isdigit, lines)) or max(map(int, lines), default=0) >= max(tree.sizes[pictures], 1):
        raise Unreadable(f"{tree.source(index)} is not the byte offsets of the lines of {pictures}; download both again")
    return np.array(lines, np.int64)


def _picture(tsv: pa.NativeFile, starts: np.ndarray, number: str) -> bytes:
    """The picture of a number; RowError if its line is another's, or no base64."""
    line = int(number) % PER_SERIES if number.isascii() and number.isdigit() else len(starts)
    if line >= len(starts):
        raise RowError("missing picture", f"imgs.tsv has no line for {number}")
    tsv.seek(int(starts[line]))
    raw = b""
    while b"\n" not in raw and len(raw) < LONGEST_LINE and (block := tsv.read(BLOCK)):
        raw += block
    return picture_of_line(raw, number, "imgs.tsv")
