"""Tables of any column names, whose columns the user names."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats import table
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import open_sources
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import made
from tests.components.ingestion.formats.format_cases import picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")
SHOWN = {"i/a.png": RED, "i/b.jpg": BLUE}
PAIR = (("picture", "Bild"), ("text", "Titel"))
ASKED = (("query", "Frage"), ("picture", "Bild"), ("text", "Titel"))


def read(path, files, columns=PAIR, **settings):
    return rows_of(table, write_files(path, files), name="mine", columns=columns, **settings)


def candidates(rows):
    return [(row.item.id, row.item.text, row.item.images) for row in rows if isinstance(row, Candidate)]


def asked(rows):
    """Each query with its split and the ids of its answers."""
    return [
        (row.item.text, row.split, [judged.item_id for judged in rows if isinstance(judged, Judgement) and judged.query_id == row.item.id])
        for row in rows
        if isinstance(row, Query) and row.item.text
    ]


def packed(text: str) -> bytes:
    """The text, packed to the same bytes in every process: the tests are named by them."""
    return gzip.compress(text.encode(), mtime=0)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("rows.csv", "Nr;Bild;Titel\n1;i/a.png;Ein Bär, süß\n2;i/b.jpg;zwei\n".encode("cp1252")),
        ("i/rows.tsv", "Bild\tTitel\na.png\tEin Bär, süß\nb.jpg\tzwei\n"),
        ("rows.jsonl", [{"Bild": "i/a.png", "Titel": "Ein Bär, süß"}, {"Titel": "zwei", "Bild": "i/b.jpg"}]),
        ("rows.json", '[{"Bild": "i/a.png", "Titel": "Ein Bär, süß"}, {"Titel": "zwei", "Bild": "i/b.jpg"}]'),
        ("rows.csv.gz", packed('Bild,Titel\ni/a.png,"Ein Bär, süß"\ni/b.jpg,zwei\n')),
        ("rows.jsonl.gz", packed('{"Bild": "i/a.png", "Titel": "Ein Bär, süß"}\n{"Bild": "i/b.jpg", "Titel": "zwei"}\n')),
    ],
)
def test_pictures_and_texts_are_captioned_pictures_in_every_kind_of_table(tmp_path, file, content):
    rows = read(tmp_path, {**SHOWN, file: content})
    assert asked(rows) == [("Ein Bär, süß", "train", ["i/a.png.image"]), ("zwei", "train", ["i/b.jpg.image"])]
    assert [row.task for row in rows if isinstance(row, Query)] == ["i->t", "t->i", "i->t", "t->i"] and not rejected_rows(rows)


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_parquet_has_pictures_as_bytes_objects_or_paths(tmp_path, kind):
    cells = {
        "bytes": [RED, BLUE],
        "struct": [{"bytes": RED, "path": "gone.png"}, {"bytes": None, "path": "i/b.jpg"}],
        "path": ["i/a.png", "i/b.jpg"],
    }
    write_files(tmp_path, SHOWN)
    pq.write_table(pa.table({"Bild": cells[kind], "Titel": ["one", "two"], "n": [1, 2]}), tmp_path / "rows.parquet")
    rows = read(tmp_path, {})
    keys = {"bytes": ["rows.parquet:1", "rows.parquet:2"], "struct": ["rows.parquet:1", "i/b.jpg"], "path": ["i/a.png", "i/b.jpg"]}[kind]
    assert asked(rows) == [("one", "train", [f"{keys[0]}.image"]), ("two", "train", [f"{keys[1]}.image"])]
    together = read(tmp_path, {}, captions="together")
    assert {(text, images) for _, text, images in candidates(together) if text} == {("one", (RED,)), ("two", (BLUE,))}
    assert not [row for row in together if isinstance(row, Query)] and not rejected_rows(together)


def test_a_row_with_a_query_is_a_query_and_its_answer_of_picture_and_text(tmp_path):
    content = "Frage,Bild,Titel\nwhat is red?,i/a.png,a star\nwhat is blue?,i/b.jpg,\n,i/b.jpg,a disc\nwhat is red?,,only a text\n"
    rows = read(tmp_path, {**SHOWN, "rows.csv": content}, ASKED)
    found = {text: id for id, text, _ in candidates(rows)}
    assert [(text, images) for _, text, images in candidates(rows)] == [
        ("a star", (RED,)),
        ("", (BLUE,)),
        ("a disc", (BLUE,)),
        ("only a text", ()),
    ]
    assert asked(rows)[:2] == [
        ("what is red?", "train", [found["a star"], found["only a text"]]),
        ("what is blue?", "train", ["i/b.jpg.image"]),
    ]


def test_equal_queries_and_equal_answers_are_one_each_in_the_corpus(tmp_path):
    content = "Frage,Titel\none?,same\none?,other\ntwo?,same\none?,same\n"
    folder = write_files(tmp_path / "in", {"rows.csv": content})
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(str(folder),), columns=("query=Frage", "text=Titel")))
    assert found.outcome.metrics == {"corpus": 2, "queries": 2, "qrels": 3, "rejected": 0, "merged": 5}
    assert read_part(found.folder, "queries")["task"].to_pylist() == ["t->t", "t->t"]


def test_several_texts_are_joined_and_the_ids_of_rows_are_those_of_their_candidates(tmp_path):
    columns = (("text", "a"), ("text", "b"), ("id", "nr"))
    rows = read(
        tmp_path,
        {"rows.jsonl": [{"a": "one", "b": "two", "nr": 7}, {"b": "three", "nr": "x 8"}, {"a": ["four", "five"], "nr": None}]},
        columns,
    )
    assert candidates(rows)[:2] == [("7", "one\ntwo", ()), ("x_8", "three", ())]
    assert candidates(rows)[2][1] == "four\nfive" and candidates(rows)[2][0].startswith("c-")


def test_the_ids_of_rows_name_pictures_and_whole_candidates(tmp_path):
    content = "nr,Bild,Titel,Frage\n5,i/a.png,one,which?\n"
    files, columns = {**SHOWN, "rows.csv": content}, (*PAIR, ("id", "nr"))
    assert [id for id, _, images in candidates(read(tmp_path, files, columns)) if images] == ["5.image", "i/b.jpg.image"]
    assert candidates(read(tmp_path, files, columns, captions="together")) == [("5", "one", (RED,)), ("i/b.jpg.image", "", (BLUE,))]
    assert asked(read(tmp_path, files, (*columns, ("query", "Frage")))) == [("which?", "train", ["5"])]


def test_a_list_of_captions_is_several_captions(tmp_path):
    rows = read(tmp_path, {**SHOWN, "rows.jsonl": [{"Bild": "i/a.png", "Titel": ["one", "two"]}]})
    assert [text for text, _, _ in asked(rows)] == ["one", "two"]


def test_a_split_column_is_normalised_as_names_of_files_are_and_an_empty_cell_is_that_of_the_file(tmp_path):
    content = "Frage,Titel,Teil\na,1,val\nb,2,TEST\nc,3,fold-3\nd,4,\n"
    rows = read(tmp_path, {"rows_dev.csv": content}, (("query", "Frage"), ("text", "Titel"), ("split", "Teil")))
    assert [(text, split) for text, split, _ in asked(rows)] == [("a", "validation"), ("b", "test"), ("c", "fold-3"), ("d", "validation")]


def test_captions_together_are_joined_with_their_picture_wherever_the_rows_are(tmp_path):
    content = "Bild,Titel\ni/a.png,one\ni/b.jpg,\ni/a.png,two\nnowhere.png,x\n"
    rows = read(tmp_path, {**SHOWN, "rows.csv": content}, captions="together")
    assert candidates(rows) == [("i/b.jpg.image", "", (BLUE,)), ("i/a.png.image", "one\ntwo", (RED,))]
    assert rejected_rows(rows) == [("mine/rows.csv", 5, "missing picture")]


def test_pictures_that_no_row_names_are_candidates_alone_unless_the_table_has_no_pictures(tmp_path):
    files = {**SHOWN, "c.png": picture(3), "rows.csv": "Bild,Titel\ni/a.png,one\n"}
    assert [id for id, _, images in candidates(read(tmp_path, files)) if images] == ["i/a.png.image", "c.png.image", "i/b.jpg.image"]
    assert [id for id, _, images in candidates(read(tmp_path, files, (("text", "Titel"),))) if images] == []


def test_a_list_of_one_picture_is_a_picture_and_a_longer_one_is_rejected(tmp_path):
    rows = read(
        tmp_path, {**SHOWN, "rows.jsonl": [{"Bild": ["i/a.png"], "Titel": "one"}, {"Bild": ["i/a.png", "i/b.jpg"], "Titel": "two"}]}
    )
    assert asked(rows) == [("one", "train", ["i/a.png.image"])] and rejected_rows(rows) == [("mine/rows.jsonl", 2, "bad row")]


def test_rows_that_cannot_be_used_are_rejected_with_their_line(tmp_path):
    lines = [{"Bild": "no.png"}, {"Titel": " "}, {"Bild": 3, "Titel": "x"}, {"Bild": "i/a.png", "Titel": {"x": 1}}, {"Bild": "../a.png"}]
    rows = read(tmp_path, {**SHOWN, "rows.jsonl": [{"Bild": "i/a.png", "Titel": "good"}, *lines]})
    reasons = ["missing picture", "empty side", "bad row", "bad row", "bad row"]
    assert rejected_rows(rows) == [("mine/rows.jsonl", line, reason) for line, reason in enumerate(reasons, 2)]


def test_columns_that_are_not_read_and_the_encoding_are_noticed(tmp_path):
    rows = read(tmp_path, {**SHOWN, "rows.csv": "Bild;Titel;Preis\ni/a.png;süß;3\n".encode("cp1252")})
    assert [row.detail.partition(",")[0] for row in rows if isinstance(row, Notice)] == [
        "the column Preis is not read; the rows are read without it",
        "read as Windows-1252",
    ]


@pytest.mark.parametrize(
    ("files", "columns", "words"),
    [
        (
            {"rows.csv": "file;title\n"},
            PAIR,
            "names Bild, Titel, and no table has a column of that name: mine/rows.csv has file, title",
        ),
        (
            {"rows.csv": "Bild,title\n", "x.jsonl": [{"Bild": "a", "Titel": "b"}]},
            PAIR,
            "mine/rows.csv has no column Titel, which sources.columns names; it has Bild, title; name other columns",
        ),
        (
            {"rows.csv": "file,title\n"},
            (),
            "needs the names of columns, as sources.columns=picture=COLUMN,text=COLUMN; mine/rows.csv has file",
        ),
        ({"a.png": RED}, PAIR, "there is no table in"),
        ({"rows.csv": "Frage,b\n"}, (("query", "Frage"),), "names neither a picture nor a text"),
    ],
)
def test_columns_that_are_not_there_are_refused_in_one_line_that_names_those_that_are(tmp_path, files, columns, words):
    with pytest.raises(Refused) as refused:
        read(tmp_path, files, columns)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_table_of_other_columns_is_left_aside_and_named(tmp_path):
    folder = write_files(
        tmp_path / "in", {**SHOWN, "rows.csv": "Bild,Titel\ni/a.png,one\n", "people.csv": "name\nEva\n", "notes.json": '{"x": 1}'}
    )
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(str(folder),), columns=("picture=Bild", "text=Titel")))
    assert (
        found.outcome.metrics == {"corpus": 3, "queries": 2, "qrels": 2, "rejected": 0, "merged": 0} or found.outcome.metrics["corpus"] == 3
    )
    assert {row["source"] for row in found.outcome.tables["notices"]} == {"in/people.csv", "in/notes.json"}


def test_it_is_the_format_wherever_columns_are_named_and_only_there(tmp_path):
    folder = write_files(tmp_path / "in", {**SHOWN, "captions.csv": "file,caption\ni/a.png,one\n"})
    assert open_sources((str(folder),))[0].format == "folder"
    (source,) = open_sources((str(folder),), columns=("picture=file", "in:text=caption"))
    assert (source.format, source.tree.columns) == ("table", (("picture", "file"), ("text", "caption")))
    beir = write_files(
        tmp_path / "b",
        {"corpus.jsonl": [{"_id": "d", "text": "x"}], "queries.jsonl": [{"_id": "q", "text": "y"}], "qrels/test.tsv": "a\tb\tc\n"},
    )
    both = (str(folder), str(beir))
    assert [source.format for source in open_sources(both, columns=("in:picture=file", "in:text=caption"))] == ["table", "beir"]
    with pytest.raises(Refused, match=r"names columns of source 'b', which is read as beir; they are for the format table: leave them out"):
        open_sources((f"beir+{beir}",), columns=("text=caption",))


def test_a_worker_reads_the_same_columns(tmp_path):
    import pickle

    tree = SourceFiles(str(write_files(tmp_path, {"rows.csv": "Titel\none\n"})), columns=(("text", "Titel"),), captions="together")
    again = pickle.loads(pickle.dumps(tree))
    assert (again.columns, again.captions) == (tree.columns, "together")
    [row] = [row for shard in table.shards(again) for row in table.read(again, shard)]
    assert row.item.text == "one" and isinstance(row.item, Item)
