"""Captions in files beside pictures."""

import json

import pytest

from mirepoix.components.ingestion.formats import folder
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query
from mirepoix.components.ingestion.formats.sidecars import sidecars
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import open_sources
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")


def read(path, files, **settings):
    return rows_of(folder, write_files(path, files), name="mine", **settings)


def asked(rows):
    """Each caption with its split and the picture that answers it."""
    queries = {row.item.id: row for row in rows if isinstance(row, Query)}
    return [
        (row.item_id.removesuffix(".image"), query.item.text, query.split)
        for row in rows
        if isinstance(row, Judgement) and (query := queries[row.query_id]).item.text
    ]


@pytest.mark.parametrize("name", ["x/a.txt", "x/a.caption", "x/a.png.txt"])
def test_a_text_beside_a_picture_is_its_caption(tmp_path, name):
    rows = read(tmp_path, {"x/a.png": RED, "b.jpg": BLUE, name: " a red square\n"})
    assert asked(rows) == [("x/a.png", "a red square", "train")] and not rejected_rows(rows)
    assert [row.item.id for row in rows if isinstance(row, Candidate) and row.item.images] == ["b.jpg.image", "x/a.png.image"]


@pytest.mark.parametrize("name", ["a.json", "a.png.json", "a.png.supplemental-metadata.json"])
@pytest.mark.parametrize("key", ["caption", "captions", "text", "texts", "description"])
def test_an_object_beside_a_picture_has_its_caption_under_any_known_key(tmp_path, name, key):
    given = ["one", "two"] if key.endswith("s") else "one"
    rows = read(tmp_path, {"a.png": RED, name: json.dumps({"title": "a.png", key: given, "width": 4})})
    assert [text for _, text, _ in asked(rows)] == (["one", "two"] if key.endswith("s") else ["one"]) and not rejected_rows(rows)


def test_a_caption_that_both_files_have_is_one(tmp_path):
    rows = read(tmp_path, {"a.png": RED, "a.txt": "one\n", "a.json": '{"caption": "one", "label": "star"}'})
    assert [text for _, text, _ in asked(rows)] == ["one"]


def test_the_split_is_that_of_the_folder_and_never_of_the_pictures_name(tmp_path):
    rows = read(tmp_path, {"val/train_1.png": RED, "val/train_1.txt": "one", "test_2.png": BLUE, "test_2.txt": "two"})
    assert asked(rows) == [("test_2.png", "two", "train"), ("val/train_1.png", "one", "validation")]


def test_a_label_beside_a_picture_answers_it_and_is_no_query(tmp_path):
    rows = read(tmp_path, {"a.png": RED, "a.json": '{"labels": ["star", "red"]}'})
    assert [row.task for row in rows if isinstance(row, Query)] == ["i->t"] and not asked(rows)
    assert [row.item.text for row in rows if isinstance(row, Candidate) and row.item.text] == ["star", "red"]


def test_captions_beside_pictures_are_joined_with_them_and_with_those_of_tables(tmp_path):
    files = {"a.png": RED, "a.txt": "two", "captions.csv": "file,text\na.png,one\n"}
    rows = read(tmp_path, files, captions="together")
    assert [(row.item.id, row.item.text, len(row.item.images)) for row in rows] == [("a.png.image", "one\ntwo", 1)]


def test_texts_in_other_encodings_are_read_and_noticed_once(tmp_path):
    files = {"a.png": RED, "b.jpg": BLUE, "a.txt": "grün".encode("cp1252"), "b.txt": "gelb, süß".encode("utf-16")}
    rows = read(tmp_path, files)
    assert [text for _, text, _ in asked(rows)] == ["grün", "gelb, süß"]
    assert {row.detail.partition(",")[0] for row in rows if isinstance(row, Notice)} == {
        ".txt beside pictures: read as Windows-1252",
        ".txt beside pictures: read as UTF-16",
    }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", " \n", "empty side"),
        ("a.json", '{"caption": " "}', "empty side"),
        ("a.json", "[1]", "bad JSON"),
        ("a.json", "{", "bad JSON"),
        ("a.json", '{"caption": 3}', "bad row"),
        ("a.txt", "x" * (1 << 20) + "x", "bad row"),
    ],
)
def test_a_caption_that_cannot_be_used_is_rejected_and_its_picture_stays(tmp_path, name, content, reason):
    rows = read(tmp_path, {"a.png": RED, name: content})
    assert rejected_rows(rows) == [(f"mine/{name}", 1, reason)]
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == ["a.png.image"]


def test_an_empty_description_of_takeout_is_no_caption_and_no_error(tmp_path):
    rows = read(tmp_path, {"a.png": RED, "a.png.json": '{"title": "a.png", "description": ""}'})
    assert len(rows) == 1 and isinstance(rows[0], Candidate)


def test_an_object_without_any_known_key_is_noticed(tmp_path):
    rows = read(tmp_path, {"a.png": RED, "a.json": '{"width": 4, "tags": ["x"]}'})
    [notice] = [row for row in rows if isinstance(row, Notice)]
    assert notice.source == "mine" and notice.detail.startswith("JSON beside pictures has width, tags, and no caption under text, caption")


def test_such_a_folder_is_detected_and_its_files_are_part_of_the_fingerprint_and_no_notes(tmp_path):
    folder_ = write_files(
        tmp_path / "in", {"x/a.png": RED, "b.jpg": BLUE, "x/a.txt": "one", "b.txt": "two", "notes.txt": "x", "b.json": "{}"}
    )
    assert sidecars(SourceFiles(str(folder_))) == ["b.txt", "b.json", "x/a.txt"]
    (source,) = open_sources((str(folder_),))
    assert source.format == "folder" and "x/a.txt" in source.files and "notes.txt" not in source.files
    before = source.fingerprint()
    write_files(folder_, {"x/a.txt": "three"})
    (source,) = open_sources((str(folder_),))
    assert source.fingerprint() != before


def test_a_folder_with_a_list_of_objects_is_not_taken_for_one_of_captions(tmp_path):
    with pytest.raises(Refused, match="looks like none of the known formats"):
        open_sources((str(write_files(tmp_path / "in", {"a.png": RED, "a.txt": "one", "annotations.json": "[{}]"})),))
