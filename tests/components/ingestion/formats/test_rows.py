"""A row is read whole or rejected with its line; no content of a row ends the reading of others."""

import pickle

import pytest

from mirepoix.components.ingestion.formats.rows import (
    Candidate,
    Judgement,
    Member,
    Notice,
    Query,
    RejectedRow,
    Triple,
    Unreadable,
    rowwise,
    unread_columns,
)
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

HALF = "\ud83d"


def parsed(row, record=None):
    return list(rowwise("corpus", "s/f", [(7, record)], lambda line, _: [Candidate(Item("first", "x")), row]))


@pytest.mark.parametrize(
    "row",
    [
        Candidate(Item("d", HALF)),
        Candidate(Item(HALF, "x")),
        Query(Item("q", "x", instruction=HALF), "train"),
        Query(Item("q", "x"), HALF),
        Query(Item("q", "x"), "test", dataset=HALF),
        Query(Item("q", "x"), "test", pool=HALF),
        Query(Item("q", "x"), "test", answers=("a", HALF)),
        Member(HALF, "d"),
        Member("p", HALF),
        Triple(Item("q", "x"), "train", HALF),
        Triple(Item("q", "x"), "train", "a", (HALF,)),
        Judgement(HALF, "d"),
        *(Judgement("q", "d", relevance) for relevance in (2**31, -(2**31) - 1, 10**30, 0.5)),
    ],
)
def test_a_row_with_a_value_that_no_table_can_hold_is_rejected(row):
    (rejected,) = parsed(row, {"id": 3})
    assert (rejected.reason, rejected.id, rejected.source, rejected.line) == ("bad row", "3", "s/f", 7)


def test_the_detail_of_a_rejected_row_can_be_encoded():
    rejected = parsed(RejectedRow("corpus", HALF, "unread column", f"column {HALF}", "s/f", 7))[1]
    assert (rejected.id, rejected.detail) == (r"\ud83d", r"column \ud83d")
    assert parsed(Notice("s/f", HALF))[1].detail == r"\ud83d"


def test_a_number_that_is_too_large_for_arithmetic_is_rejected():
    (rejected,) = rowwise("qrels", "s/f", [(1, 10**400)], lambda line, record: [Judgement("q", "d", 1, float(record))])
    assert rejected.reason == "bad row"


@pytest.mark.parametrize("name", ["id", "_id", "qid", "did", "query_id", "docid", "key", "snippet_id", "image_id", "Guid"])
def test_a_rejected_row_has_the_id_under_any_of_its_names(name):
    (rejected,) = rowwise("corpus", "s/f", [(1, {name: "x7"})], lambda line, record: record["text"])
    assert rejected.id == "x7" and rejected.detail == "'text' is missing"


def test_a_notice_of_columns_is_a_whole_sentence_and_names_what_fits():
    assert unread_columns("s/f", ["Größe"]).detail == "the column Größe is not read; the rows are read without it"
    several = unread_columns("s/f", ["a" * 60, "b" * 50, "c" * 50, "d"]).detail
    assert several == f"the columns {'a' * 60}, {'b' * 50} and 2 more are not read; the rows are read without them"
    assert unread_columns("s/f", ["x" * 900]).detail == f"the column {'x' * 120} is not read; the rows are read without it"


def test_an_unreadable_error_keeps_its_line_when_pickled():
    broken = pickle.loads(pickle.dumps(Unreadable("s/f line 7 is no JSON", 7)))
    assert (str(broken), broken.line) == ("s/f line 7 is no JSON", 7) and isinstance(broken, Refused)
