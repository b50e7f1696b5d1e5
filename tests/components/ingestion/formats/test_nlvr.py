"""NLVR as published and as Parquet: sentences are queries, and each picture is judged by whether the sentence is true of it."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import nlvr
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import open_sources
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import meaning, picture, rejected_rows, rows_of, write_files

ROW = {
    "image_name": "dev-7-0-0.png",
    "image": picture(200),
    "identifier": "7-0",
    "permutation": "0",
    "sentence": "There is a tower.",
    "label": True,
}
SCHEMA = pa.schema([(name, {"image": pa.binary(), "label": pa.bool_()}.get(name, pa.string())) for name in ROW])


def write_split(folder, *changes, split="dev"):
    """A split with a row for each of the changes to `ROW`."""
    pq.write_table(pa.Table.from_pylist([ROW | change for change in changes], SCHEMA), folder / f"{split}.parquet")
    return folder


def read(folder):
    return rows_of(nlvr, folder, name="mine")


def test_a_sentence_asks_once_for_all_pictures_of_its_presentation_and_is_true_of_some(tmp_path):
    other = {"image_name": "dev-7-1-0.png", "image": picture(10), "identifier": "7-1", "label": False}
    rows = read(write_split(tmp_path, {}, other))
    assert {row.item.id: row.item.images for row in rows if isinstance(row, Candidate)} == {
        "dev-7-0-0": (ROW["image"],),
        "dev-7-1-0": (other["image"],),
    }
    assert {(row.item.id, row.item.text, row.split, row.task) for row in rows if isinstance(row, Query)} == {
        ("dev-7", "There is a tower.", "validation", "t->i")
    }
    judged = [(row.query_id, row.item_id, row.relevance) for row in rows if isinstance(row, Judgement)]
    assert judged == [("dev-7", "dev-7-0-0", 1), ("dev-7", "dev-7-1-0", 0)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": None}, "bad row"),
        ({"image": None}, "bad row"),
        ({"image_name": ""}, "bad row"),
        ({"sentence": ""}, "empty side"),
    ],
)
def test_a_row_without_label_picture_name_or_sentence_is_rejected_and_the_others_are_read(tmp_path, change, reason):
    rows = read(write_split(tmp_path, change, {"image_name": "dev-8-0-0.png", "identifier": "8-0"}))
    assert rejected_rows(rows) == [("mine/dev.parquet", 1, reason)]
    assert [row.item.id for row in rows if isinstance(row, Query)] == ["dev-8"]


def test_it_is_detected_by_its_columns(tmp_path):
    assert nlvr.detect(SourceFiles(str(write_split(tmp_path, {}))))
    (tmp_path / "dev.parquet").unlink()
    assert not nlvr.detect(SourceFiles(str(tmp_path)))
    pq.write_table(pa.table({"image_name": ["a"], "label": [True]}), tmp_path / "dev.parquet")
    assert not nlvr.detect(SourceFiles(str(tmp_path)))


LINE = {
    "sentence": "There is a tower.",
    "label": "true",
    "identifier": "7-0",
    "directory": "3",
    "evals": {"r1": "true"},
    "structured_rep": [],
}


def published(folder, rows):
    """Rows of Parquet by split, written as the corpus is published."""
    for split, examples in rows.items():
        lines = {}
        for row in examples:
            write_files(folder, {f"{split}/images/{row['identifier'][-1]}/{row['image_name']}": row["image"]})
            line = {"sentence": row["sentence"], "label": str(row["label"]).lower(), "identifier": row["identifier"]}
            lines[row["identifier"]] = line | {"directory": row["identifier"][-1]}
        write_files(folder, {f"{split}/{split}.json": list(lines.values())})
    return folder


def test_both_layouts_give_the_same_rows(tmp_path):
    rows = [
        ROW | {"image_name": f"dev-{name}-{order}.png", "image": picture(shade + order), "identifier": name, "label": label}
        for shade, (name, label) in enumerate([("7-0", True), ("7-2", False), ("11-3", True)], 5)
        for order in range(6)
    ]
    of_parquet = read(write_split(tmp_path, *rows))
    of_lines = read(published(tmp_path / "raw", {"dev": rows}))
    assert meaning(of_lines) == meaning(of_parquet) and len(of_lines) == 54 and not rejected_rows(of_lines)
    assert open_sources((str(tmp_path / "raw"),))[0].format == "nlvr"


DATA = Path(os.environ.get("NLVR") or Path(__file__).resolve().parents[5] / "shared" / "data" / "nlvr")


@pytest.mark.skipif(not DATA.is_dir(), reason="needs NLVR as Parquet")
def test_both_layouts_give_the_same_rows_of_the_corpus(tmp_path):
    some = {}
    for split in ("dev", "test"):
        table = next(pq.ParquetFile(DATA / f"{split}.parquet").iter_batches(120))
        (tmp_path / "parquet").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_batches([table]), tmp_path / "parquet" / f"{split}.parquet")
        some[split] = table.to_pylist()
    rows = read(tmp_path / "parquet")
    assert meaning(read(published(tmp_path / "raw", some))) == meaning(rows) and len(rows) == 720


def test_one_split_is_read_from_its_own_folder_and_from_its_file_and_from_pictures_elsewhere(tmp_path):
    write_files(tmp_path, {"dev/dev.json": [LINE], "dev/images/3/dev-7-0-4.png": picture(9)})
    whole = meaning(read(tmp_path))
    assert [name for name, *_ in whole["candidates"]] == ["dev-7-0-4"]
    assert meaning(rows_of(nlvr, tmp_path / "dev")) == meaning(rows_of(nlvr, tmp_path / "dev" / "dev.json")) == whole
    write_files(tmp_path / "lines", {"dev.json": [LINE]})
    assert meaning(rows_of(nlvr, tmp_path / "lines", images=str(tmp_path / "dev" / "images"))) == whole


def test_a_picture_is_found_by_its_name_where_its_directory_is_another_and_missing_ones_are_counted(tmp_path):
    line = {name: value for name, value in LINE.items() if name != "directory"}
    files = {
        "train.json": [line, line | {"identifier": "8-1"}],
        "pictures/train-7-0-0.png": picture(1),
        "pictures/train-7-0-5.png": picture(2),
    }
    rows = read(write_files(tmp_path, files))
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == ["train-7-0-0", "train-7-0-5"]
    assert rejected_rows(rows) == [("mine/train.json", 2, "missing picture")]
    assert [row.detail for row in rows if isinstance(row, Notice)] == [
        "4 pictures of its examples are not there; each example is read with those that are"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "maybe"}, "bad row"),
        ({"label": None}, "bad row"),
        ({"sentence": ""}, "empty side"),
        ({"identifier": "x"}, "bad row"),
        ({"identifier": None}, "bad row"),
    ],
)
def test_a_line_that_says_too_little_is_rejected(tmp_path, change, reason):
    files = {"dev.json": [LINE | change, LINE], "images/3/dev-7-0-0.png": picture(1)}
    rows = read(write_files(tmp_path, files))
    assert rejected_rows(rows) == [("mine/dev.json", 1, reason)] and sum(isinstance(row, Query) for row in rows) == 1


HIDDEN = {"hidden/hidden_final.json": [LINE], "hidden/images/0/hidden-7-0-0.png": picture(3)}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (HIDDEN, "hidden/hidden_final.json"),
        ({"test-hidden.json": [LINE]}, "test-hidden.json"),
        ({"more.json": [{"sentence": "x", "identifier": "1-0", "structured_rep": []}]}, "more.json"),
    ],
)
def test_the_hidden_split_is_not_read_with_the_others_and_is_named(tmp_path, files, name):
    rows = read(write_files(tmp_path / "in", {"dev/dev.json": [LINE], "dev/images/3/dev-7-0-0.png": picture(1), **files}))
    assert {row.split for row in rows if isinstance(row, Query)} == {"validation"}
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == ["dev-7-0-0"]
    [notice] = [row for row in rows if isinstance(row, Notice) and row.detail.startswith("not read")]
    assert notice.source == f"mine/{name}" and ("give the path of this file" in notice.detail) == ("hidden" in name)


@pytest.mark.parametrize("path", ["hidden", "hidden/hidden_final.json"])
def test_the_hidden_split_is_read_where_the_path_names_it_and_never_as_training(tmp_path, path):
    write_files(tmp_path / "in", HIDDEN)
    rows = rows_of(nlvr, tmp_path / "in" / path)
    assert [(row.item.id, row.split) for row in rows if isinstance(row, Query)] == [("hidden-7", "hidden")]
    with pytest.raises(Refused, match=r"has only the hidden split of NLVR \(hidden/hidden_final\.json\); give the path"):
        rows_of(nlvr, tmp_path / "in")


def test_a_hidden_table_is_left_out_too_and_other_json_is_not_nlvr(tmp_path):
    (tmp_path / "in").mkdir()
    write_split(tmp_path / "in", {"image_name": "hidden-7-0-0.png"}, split="hidden")
    assert {row.split for row in read(write_split(tmp_path / "in", {})) if isinstance(row, Query)} == {"validation"}
    other = {"sentence": "x", "identifier": "dev-1-0-0", "label": "True", "left_url": "y", "right_url": "z"}
    assert not nlvr.detect(SourceFiles(str(write_files(tmp_path / "nlvr2", {"dev.json": json.dumps(other)}))))
