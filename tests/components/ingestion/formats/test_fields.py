"""Placeholders are removed from a text without changing the rest of it, and rows of one example refer to each other."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.ingestion.formats import fields
from mirepoix.components.ingestion.formats.fields import (
    Document,
    Examples,
    frames,
    id_of,
    pictures,
    refuse_unread,
    side,
    text_of,
    titled,
    without_placeholders,
)
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RowError
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import with_placeholders
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import picture, write_files

RED, BLUE = picture(250), picture(1)


@pytest.mark.parametrize(
    ("given_", "bare"),
    [
        ("<image>\nWhat is it?\n", "What is it?\n"),
        ("<image>What is it?", "What is it?"),
        ("What is it?\n<image>", "What is it?"),
        ("before <image> after", "before  after"),
        ("before\n<image>\nafter", "before\nafter"),
        ("<image>\n\n  indented", "\n  indented"),
        ("<image>", ""),
        ("<image> \n", ""),
    ],
)
def test_a_placeholder_takes_its_line_break_along_and_nothing_else(given_, bare):
    assert without_placeholders(given_, "<image>", 1) == bare


@pytest.mark.parametrize(("text", "count"), [("none", 1), ("<image>", 0), ("<image><image>", 1)])
def test_placeholders_that_are_not_as_many_as_the_pictures_are_rejected(text, count):
    with pytest.raises(RowError) as raised:
        without_placeholders(text, "<image>", count)
    assert raised.value.reason == "placeholders"


@given(
    st.text(st.sampled_from("ab \n<>image"), max_size=20).filter(lambda text: "<image>" not in text and (not text or text.strip())),
    st.integers(0, 3),
)
def test_placeholders_that_are_written_are_removed_when_read(text, count):
    item = Item("x", text, (RED,) * count)
    assert without_placeholders(text_of(with_placeholders(item, "any", "<image>")), "<image>", count) == text


def test_a_text_of_white_space_is_none_and_every_other_stays_as_it_is():
    assert [text_of(text) for text in (None, "", " \n", " a ")] == ["", "", "", " a "]
    with pytest.raises(RowError, match="bad row"):
        text_of(3)


@pytest.mark.parametrize(("title", "text", "whole"), [("a", "b", "a b"), ("", "b", "b"), ("a", "", "a"), ("", "", "")])
def test_a_document_is_its_title_and_its_text(title, text, whole):
    assert titled(title, text) == whole


@pytest.mark.parametrize("value", ["", "a b", "a\n", None, True, 1.5, ["a"]])
def test_an_id_is_a_word_or_a_whole_number(value):
    assert id_of(7) == "7"
    with pytest.raises(RowError) as raised:
        id_of(value)
    assert raised.value.reason == "bad id"


def test_a_grade_is_a_whole_number_also_with_a_point():
    assert [fields.grade_of(text) for text in ("1", " 2 ", "1.0", "-1", "0.0")] == [1, 2, 1, -1, 0]


@pytest.mark.parametrize("text", ["", "x", "1.5", "nan", "inf", "9" * 400])
def test_what_is_no_grade_is_refused(text):
    with pytest.raises(RowError, match="no whole number"):
        fields.grade_of(text)


def test_pictures_come_by_path_bytes_or_either_in_an_object(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"a.png": RED})))
    for value in ("a.png", ["a.png"], {"path": "a.png", "bytes": None}, {"bytes": RED, "path": "gone.png"}, RED, [{"image": "a.png"}]):
        assert pictures(tree, value) == (RED,)
    assert pictures(tree, None) == pictures(tree, "") == pictures(tree, []) == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [("https://a/b.png", "URL"), ("gone.png", "missing picture"), ([""], "bad row"), (3, "bad row"), ({"bytes": None}, "bad row")],
)
def test_a_picture_that_cannot_be_had_is_trouble(tmp_path, value, reason):
    with pytest.raises(RowError) as raised:
        pictures(SourceFiles(str(tmp_path)), value)
    assert raised.value.reason == reason


def test_a_clip_is_a_list_of_frames_and_no_file(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"1.png": RED, "2.png": BLUE, "v.mp4": b"mp4"})))
    for value in (["1.png", "2.png"], [["1.png", "2.png"]], {"type": "video", "video": ["1.png", "2.png"]}):
        assert frames(tree, value) == (RED, BLUE)
    for value, reason in (("v.mp4", "video file"), (["v.mp4"], "video file"), ([["1.png"], ["2.png"]], "bad row")):
        with pytest.raises(RowError) as raised:
            frames(tree, value)
        assert raised.value.reason == reason


def test_an_unread_column_is_refused_only_where_it_is_filled():
    refuse_unread({"a": 1, "b": None, "c": "", "d": []}, ["a"])
    with pytest.raises(RowError, match="'b, d'"):
        refuse_unread({"a": 1, "b": 0, "d": "x"}, ["a"])


def test_queries_on_one_line_have_names_of_their_own(tmp_path):
    made = Examples(SourceFiles(str(tmp_path), "my source"), Shard("a b.json"))
    names = [made.query_id(line) for line in (1, 1, 2, 2)]
    assert names == [f"my_source/a_b.json:{place}" for place in ("1", "1.2", "2", "2.2")]
    assert made.query_id(2, about="my folder") == "my_source/a_b.json:2.3@my_folder"


def test_an_example_gives_each_document_once_and_all_that_is_judged_of_it(tmp_path):
    made = Examples(SourceFiles(str(tmp_path), "s"), Shard("dev.jsonl"))
    right, wrong = side("right"), side("wrong")
    rows = made.rows(
        3, side("q", instruction="Find."), [Document(right, 0.5), Document(right)], [Document(wrong), Document(right), Document(wrong)]
    )
    first, second = (row.item.id for row in rows if isinstance(row, Candidate))
    assert [row.item.text for row in rows[:2]] == ["right", "wrong"]
    assert rows[2] == Query(Item("s/dev.jsonl:3", "q", instruction="Find.", source="s/dev.jsonl", line=3), "validation")
    assert rows[3:] == [
        Judgement("s/dev.jsonl:3", item, relevance, score, "s/dev.jsonl", 3)
        for item, relevance, score in [(first, 1, 0.5), (first, 1, None), (second, 0, None), (first, 0, None), (second, 0, None)]
    ]


@pytest.mark.parametrize(
    ("folder", "file", "split"), [("test", "a.json", "test"), ("my-dev", "a.json", "validation"), ("test", "train.json", "train")]
)
def test_the_folder_of_a_source_gives_the_split_where_the_file_does_not(tmp_path, folder, file, split):
    (tmp_path / folder).mkdir()
    assert Examples(SourceFiles(str(tmp_path / folder)), Shard(file)).split == split


def test_an_example_without_an_answer_is_trouble(tmp_path):
    with pytest.raises(RowError, match="no answer"):
        Examples(SourceFiles(str(tmp_path)), Shard("a")).rows(1, side("q"), [], [Document(side("wrong"))])


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([1.0], "bad row"),
        (["a", "b"], "bad row"),
        (3, "bad row"),
        ([True, 1.0], "bad row"),
        ([1.0, float("nan")], "bad row"),
        ([float("-inf"), 1.0], "bad row"),
        ([10**400, 1.0], "bad row"),
        ([1e39, 1.0], "bad row"),
    ],
)
def test_scores_are_numbers_one_for_each_document(scores, reason):
    assert fields.scores_of([1, 0.5], 2, "scores") == [1.0, 0.5]
    assert fields.scores_of(None, 2, "scores") == [None, None]
    with pytest.raises(RowError) as raised:
        fields.scores_of(scores, 2, "scores")
    assert raised.value.reason == reason


def test_what_datasets_writes_about_its_files_is_no_data(tmp_path):
    write_files(tmp_path, {"dataset_info.json": json.dumps({}), "a/state.json": "{}", "a/rows.jsonl": "", "b.parquet": b"", "c.txt": ""})
    assert fields.data_files(SourceFiles(str(tmp_path)), "json", "jsonl") == ["a/rows.jsonl"]


@pytest.mark.parametrize(
    ("content", "found", "wrong"),
    [
        ('{"a": 1}\n', ["a"], ""),
        ('{broken\n[1]\n{"a": 1, "b": 2}\n{"c": 3}\n', ["a", "b"], ""),
        ('[3, {"a": 1}]', ["a"], ""),
        ("{broken\n7\n", [], "line 1 is no JSON object (Expecting property name enclosed in double quotes)"),
        ('[{"a": }]', [], "line 1 is no JSON (Expecting value)"),
        ("", [], "it is empty"),
        ("7\n" * 100 + '{"a": 1}\n', [], "line 1 is no JSON object (a int and no object)"),
    ],
)
def test_the_columns_of_a_file_are_those_of_the_first_object_among_its_first_records(tmp_path, content, found, wrong):
    tree = SourceFiles(str(write_files(tmp_path, {"a.json": content})))
    assert (fields.columns(tree, "a.json"), fields.why_no_columns(tree, "a.json")) == (found, wrong)


def test_all_missing_pictures_of_a_cell_are_named(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"a.png": RED})))
    with pytest.raises(RowError) as raised:
        pictures(tree, ["gone.png", "a.png", "lost.png"])
    assert (raised.value.reason, raised.value.detail) == ("missing picture", "gone.png, lost.png")


def test_files_that_may_hold_rows_and_are_in_no_piece_are_reported_by_their_extension(tmp_path):
    names = (
        "train.jsonl",
        "more.jsonl.zst",
        "x/MORE.JSONL.ZST",
        "b.tgz",
        "b.NDJSON",
        "a.png",
        "README.txt",
        "dataset_info.json",
        ".x.json",
    )
    tree = SourceFiles(str(write_files(tmp_path, dict.fromkeys(names, b"x"))), "mine")
    assert [(notice.source, notice.detail) for notice in fields.unused_files(tree, ["train.jsonl"])] == [
        ("mine/b.NDJSON", "not read: the format reads no such files"),
        ("mine/b.tgz", "not read: the format reads no such files"),
        ("mine/more.jsonl.zst", "not read and 1 more of .jsonl.zst: the format reads no such files"),
    ]
    assert not fields.unused_files(tree, names)


@pytest.mark.parametrize("name", ["MORE.JSONL", "more.Jsonl.GZ", "more.jsonl.gz"])
def test_endings_may_be_in_capitals(tmp_path, name):
    content = b'{"a": 1}\n'
    tree = SourceFiles(str(write_files(tmp_path, {name: gzip.compress(content) if name.lower().endswith(".gz") else content})))
    assert [list(tree.records(shard)) for shard in fields.pieces(tree, fields.data_files(tree, "jsonl"))] == [[(1, {"a": 1})]]


def test_parquet_with_its_ending_in_capitals_is_read(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "ROWS.PARQUET")
    tree = SourceFiles(str(tmp_path))
    (shard,) = fields.pieces(tree, fields.data_files(tree, "parquet"))
    assert fields.columns(tree, shard.file) == ["a"] and list(fields.records(tree, shard)) == [(1, {"a": 1})]
