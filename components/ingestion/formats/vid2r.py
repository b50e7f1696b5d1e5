"""MIRe's ViD2R: one JSON array of questions about pictures, each with the passage that answers it, or JSON lines of the same.

    ViD2R.json, <name>_test.json    [{"question": "Who built it?", "image": "coco/1.jpg", "doc": "The tower ...", "answer": "Eiffel"}, ...]

Accepted aliases: query for question; image_path, img_path or image_file for image; passage, document or context for doc; response or
short_answer for answer. `id` and `question_id` are ignored, since the turns of one conversation share them. A record with a passage is a
query (picture and question) that the passage answers. A record with an answer is also a triple with the same id, from which passages can be
made, and the passage is its evidence. Paths of pictures are relative to the source or to the folder given as `images`; one `<image>` in
the question is the placeholder of the picture and is removed. The id of a record is its file and line, "@" and the folder in its picture's
path, so that the making of passages can exclude a folder.
"""

import posixpath
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.parts import part_tables
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import (
    Document,
    Examples,
    columns,
    data_files,
    pictures,
    pieces,
    refuse_unread,
    text_of,
    without_placeholders,
)
from mirepoix.components.ingestion.formats.rows import Query, Row, RowError, Triple, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, SEVERAL, Files, examples, fits, split_file
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "vid2r"
NAMES = {
    "question": ("question", "query"),
    "image": ("image", "image_path", "img_path", "image_file"),
    "doc": ("doc", "passage", "document", "context"),
    "answer": ("answer", "response", "short_answer"),
}
KNOWN = {name for names in NAMES.values() for name in names} | {"id", "question_id"}
PLACEHOLDER = "<image>"


def detect(tree: SourceFiles) -> bool:
    """A first record with a question, a picture, and a passage or an answer."""
    return any(is_vid2r(columns(tree, file)) for file in data_files(tree, "json", "jsonl")[:4])


def is_vid2r(names: Collection[str]) -> bool:
    """Whether a record with these fields has a question, a picture, and a passage or an answer."""
    question, image, *answers = (not set(names).isdisjoint(known) for known in NAMES.values())
    return question and image and any(answers)


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, data_files(tree, "json", "jsonl"))


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(tree, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, KNOWN)
        question, doc, answer = (text_of(_cell(row, name)) for name in ("question", "doc", "answer"))
        cell = _cell(row, "image")
        images = pictures(tree, cell)
        if len(images) != 1:
            raise RowError("missing picture", f"a record is about one picture, and this one names {len(images) or 'none'}")
        folder = _folder(cell)
        if PLACEHOLDER in question:
            question = without_placeholders(question, PLACEHOLDER, 1)
        if not question:
            raise RowError("empty side", "the question is empty")
        if not doc and not answer:
            raise RowError("no answer", "there is neither a passage nor an answer")
        item = Item("", question, images)
        evidence: tuple[str, ...] = ()
        rows = made.rows(line, item, [Document(Item("", doc))], about=folder) if doc else []
        if doc:
            (item,) = (found.item for found in rows if isinstance(found, Query))
            evidence = (made.candidate(line, Item("", doc)).item.id,)
        else:
            item = replace(item, id=made.query_id(line, folder), source=made.source, line=line)
        return [*rows, Triple(item, made.split, answer, evidence)] if answer else rows

    return rowwise("queries", made.source, tree.records(shard), parse)


def _cell(row: dict[str, Any], name: str) -> Any:
    """The value of a field, under the first of its aliases that is not empty."""
    return next((row[other] for other in NAMES[name] if row.get(other)), None)


def _folder(cell: Any) -> str:
    """The folder in the path of the picture; empty if there is none, or if the picture is given as bytes."""
    if isinstance(cell, list):
        (cell,) = cell
    if isinstance(cell, dict):
        cell = cell.get("path") or cell.get("image")
    return posixpath.dirname(cell) if isinstance(cell, str) else ""


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes a JSON array for each split; returns the counts of what the format cannot represent."""
    dropped: Counter[str] = Counter()
    answers = {
        id: answer
        for table in part_tables(corpus, "triples", ["id", "answer"])
        for id, answer in zip(table["id"].to_pylist(), table["answer"].to_pylist(), strict=True)
    }
    written: set[str] = set()
    with Files(target) as files:
        for example in examples(corpus, dropped):
            written.add(example.query.id)
            dropped["negatives"] += len(example.negatives)
            dropped[SEVERAL] += len(example.positives) > 1
            for positive in example.positives:
                if not positive.item.text or positive.item.images or positive.item.video:
                    raise Refused(f"{NAME} holds passages of text, and candidate {positive.item.id} is none; {ELSE}")
                _write_record(files, example.query, example.split, doc=positive.item.text, answer=answers.get(example.query.id, ""))
        for item, split, answer, evidence in CorpusReader(corpus).triples() if answers.keys() - written else ():
            if item.id not in written:
                _write_record(files, item, split, answer=answer)
                dropped["evidence of questions that are no query"] += bool(evidence)
    del dropped["triples"]
    return +dropped


def _write_record(files: Files, question: Item, split: str, **texts: str) -> None:
    fits(question, NAME, images=1)
    if not question.text or not question.images or PLACEHOLDER in question.text:
        raise Refused(f"{NAME} holds questions about pictures, without {PLACEHOLDER} in them, and {question.id} is none; {ELSE}")
    record = {"question": question.text, "image": files.picture(question.images[0])}
    files.element(split_file(split, NAME, "json"), record | {name: text for name, text in texts.items() if text})
