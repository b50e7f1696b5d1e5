"""Passages with questions about pictures, as the corpora of OK-VQA and ReMuQ are published.

    PASSAGES.csv      kid, text: the passages
    QUESTIONS.json    one array, or an object a line: question_id, img_id, question, answers ({answer: count}), ctxs ([{id, text}]) and,
                      where the question ends in it, caption

As in MIRe's evaluation, the caption is removed from the question, and a question without ctxs is left out. Other fields are not read.
"""

from collections.abc import Callable, Iterator
from typing import Any

from mirepoix.components.ingestion.formats import delimited
from mirepoix.components.ingestion.formats.fields import id_of, list_of, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.item import Item

COLUMNS = ("kid", "text")
Question = Callable[[int, dict[str, Any], str], Iterator[Row]]
"""Makes the rows of a question of its line, its record, and its text without the caption."""


def passages(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    """The passages of a table."""
    source, form = tree.source(shard.file), delimited.recognise(tree, shard.file)
    if missing := [name for name in COLUMNS if name not in form.header]:
        raise Unreadable(f"{source} has no column {', '.join(missing)}; it has {', '.join(form.header)}; download it again")

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        text = text_of(row["text"])
        if not text:
            raise RowError("empty side", "the passage is empty")
        return [Candidate(Item(id_of(row["kid"].strip()), text, source=source, line=line))]

    return rowwise("corpus", source, delimited.records(tree, shard.file, form), parse)


def questions(tree: SourceFiles, shard: Shard, rows: Question) -> Iterator[Row]:
    """The questions of a file that have passages."""

    def parse(line: int, row: dict[str, Any]) -> Iterator[Row]:
        if list_of(row.get("ctxs"), "ctxs"):
            yield from rows(line, row, _question(row))

    return rowwise("queries", tree.source(shard.file), tree.records(shard), parse)


def _question(row: dict[str, Any]) -> str:
    question, caption = text_of(row["question"]), text_of(row.get("caption"))
    question = question.replace(caption, "").strip() if caption else question.strip()
    if not question:
        raise RowError("empty side", "the question is empty")
    return question


def answers_of(found: Any) -> tuple[str, ...]:
    """The distinct answers of a cell, a list of them or an object with them as keys, without those that are empty."""
    if not isinstance(found, (list, dict)) or not all(isinstance(answer, str) for answer in found):
        raise RowError("bad row", f"the answers are a {type(found).__name__} and no list or object of texts")
    answers = tuple(dict.fromkeys(answer.strip() for answer in found if answer.strip()))
    if not answers:
        raise RowError("no answer", "there are no answers")
    return answers
