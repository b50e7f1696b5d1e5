"""Hugging Face image Parquet: pictures as bytes or paths, captions as texts or lists, classes by their names."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import hfimages
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, RejectedRow, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of

RED, BLUE = picture(200), picture(10, "JPEG")
SHOWN = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABELLED = {"image": {"_type": "Image"}, "label": {"names": ["star", "disc"], "_type": "ClassLabel"}}


def write_data_set(folder, file="data/train-00000-of-00001.parquet", features=None, types=None, **columns):
    """A data set as `datasets` pushes it; a column `image` holds bytes, paths or None."""
    shown = [value if value is None or isinstance(value, dict) else {"bytes": value, "path": "a.png"} for value in columns.pop("image")]
    types = types or {}
    table = pa.table({"image": pa.array(shown, SHOWN)} | {name: pa.array(cells, types.get(name)) for name, cells in columns.items()})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / file, row_group_size=2)
    return folder


def read(folder, **settings):
    return rows_of(hfimages, folder, name="mine", **settings)


def candidates(rows):
    return [row.item.id for row in rows if isinstance(row, Candidate) and row.named]


def asked(rows):
    return [(row.item.text, row.split) for row in rows if isinstance(row, Query) and row.task == "t->i"]


def answers(rows):
    texts = {row.item.id: row.item.text for row in rows if isinstance(row, Candidate)}
    return [texts[row.item_id] for row in rows if isinstance(row, Judgement) and texts[row.item_id]]


def test_a_picture_with_a_caption_is_read_exactly(tmp_path):
    at = {"source": "mine/data/train-00000-of-00001.parquet", "line": 1}
    key, text = "data/train-00000-of-00001.parquet:1", unnamed_candidate("a star", **at)
    assert read(write_data_set(tmp_path, image=[RED], text=["a star"])) == [
        Candidate(Item(f"{key}.image", images=(RED,), **at)),
        Query(Item(f"{key}.i2t", images=(RED,), **at), "train", "i->t", named=False),
        text,
        Judgement(f"{key}.i2t", text.item.id, 1, None, *at.values()),
        Query(Item(f"{key}.t2i-91aeee11", "a star", **at), "train", "t->i", named=False),
        Judgement(f"{key}.t2i-91aeee11", f"{key}.image", 1, None, *at.values()),
    ]


@pytest.mark.parametrize("column", ["text", "caption", "captions", "texts"])
@pytest.mark.parametrize("cell", ["one", ["one"], ["one", "two"], None, []])
def test_captions_are_found_under_each_of_their_names(tmp_path, column, cell):
    rows = read(write_data_set(tmp_path, "test.parquet", image=[RED], **{column: [cell]}))
    wanted = cell if isinstance(cell, list) else [cell] if cell else []
    assert asked(rows) == [(text, "test") for text in wanted] and not rejected_rows(rows)


def test_classes_are_named_and_ask_nothing(tmp_path):
    rows = read(write_data_set(tmp_path, features=LABELLED, image=[RED, BLUE, RED], label=[1, 0, -1]))
    assert answers(rows) == ["disc", "star"] and asked(rows) == [] and len(candidates(rows)) == 3


def test_a_class_number_beyond_the_names_is_rejected_and_one_without_names_is_ignored(tmp_path):
    assert rejected_rows(read(write_data_set(tmp_path / "a", features=LABELLED, image=[RED, RED], label=[0, 2]))) == [
        ("mine/data/train-00000-of-00001.parquet", 2, "bad row")
    ]
    assert answers(read(write_data_set(tmp_path / "b", image=[RED], label=[1]))) == []


def test_a_label_beside_a_caption_is_left_aside(tmp_path):
    assert answers(read(write_data_set(tmp_path, image=[RED], text=["a meme"], label=["hateful"]))) == ["a meme"]


def test_a_picture_without_bytes_is_read_from_its_path(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(BLUE)
    paths = [{"bytes": None, "path": path} for path in ("a.jpg", "b.jpg", "http://x/a.jpg", "a.mp4", None)]
    rows = read(write_data_set(tmp_path, "x.parquet", image=[*paths, None], id=list("abcdef")), images=str(tmp_path / "pictures"))
    assert [row.item.images for row in rows if isinstance(row, Candidate)] == [(BLUE,)]
    at = "mine/x.parquet"
    reasons = ["missing picture", "URL", "video file", "bad row", "missing picture"]
    assert rejected_rows(rows) == [(at, line, reason) for line, reason in enumerate(reasons, 2)]
    assert [row.id for row in rows if isinstance(row, RejectedRow)] == list("bcdef")


def test_rows_are_named_by_their_ids_where_they_have_any(tmp_path):
    assert candidates(read(write_data_set(tmp_path / "a", image=[RED, BLUE], id=[7, 8]))) == ["7.image", "8.image"]
    rows = read(write_data_set(tmp_path / "b", "a b.parquet", image=[RED, BLUE, RED], key=["x y", None, ""]))
    assert candidates(rows) == ["a_b.parquet:2.image"] and [line for _, line, _ in rejected_rows(rows)] == [1, 3]


def test_a_cell_of_another_type_is_rejected(tmp_path):
    assert [reason for _, _, reason in rejected_rows(read(write_data_set(tmp_path, image=[RED], text=[3])))] == ["bad row"]


def test_columns_that_nothing_reads_are_named_once_for_each_file(tmp_path, monkeypatch):
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 1)
    rows = read(write_data_set(tmp_path, image=[RED, BLUE, RED], text=["a", "b", "c"], width=[1, 2, 3], url=["", "", ""]))
    notices = [(row.source, row.detail) for row in rows if isinstance(row, Notice)]
    assert notices == [
        ("mine/data/train-00000-of-00001.parquet", "the columns width, url are not read; the rows are read without them")
    ] and not rejected_rows(rows)
    assert len(hfimages.shards(SourceFiles(str(tmp_path)))) == 2
    assert candidates(rows) == [f"data/train-00000-of-00001.parquet:{n}.image" for n in (1, 2, 3)]


def test_two_columns_of_pictures_or_none_are_refused(tmp_path):
    write_data_set(tmp_path / "a", image=[RED], mask=[{"bytes": RED, "path": ""}], types={"mask": SHOWN})
    with pytest.raises(Refused, match=r"one column of pictures.* has image, mask"):
        read(tmp_path / "a")
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b" / "x.parquet")
    with pytest.raises(Refused, match="has none among text"):
        read(tmp_path / "b")


@pytest.mark.parametrize("features", [{"label": {"_type": "ClassLabel"}}, []])
def test_features_that_cannot_be_read_are_refused(tmp_path, features):
    with pytest.raises(Refused, match="features in the Parquet metadata"):
        read(write_data_set(tmp_path, features=features, image=[RED], label=[1]))


def test_it_is_detected_by_its_column_of_pictures(tmp_path):
    def known(name, **columns):
        return hfimages.detect(SourceFiles(str(write_data_set(tmp_path / name, **columns))))

    assert known("captions", image=[RED], text=["x"], url=["x"]) and known("labels", image=[RED], label=[1], width=[3])
    assert known("bare", image=[RED], width=[3])
    assert not known("examples", image=[RED], anchor=["x"], positive=["x"])
    (tmp_path / "text").mkdir()
    pq.write_table(pa.table({"id": ["d"], "text": ["x"]}), tmp_path / "text" / "x.parquet")
    assert not hfimages.detect(SourceFiles(str(tmp_path / "text")))


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(hfimages, "GROUP_ROWS", 2)
    write_data_set(tmp_path / "in", "train.parquet", image=[RED, BLUE, picture(1)], captions=[["one", "two"], ["one"], []])
    write_data_set(tmp_path / "in", "validation.parquet", features=LABELLED, image=[BLUE, picture(2)], label=[0, 1])
    rows = read(tmp_path / "in")
    hfimages.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    assert meaning(read(tmp_path / "out")) == meaning(rows)
    found = {file.name: pq.ParquetFile(file) for file in (tmp_path / "out").iterdir()}
    assert {name.partition("-")[0]: file.metadata.num_rows for name, file in found.items()} == {"train": 2, "validation": 2, "pictures": 1}
    features = json.loads(found["train-00000-of-00001.parquet"].schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and set(features) == set(hfimages.SCHEMA.names)


def test_a_caption_that_is_empty_is_rejected_and_its_picture_is_a_candidate(tmp_path):
    rows = read(write_data_set(tmp_path, "test.parquet", image=[RED, BLUE, RED, BLUE], text=["", "one", None, " "]))
    assert rejected_rows(rows) == [("mine/test.parquet", 1, "empty side"), ("mine/test.parquet", 4, "empty side")]
    assert len(candidates(rows)) == 4 and asked(rows) == [("one", "test")]


def test_captions_are_read_together_with_their_pictures(tmp_path):
    rows = read(write_data_set(tmp_path, image=[RED, BLUE], caption=["one", None], id=["a", "b"]), captions="together")
    assert [(row.item.id, row.item.text, row.item.images) for row in rows] == [("a.image", "one", (RED,)), ("b.image", "", (BLUE,))]
