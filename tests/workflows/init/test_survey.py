"""A folder is read as what a run would read it."""

import os
from pathlib import Path

import pytest

from mirepoix.components.ingestion.formats import filesystems
from mirepoix.components.ingestion.formats.table import NAME as TABLE
from mirepoix.components.ingestion.readers import open_sources, tables
from mirepoix.models.errors import Refused
from mirepoix.workflows.init import survey as survey_module
from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.proposal import propose
from mirepoix.workflows.init.survey import Survey, survey
from mirepoix.workflows.init.written import said
from tests.components.ingestion.formats import samples
from tests.components.ingestion.formats.format_cases import picture, write_files


@pytest.mark.parametrize("name", ["beir", "mbeir", "mmeb", "unite", "flagembedding", "msswift", "tevatron"])
def test_a_corpus_of_a_known_format_is_named_with_its_splits(tmp_path, name):
    found = survey(getattr(samples, name)(tmp_path / "mine"))
    assert found.format == {"msswift": "ms-swift"}.get(name, name) and found.table is None
    assert found.contents.whole and found.contents.candidates and found.contents.splits
    if name == "beir":
        assert found.contents.splits == {"test": 1, "validation": 1}


def test_captions_beside_pictures_are_counted_and_their_split_is_that_of_the_folder(tmp_path):
    files = {f"train/p{number}.png": picture(number) for number in range(3)} | {
        f"test/p{number}.png": picture(9 + number) for number in range(2)
    }
    texts = {f"{name.removesuffix('.png')}.txt": f"a view of {name}" for name in files}
    found = survey(write_files(tmp_path, {**files, **texts}))
    assert (found.format, found.sidecars) == ("folder", {".txt": 5})
    assert found.contents.queries == {"train": {"t->i": 3, "i->t": 3}, "test": {"t->i": 2, "i->t": 2}}
    assert found.contents.candidates == {"i": 5, "t": 5} and found.captioned
    assert "a view of test/p0.png" in found.contents.texts


def test_a_column_that_names_the_pictures_says_more_than_that_a_table_could_be_pairs_of_texts(tmp_path):
    write_files(tmp_path, {f"p{number}.png": picture(number) for number in range(4)})
    write_files(tmp_path, {"t.jsonl": [{"anchor": f"p{number}.png", "positive": f"a view of number {number}"} for number in range(4)]})
    found = survey(tmp_path)
    assert (found.format, found.others) == (TABLE, ("sentence-transformers",))
    assert found.table.chosen("picture") == ["anchor"] and found.contents.candidates == {"i": 4, "t": 4}


def test_texts_with_a_query_and_a_split_are_counted_by_split(tmp_path):
    rows = [
        {"was": f"This is the text of number {number}", "Frage": f"What is {number}?", "teil": "test" if number > 5 else "train"}
        for number in range(8)
    ]
    found = survey(write_files(tmp_path, {"t.jsonl": rows}))
    assert found.format == TABLE and found.contents.candidates == {"t": 8} and not found.captioned
    assert found.contents.splits == {"test": 2, "train": 6} and found.contents.whole


def shown(count, folder="", ending="png"):
    return {f"{folder}p{number}.{ending}": picture(number) for number in range(count)}


def pictures_read(found: Survey) -> int:
    """The pictures that the sources read which are proposed."""
    given = propose(found, Machine(2, 1e11, 10**10, 10**12)).settings["sources"]
    rows = [
        row
        for source in open_sources(given["path"], images=given.get("images"), columns=given.get("columns", ()))
        for table in tables([source])
        for row in table.select(["kind", "images"]).to_pylist()
    ]
    return sum(row["kind"] == "corpus" and bool(row["images"]) for row in rows)


