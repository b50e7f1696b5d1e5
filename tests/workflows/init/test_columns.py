"""Columns are judged by their values, then by their names, and the grounds are said."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.workflows.init.columns import look_at_table
from tests.components.ingestion.formats.format_cases import picture, write_files

TEXTS = ("a red house", "two green boats on a lake", "an old tower by the sea", "the market in the rain")


@pytest.fixture
def judged(tmp_path):
    """A table of a folder, given as its lines, and the roles of its columns."""
    write_files(tmp_path, {f"pics/p{number}.png": picture(number) for number in range(4)})

    def run(lines, name="t.csv", encoding="utf-8"):
        (tmp_path / name).write_bytes("\n".join(lines).encode(encoding))
        table = look_at_table(SourceFiles(str(tmp_path)), name)
        return table, {column.name: column.role for column in table.columns if column.chosen}

    return run


def rows(header, *cells):
    return [header, *(";".join(str(cell(number)) for cell in cells) for number in range(4))]


def test_a_column_is_a_picture_if_its_values_are_files_and_says_in_how_many_rows(judged):
    lines = rows("Bild;Text", lambda n: f"pics/p{n}.png" if n else "pics/gone.png", lambda n: TEXTS[n])
    table, roles = judged(lines)
    assert roles == {"Bild": "picture", "Text": "text"} and table.rows == 4
    assert table.columns[0].why == "`Bild` names files that are there in 3 of 4 rows"
    assert table.written == "UTF-8, separated by semicolons"


@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", "Windows-1252"), ("utf-16", "UTF-16"), ("utf-8-sig", "UTF-8")], ids=lambda value: value
)
def test_it_says_how_the_table_is_written(judged, encoding, name):
    table, roles = judged(
        [line.replace("house", "häuser") for line in rows("Bild;Text", lambda n: f"pics/p{n}.png", lambda n: TEXTS[n])], encoding=encoding
    )
    assert table.written == f"{name}, separated by semicolons" and roles["Text"] == "text"


def test_paths_that_start_lower_down_are_found_and_where_is_said(judged):
    table, roles = judged(rows("f;t", lambda n: f"p{n}.png", lambda n: TEXTS[n]))
    assert roles["f"] == "picture" and table.images == "pics"
    assert table.columns[0].why == "`f` names files that are there in 4 of 4 rows, below pics"


def test_names_of_pictures_that_are_not_there_and_addresses_are_said_and_not_taken(judged):
    table, roles = judged(rows("f;u;t", lambda n: f"x{n}.jpg", lambda n: f"https://a.b/{n}.jpg", lambda n: TEXTS[n]))
    assert roles == {"t": "text"}
    said = [column.why for column in table.columns if not column.chosen]
    assert said == [
        "`f` names pictures, such as x0.jpg, and none of them is in the folder",
        "`u` has addresses of pictures; pictures are read from files, not from the web",
    ]


def test_splits_queries_ids_and_texts(judged):
    lines = rows(
        "sku;teil;frage;titel;beschreibung;preis;jahr",
        lambda n: f"A-{n}",
        lambda n: "test" if n == 3 else "train",
        lambda n: f"Where is {TEXTS[n]}?",
        lambda n: f"Nice {TEXTS[n]}",
        lambda n: f"This is {TEXTS[n]}, as it was",
        lambda n: f"{n},99",
        lambda n: 2000 + n,
    )
    table, roles = judged(lines)
    assert roles == {"sku": "id", "teil": "split", "frage": "query", "titel": "text", "beschreibung": "text"}
    grounds = {column.name: column.why for column in table.columns}
    assert grounds["teil"] == "`teil` has only train (3), test (1) in 4 rows"
    assert grounds["frage"] == "`frage` has questions in 4 of 4 rows"
    assert grounds["sku"] == "`sku` is different in all 4 rows, and is called so"
    assert table.splits == (("test", 1), ("train", 3))


def test_of_two_texts_without_known_names_the_longer_is_taken_and_the_other_is_said(judged):
    table, roles = judged(rows("a;b", lambda n: f"{TEXTS[n]} once", lambda n: f"{TEXTS[n]} and once again"))
    assert roles == {"b": "text"}
    assert [(column.name, column.chosen) for column in table.columns] == [("b", True), ("a", False)]


def test_pictures_in_parquet_are_known_by_their_bytes(tmp_path):
    table = {"photo": [{"bytes": picture(number), "path": None} for number in range(3)], "says": TEXTS[:3]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    found = look_at_table(SourceFiles(str(tmp_path)), "t.parquet")
    assert next((column.role, column.name, column.why) for column in found.columns) == (
        "picture",
        "photo",
        "`photo` holds pictures in 3 of 3 rows",
    )
    assert found.chosen("text") == ["says"] and found.written == "Parquet" and found.rows == 3


def test_what_is_no_table_is_none(tmp_path):
    write_files(tmp_path, {"a.csv": "", "b.json": "{", "c.csv": "only\n7\n", "d.parquet": b"x"})
    assert [look_at_table(SourceFiles(str(tmp_path)), name) for name in ("a.csv", "b.json", "c.csv", "d.parquet")] == [None] * 4


def test_the_whole_table_decides_on_ids_and_splits(tmp_path):
    """Of 150 rows, the last but one is the first of the split test, and the last has the id of the first."""
    rows = [{"id": f"n{number % 149}", "part": "test" if number > 147 else "train", "text": f"a view of {number}"} for number in range(150)]
    found = look_at_table(SourceFiles(str(write_files(tmp_path, {"t.jsonl": rows}))), "t.jsonl")
    assert not found.chosen("id") and found.chosen("split") == ["part"]
    assert found.splits == (("test", 2), ("train", 148))
    assert [column.why for column in found.columns if column.role == "split"] == ["`part` has only train (148), test (2) in 150 rows"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=40)
    assert look_at_table(SourceFiles(str(tmp_path)), "t.parquet").splits == (("test", 2), ("train", 148))


def test_a_column_of_lists_is_several_captions_and_a_column_alone_is_a_table(tmp_path):
    write_files(tmp_path, {f"p{number}.png": picture(number) for number in range(2)})
    rows = [{"photo": f"p{number}.png", "says": [f"a view of {number}", "people by the lake"]} for number in range(2)]
    tree = SourceFiles(str(write_files(tmp_path, {"t.jsonl": rows, "alone.csv": "satz\nein Haus am See\nzwei Boote am Ufer\n"})))
    found, alone = look_at_table(tree, "t.jsonl"), look_at_table(tree, "alone.csv")
    assert found.chosen("picture") == ["photo"] and found.chosen("text") == ["says"] and (found.rows, found.captions) == (2, 4)
    assert alone.chosen("text") == ["satz"] and alone.written == "UTF-8"


def test_names_without_endings_are_pictures_unless_another_column_has_them_whole(judged, tmp_path):
    write_files(tmp_path, {f"{number}.png": picture(number) for number in range(4)})
    found, roles = judged(rows("name;t", lambda n: n, lambda n: TEXTS[n]))
    assert roles == {"name": "picture", "t": "text"}
    assert found.columns[0].why == "`name` names files that are there in 4 of 4 rows, without their endings"
    assert judged(rows("nr;f;t", lambda n: n, lambda n: f"{n}.png", lambda n: TEXTS[n]))[1] == {"nr": "id", "f": "picture", "t": "text"}


def test_a_first_row_that_looks_like_data_is_named(judged):
    assert judged(rows("pics/p0.png;a house", lambda n: f"pics/p{n}.png", lambda n: TEXTS[n]))[0].headless == "pics/p0.png"
    assert judged(rows("words;7", lambda n: TEXTS[n], lambda n: n))[0].headless == "7"
    assert judged(rows("f;t", lambda n: f"pics/p{n}.png", lambda n: TEXTS[n]))[0].headless == ""
