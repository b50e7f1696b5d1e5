"""MIRe's ViD2R: one JSON array of questions about pictures, each with the passage that answers it, or JSON lines of the same.

    ViD2R.json, <name>_test.json    [{"question": "Who built it?", "image": "coco/1.jpg", "doc": "The tower ...", "answer": "Eiffel"}, ...]

Other names that are understood: query for question; image_path, img_path or image_file for image; passage, document or context for doc;
response or short_answer for answer; and `id` or `question_id`, which is left aside, since the turns of one conversation share it. With a
passage a record is a query (picture and question) that the passage answers. With an answer it is a question for the making of passages
too, with the same id, and the passage is its evidence. Paths of pictures are relative to the source or to the folder given as `images`;
one `<image>` in the question stands for the picture and is taken out. The id of a record is its place, and behind "@" the folder of its
picture as the path names it, so that whoever makes passages can leave a folder out.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.parts import part_tables
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import Examples, Shown, columns, data_files, pictures, pieces, text_of, unread, without
from mirepoix.components.ingestion.formats.rows import Query, Row, RowError, Triple, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, SEVERAL, Files, examples, fits, split_file
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "vid2r"
WHAT = "MIRe's ViD2R JSON: questions about pictures, with passages and concise answers"
NAMES = {
    "question": ("question", "query"),
    "image": ("image", "image_path", "img_path", "image_file"),
    "doc": ("doc", "passage", "document", "context"),
    "answer": ("answer", "response", "short_answer"),
}
KNOWN = {name for names in NAMES.values() for name in names} | {"id", "question_id"}
PLACEHOLDER = "<image>"


def detect(place: SourceFiles) -> bool:
    """A first record with a question, a picture, and a passage or an answer."""
    return any(looks(columns(place, file)) for file in data_files(place, "json", "jsonl")[:4])


def looks(names: Collection[str]) -> bool:
    """Whether a record with these names is about a picture as ViD2R's are."""
    question, image, *answers = (not set(names).isdisjoint(known) for known in NAMES.values())
    return question and image and any(answers)


def shards(place: SourceFiles) -> list[Shard]:
    return pieces(place, data_files(place, "json", "jsonl"))


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(place, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, KNOWN)
        question, doc, answer = (text_of(_cell(row, name)) for name in ("question", "doc", "answer"))
        cell = _cell(row, "image")
        shown = pictures(place, cell)
        if len(shown) != 1:
            raise RowError("missing picture", f"a record is about one picture, and this one names {len(shown) or 'none'}")
        folder = _folder(cell)
        if PLACEHOLDER in question:
            question = without(question, PLACEHOLDER, 1)
        if not question:
            raise RowError("empty side", "the question is empty")
        if not doc and not answer:
            raise RowError("no answer", "there is neither a passage nor an answer")
        item, evidence = Item("", question, shown), ()
        rows = made.rows(line, item, [Shown(Item("", doc))], about=folder) if doc else []
        if doc:
            (item,) = (found.item for found in rows if isinstance(found, Query))
            evidence = (made.candidate(line, Item("", doc)).item.id,)
        else:
            item = replace(item, id=made.query_id(line, folder), source=made.source, line=line)
        return [*rows, Triple(item, made.split, answer, evidence)] if answer else rows

    return rowwise("queries", made.source, place.records(shard), parse)


def _cell(row: dict[str, Any], name: str) -> Any:
    """What stands under the first of the names that is filled."""
    return next((row[other] for other in NAMES[name] if row.get(other)), None)


def _folder(cell: Any) -> str:
    """The folder that the path of the picture names; none if it names none, or if the picture is given by its bytes."""
    if isinstance(cell, list):
        (cell,) = cell
    if isinstance(cell, dict):
        cell = cell.get("path") or cell.get("image")
    return posixpath.dirname(cell) if isinstance(cell, str) else ""


def write(target: Path, corpus: Path) -> Counter[str]:
    """A JSON array for each split; returns the count of what has no place in it."""
    left: Counter[str] = Counter()
    answers = {
        id: answer
        for table in part_tables(corpus, "triples", ["id", "answer"])
        for id, answer in zip(table["id"].to_pylist(), table["answer"].to_pylist(), strict=True)
    }
    asked: set[str] = set()
    with _Arrays(target) as arrays:
        for example in examples(corpus, left):
            asked.add(example.query.id)
            left["negatives"] += len(example.negatives)
            left[SEVERAL] += len(example.positives) > 1
            for positive in example.positives:
                if not positive.item.text or positive.item.images or positive.item.video:
                    raise Refused(f"{NAME} holds passages of text, and candidate {positive.item.id} is none; {ELSE}")
                arrays.add(example.query, example.split, doc=positive.item.text, answer=answers.get(example.query.id, ""))
        for item, split, answer, evidence in CorpusReader(corpus).triples() if answers.keys() - asked else ():
            if item.id not in asked:
                arrays.add(item, split, answer=answer)
                left["evidence of questions that are no query"] += bool(evidence)
    del left["triples"]
    return +left


class _Arrays(Files):
    """Files of one JSON array each."""

    def add(self, question: Item, split: str, **texts: str) -> None:
        fits(question, NAME, images=1)
        if not question.text or not question.images or PLACEHOLDER in question.text:
            raise Refused(f"{NAME} holds questions about pictures, without {PLACEHOLDER} in them, and {question.id} is none; {ELSE}")
        file = split_file(split, NAME, "json")
        record = {"question": question.text, "image": self.picture(question.images[0])} | {
            name: text for name, text in texts.items() if text
        }
        self.text(file, (",\n" if file in self else "[\n") + json.dumps(record, ensure_ascii=False))

    def __exit__(self, *error: object) -> None:
        for file in list(self._opened):
            self.text(file, "\n]\n")
        super().__exit__(*error)