@pytest.mark.parametrize(
    ("name", "table", "why"),
    [
        (
            "todo.csv",
            "todo,whom\nbuy some milk,the old neighbour\ncall the plumber,my dear aunt\n",
            "todo.csv, since no column of it names the pictures; for its texts in place of the pictures write sources.columns: [text=todo]",
        ),
        ("sizes.csv", "a,b\n1,2\n3,4\n", "sizes.csv, since no column of it names the pictures"),
        ("metadata.csv", "a,b\n1,2\n3,4\n", "metadata.csv, since no column of it names the pictures"),
        ("todo.jsonl", [{"anchor": "buy some milk", "positive": "to the shop"}] * 2, None),
        ("coco/captions.json", '{"images": [], "annotations": []}', None),
    ],
)
def test_pictures_are_searched_beside_a_table_that_does_not_name_them_and_it_is_said_that_that_is_not_read(tmp_path, name, table, why):
    found = survey(write_files(tmp_path, {**shown(3), name: table}))
    assert (found.format, found.contents.candidates, found.tables) == ("folder", {"i": 3}, ())
    assert pictures_read(found) == 3
    assert len(found.unread) == 1 and found.unread[0].startswith(f"{name}, ")
    assert why is None or found.unread == (why,)


@pytest.mark.parametrize("value", ["p{}", "C:\\Users\\me\\pics\\p{}.png", "/home/other/p{}.png"])
def test_pictures_named_without_endings_or_by_paths_of_another_machine_are_found(tmp_path, value):
    rows = "".join(f"{value.format(number)},a view of number {number}\n" for number in range(3))
    found = survey(write_files(tmp_path, {**shown(3), "list.csv": f"name,says\n{rows}"}))
    assert found.format == TABLE and found.table.chosen("picture") == ["name"]
    assert found.contents.candidates == {"i": 3, "t": 3} and pictures_read(found) == 3 and not found.unread


def test_another_table_with_some_of_the_columns_is_left_out_as_the_run_would_refuse_both(tmp_path):
    rows = "".join(f"p{number}.png;a view of number {number}\n" for number in range(3))
    other = "text;who\nbuy milk at the shop;me\n"
    found = survey(write_files(tmp_path, {**shown(3), "list.csv": f"bild;text\n{rows}", "todo.csv": other}))
    assert found.file == "list.csv" and found.contents.candidates == {"i": 3, "t": 3} and pictures_read(found) == 3
    assert found.unread[0] == "all but list.csv, since the other tables have some of its columns, and not all"


def yearly(count: int) -> dict[str, object]:
    """A picture for each year, and a table of two captions of it."""
    files: dict[str, object] = {}
    for year in range(count):
        rows = f"{year}.png;ein Haus am See {year}\n{year}.png;zwei Boote am Ufer {year}\n"
        files |= {f"{year}.png": picture(year), f"shop-{1990 + year}.csv": f"bild;titel\n{rows}"}
    return files


def test_any_number_of_tables_of_the_same_columns_is_one_source(tmp_path):
    found = survey(write_files(tmp_path, yearly(30)))
    assert found.format == TABLE and not found.file and len(found.tables) == 30 and found.unread == ()
    assert found.contents.candidates == {"i": 30, "t": 60} and found.contents.queries == {"train": {"t->i": 60, "i->t": 60}}
    machine = Machine(2, 1e11, 10**10, 10**12)
    proposal = propose(found, machine)
    assert proposal.settings["sources"] | {"captions": ""} == {
        "path": [str(tmp_path)],
        "columns": ["picture=bild", "text=titel"],
        "captions": "",
    }
    (source,) = open_sources([str(tmp_path)], columns=["picture=bild", "text=titel"])
    read = [row for table in tables([source]) for row in table.select(["kind", "images"]).to_pylist() if row["kind"] == "corpus"]
    assert sum(bool(row["images"]) for row in read) >= 30 and sum(not row["images"] for row in read) == 60
    assert [line.strip() for line in said(found, proposal, machine)][4:6] == [
        "shop-1993.csv: 2 rows, UTF-8, separated by semicolons; columns bild, titel",
        "26 more tables of the same use: 52 rows",
    ]


def test_tables_that_are_not_looked_at_for_want_of_time_are_read_all_the_same_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(survey_module, "READING_SECONDS", -1.0)
    found = survey(write_files(tmp_path, yearly(23)))
    assert not found.contents.whole and found.contents.candidates == {"i": 23, "t": 40} and found.unread == ()
    assert found.contents.notices == ("the texts and queries are those of 20 tables; 3 more are read too, and were not counted",)


