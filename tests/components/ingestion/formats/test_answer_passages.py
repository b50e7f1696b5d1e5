"""Passages in a table, and answers in a list or as keys."""

import pytest

from mirepoix.components.ingestion.formats.answer_passages import answers_of, passages
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from tests.components.ingestion.formats.format_cases import rejected_rows, write_files


def read(folder, text):
    write_files(folder, {"p.csv": text})
    return list(passages(SourceFiles(str(folder), "s"), Shard("p.csv")))


def test_a_passage_may_have_commas_quotes_and_line_breaks(tmp_path):
    rows = read(tmp_path, 'kid,text\n1,"one, ""two""\nthree"\n2,four\n')
    assert [(row.item.id, row.item.text, row.item.line) for row in rows] == [("1", 'one, "two"\nthree', 2), ("2", "four", 4)]


def test_a_passage_without_text_is_rejected_and_the_others_are_read(tmp_path):
    rows = read(tmp_path, "kid,text\n1,\n2,two\n")
    assert rejected_rows(rows) == [("s/p.csv", 2, "empty side")] and rows[1].item.text == "two"


def test_a_table_of_other_columns_cannot_be_read(tmp_path):
    with pytest.raises(Unreadable, match="has no column kid; it has id, text"):
        read(tmp_path, "id,text\n1,one\n")


def test_answers_are_distinct_and_stripped_and_as_written():
    assert answers_of({"Sea ": 3, "sea": 1}) == answers_of(["Sea", "", "Sea", "sea"]) == ("Sea", "sea")


@pytest.mark.parametrize(
    ("given", "reason"), [(None, "bad row"), ("sea", "bad row"), ([1], "bad row"), ([], "no answer"), ([" "], "no answer")]
)
def test_what_has_no_answers_is_rejected(given, reason):
    with pytest.raises(RowError) as error:
        answers_of(given)
    assert error.value.reason == reason
