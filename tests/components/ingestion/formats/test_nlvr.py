"""NLVR as Parquet: sentences are queries, and each picture is judged by whether the sentence is true of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import nlvr
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from tests.components.ingestion.formats.format_cases import picture, rejected_rows, rows_of

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
