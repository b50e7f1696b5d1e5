"""Tevatron: both layouts by their columns, and bad rows rejected with their numbers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import tevatron
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import BLUE, RED, tevatron_passages
from tests.components.ingestion.formats.samples import tevatron as sample

QUERY = {"query_id": "q", "query_text": "q", "positive_document_ids": ["d"], "negative_document_ids": []}
DOCUMENT = {"docid": "d", "text": "d"}
PASSAGE = {"docid": "p", "title": "", "text": "p"}
EXAMPLE = {"query_id": "q", "query": "q", "positive_passages": [PASSAGE], "negative_passages": []}


def test_queries_and_corpus_are_read_as_they_say(tmp_path):
    assert rows_of(tevatron, sample(tmp_path / "s")) == [
        Candidate(Item("d1", "a text", source="s/corpus.jsonl", line=1)),
        Candidate(Item("2", "and a picture", (BLUE,), source="s/corpus.jsonl", line=2)),
        Query(Item("q1", "one", (RED,), source="s/train.jsonl", line=1), "train"),
        Judgement("q1", "d1", 1, None, "s/train.jsonl", 1),
        Judgement("q1", "2", 0, None, "s/train.jsonl", 1),
    ]


def test_the_folder_of_the_source_gives_the_split_where_the_file_does_not(tmp_path):
    rows = rows_of(tevatron, write_files(tmp_path / "test", {"corpus.jsonl": [DOCUMENT], "queries.jsonl": [QUERY]}))
    assert [row.split for row in rows if isinstance(row, Query)] == ["test"]


def test_older_rows_bring_their_passages_along(tmp_path):
    rows = rows_of(tevatron, tevatron_passages(tmp_path / "s"))
    found = [(row.item.id, row.item.text, row.item.line, row.named) for row in rows if isinstance(row, Candidate)]
    assert found == [("p1", "Soup is hot", 1, False), ("p2", "is cold", 1, False), ("p3", "is blue", 1, False)]
    assert [(row.item.id, row.item.text, row.split) for row in rows if isinstance(row, Query)] == [
        ("1", "hot?", "validation"),
        ("2", "cold?", "validation"),
    ]
    assert [(row.query_id, row.item_id, row.relevance) for row in rows if isinstance(row, Judgement)] == [
        ("1", "p1", 1),
        ("1", "p2", 0),
        ("1", "p3", 0),
        ("2", "p2", 1),
        ("2", "p1", 0),
    ]


def test_parquet_with_pictures_in_it_is_read_like_lines(tmp_path):
    pictures = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("docid", pa.string()), ("text", pa.string()), ("image", pictures), ("video", pa.null())])
    pq.write_table(pa.Table.from_pylist([{"docid": "d", "text": None, "image": {"bytes": RED}}], schema), tmp_path / "corpus.parquet")
    pq.write_table(pa.Table.from_pylist([QUERY]), tmp_path / "test.parquet")
    rows = rows_of(tevatron, tmp_path)
    assert [(row.item.id, row.item.images) for row in rows if isinstance(row, Candidate)] == [("d", (RED,))]
    assert [row.split for row in rows if isinstance(row, Query)] == ["test"]


@pytest.mark.parametrize(
    ("good", "change", "reason"),
    [
        (QUERY, {"query_text": ""}, "empty side"),
        (QUERY, {"positive_document_ids": []}, "no answer"),
        (QUERY, {"positive_document_ids": "d"}, "bad row"),
        (QUERY, {"positive_document_ids": ["d e"]}, "bad id"),
        (QUERY, {"query_id": None}, "bad id"),
        (QUERY, {"query_image": "gone.png"}, "missing picture"),
        (QUERY, {"query_audio": "a.wav"}, "audio"),
        (QUERY, {"query_video": "clip.mp4"}, "video file"),
        (QUERY, {"difficulty": 3}, "unread column"),
        (DOCUMENT, {"text": None}, "empty side"),
        (DOCUMENT, {"docid": "d e"}, "bad id"),
        (DOCUMENT, {"image": "https://x/a.png"}, "URL"),
        (DOCUMENT, {"audio": {"array": [0.1]}}, "audio"),
        (DOCUMENT, {"url": "x"}, "unread column"),
        (EXAMPLE, {"positive_passages": []}, "no answer"),
        (EXAMPLE, {"positive_passages": [PASSAGE | {"text": ""}]}, "empty side"),
        (EXAMPLE, {"negative_passages": [PASSAGE | {"text": "another"}]}, "duplicate id"),
        (EXAMPLE, {"negative_passages": ["p"]}, "bad row"),
        (EXAMPLE, {"query": " "}, "empty side"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line(tmp_path, good, change, reason):
    rows = rows_of(tevatron, write_files(tmp_path / "s", {"a.jsonl": [good, good | change, good], "clip.mp4": b"mp4"}))
    assert rejected_rows(rows) == [("s/a.jsonl", 2, reason)]
    assert sum(isinstance(row, Query if "query_id" in good else Candidate) for row in rows) == 2


def test_one_row_cannot_give_a_passage_two_texts(tmp_path):
    bad = EXAMPLE | {"negative_passages": [PASSAGE | {"docid": "n"}, PASSAGE | {"docid": "n", "text": "another"}]}
    assert rejected_rows(rows_of(tevatron, write_files(tmp_path / "s", {"a.jsonl": [bad]}))) == [("s/a.jsonl", 1, "duplicate id")]


def test_a_file_of_neither_kind_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"s/b.jsonl is neither queries nor corpus of tevatron"):
        rows_of(tevatron, write_files(tmp_path / "s", {"a.jsonl": [QUERY], "b.jsonl": [{"a": 1}]}))


def test_what_is_written_is_tevatrons(tmp_path):
    rows = [Candidate(Item("d", "d", (RED,))), Query(Item("q", "q"), "train"), Judgement("q", "d", 2)]
    out = tmp_path / "out"
    assert tevatron.write(out, corpus_of(tmp_path / "corpus", rows)) == {"grades of relevance": 1}
    assert json.loads((out / "train.jsonl").read_text()) == QUERY
    document = json.loads((out / "corpus.jsonl").read_text())
    assert (out / document.pop("image")).read_bytes() == RED
    assert document == DOCUMENT


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("d", video=(RED,)), "holds no clips"),
        (Item("d", images=(RED, BLUE)), "one picture an item"),
    ],
)
def test_what_tevatron_cannot_hold_is_refused(tmp_path, item, message):
    rows = [Candidate(item), Query(Item("q", "q"), "train"), Judgement("q", "d")]
    with pytest.raises(Refused, match=message):
        tevatron.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))


def test_a_file_whose_first_line_is_broken_is_detected_by_the_next(tmp_path):
    corpus = "{broken\n" + json.dumps(DOCUMENT) + "\n"
    rows = rows_of(tevatron, write_files(tmp_path / "s", {"corpus.jsonl": corpus, "train.jsonl": [QUERY]}))
    assert rejected_rows(rows) == [("s/corpus.jsonl", 1, "bad JSON")]
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == ["d"]


def test_a_file_without_an_object_is_refused_with_its_line(tmp_path):
    with pytest.raises(Refused, match=r"s/b.jsonl is neither .* line 1 is no JSON object \(Expecting .*; repair it or leave it out"):
        rows_of(tevatron, write_files(tmp_path / "s", {"a.jsonl": [QUERY], "b.jsonl": "{broken\n"}))


@pytest.mark.parametrize(
    "row",
    [
        {**QUERY, "positive_document_ids": ["p", "p"], "negative_document_ids": ["p"]},
        {**EXAMPLE, "positive_passages": [PASSAGE, PASSAGE], "negative_passages": [PASSAGE]},
    ],
)
def test_all_that_is_judged_is_given(tmp_path, row):
    rows = rows_of(tevatron, write_files(tmp_path, {"train.jsonl": [row]}))
    assert [(found.item_id, found.relevance) for found in rows if isinstance(found, Judgement)] == [("p", 1), ("p", 1), ("p", 0)]
    assert sum(isinstance(found, Candidate) for found in rows) == ("positive_passages" in row)