def test_of_many_tables_of_other_columns_the_first_are_named_with_what_to_write(tmp_path):
    others = {f"x{number}.csv": f"a{number};b{number}\nthe first text;and another one\n" for number in range(24)}
    found = survey(write_files(tmp_path, {**yearly(1), **others}))
    assert [table.file for table in found.tables] == ["shop-1990.csv"]
    assert found.unread[:4] == tuple(f"x{number}.csv, which has no column bild, titel" for number in (0, 1, 10, 11))
    assert found.unread[4:] == (
        "20 more tables; tables of other columns can be sources of their own, each with a name: "
        "sources.path: [one=FILE, other=FILE], sources.columns: [one:text=COLUMN, other:text=COLUMN]",
    )


def test_a_split_column_is_read_where_the_other_columns_are_those_of_folders(tmp_path):
    rows = "".join(f"p{number}.png,a view of number {number},{'test' if number > 7 else 'train'}\n" for number in range(10))
    found = survey(write_files(tmp_path, {**shown(10), "captions.csv": f"file,caption,split\n{rows}"}))
    assert found.format == TABLE and found.table.chosen("split") == ["split"]
    assert found.contents.queries == {"train": {"t->i": 8, "i->t": 8}, "test": {"t->i": 2, "i->t": 2}} and found.contents.whole


def test_json_beside_pictures_counts_as_far_as_it_has_captions(tmp_path):
    empty = {f"p{number}.png.supplemental-metadata.json": '{"description": ""}' for number in range(4)}
    found = survey(write_files(tmp_path, {**shown(4), **empty}))
    assert found.contents.queries == {} and found.contents.candidates == {"i": 4}
    assert found.contents.notices == ("of 4 pictures looked at with files beside them, 4 have no caption in these",)
    write_files(tmp_path, {"p3.png.supplemental-metadata.json": '{"description": "\\u6d77\\u6ee9\\u4e0a\\u7684\\u72d7"}'})
    found = survey(tmp_path)
    assert found.contents.candidates == {"i": 4, "t": 1} and found.contents.texts == ("海滩上的狗",)


def test_texts_beside_pictures_are_read_in_the_encoding_that_they_have(tmp_path):
    (tmp_path / "p0.txt").write_bytes("Blick über die Straße".encode("latin-1"))
    assert survey(write_files(tmp_path, shown(1))).contents.texts == ("Blick über die Straße",)


def test_lists_of_captions_and_a_column_alone_are_proposed(tmp_path):
    rows = [{"photo": f"p{number}.png", "says": ["a view of it", f"number {number} by the lake"]} for number in range(3)]
    found = survey(write_files(tmp_path / "lists", {**shown(3), "t.jsonl": rows}))
    assert found.format == TABLE and found.contents.queries == {"train": {"t->i": 6, "i->t": 6}}
    alone = survey(write_files(tmp_path / "alone", {"t.csv": "satz\nein Haus am See\nzwei Boote am Ufer\n"}))
    assert alone.format == TABLE and alone.contents.candidates == {"t": 2}


def test_a_uri_is_said_with_what_to_do():
    with pytest.raises(Refused, match=r"s3://bucket/pictures is a URI, and init looks at folders .* sources.path=s3://bucket/pictures"):
        survey(Path("s3://bucket/pictures"))


def test_a_folder_in_it_that_may_not_be_read_is_left_out_and_named(tmp_path, monkeypatch):
    write_files(tmp_path, {**shown(3), "own/x.png": picture(9), "list.csv": "bild;satz\np0.png;ein Haus am See\n"})
    scan = os.scandir

    def denied(path="."):
        if str(path).endswith("own"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def infos(filesystem, root):
        raise PermissionError(13, "Permission denied", root)

    monkeypatch.setattr(os, "scandir", denied)
    monkeypatch.setattr(filesystems, "infos", infos)
    found = survey(tmp_path)
    assert found.contents.candidates == {"i": 3, "t": 1} and found.format == TABLE
    assert found.hints == (
        "own may not be read, and is left out here; make it readable, or move it elsewhere: a run refuses a folder with it",
    )
