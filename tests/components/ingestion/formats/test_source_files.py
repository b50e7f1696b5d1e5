"""Files as users have them: unreadable ones are reported by file and line, and pictures are found relative to their folder."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import source_files as places
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import write_files

DEEP, LONG = "[" * 100_000, "9" * 5000


def records(folder, name, content):
    tree = SourceFiles(str(write_files(folder, {name: content})), "mine")
    return [(line, row.reason if isinstance(row, RowError) else row) for line, row in tree.records(Shard(name))]


def test_a_line_that_python_does_not_take_costs_itself_alone(tmp_path):
    text = f'{{"a": 1}}\n{{"a": {LONG}}}\n{{"a": {DEEP}\n{{"a": 2}}\n'
    assert records(tmp_path, "a.jsonl", text) == [(1, {"a": 1}), (2, "bad JSON"), (3, "bad JSON"), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f'[{{"a": 1}},\n{{"a": {LONG}}}]', "line 2 is no JSON (Exceeds the limit (4300 digits)"),
        (f'[{{"a": 1}},\n{{"a": {DEEP}', "line 2 is no JSON (it is nested too deep)"),
        (b'[{"a": 1},\n\n{"a": "\xff"}]', "line 3 is not UTF-8"),
        ('[{"a": 1}]\n[{"a": 2}]', "goes on at line 2 after the end"),
        ('[{"a": 1}]\n \n' + " " * (3 << 20) + "\n]", "goes on at line 4 after the end"),
        ('[{"a": 1}', "ends inside its JSON array, at line 1"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_array_that_cannot_be_read_is_refused_with_its_line(tmp_path, content, words, packed):
    content = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(Unreadable) as refused:
        records(tmp_path, "a.json" + ".gz" * packed, gzip.compress(content) if packed else content)
    assert f"mine/a.json{'.gz' * packed} {words}" in str(refused.value) and "\n" not in str(refused.value)
    assert f"line {refused.value.line}" in words


def test_white_space_may_follow_an_array(tmp_path):
    assert records(tmp_path, "a.json", '[{"a": 1}] \n' + " " * (2 << 20)) == [(1, {"a": 1})]


@pytest.mark.parametrize("form", ["lines", "array"])
@pytest.mark.parametrize("damage", ["cut", "plain", "flipped", "empty"])
def test_a_packed_file_that_cannot_be_unpacked_is_refused(tmp_path, form, damage):
    rows = [{"n": n, "text": f"{n * n:x}"} for n in range(5000)]
    text = json.dumps(rows) if form == "array" else "".join(json.dumps(row) + "\n" for row in rows)
    packed = bytearray(gzip.compress(text.encode()))
    packed[len(packed) // 2] ^= 255
    content = {"cut": gzip.compress(text.encode())[:-2000], "plain": text.encode(), "flipped": bytes(packed), "empty": b"\x1f\x8b"}[damage]
    with pytest.raises(Refused, match=r"mine/a\.gz cannot be unpacked after line \d+ \(.+\); repair it"):
        records(tmp_path, "a.gz", content)


def test_parquet_whose_texts_are_no_utf8_or_whose_pages_are_damaged_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a bright star"] * 9}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    whole = (tmp_path / "a.parquet").read_bytes()
    for name, content in {"text": whole.replace(b"star", b"\xff\xff\xff\xff"), "page": whole[:4] + b"\xff" * 20 + whole[24:]}.items():
        tree = SourceFiles(str(write_files(tmp_path / name, {"b.parquet": content})), "mine")
        with pytest.raises(Refused, match=r"mine/b\.parquet cannot be read as Parquet") as refused:
            list(tree.tables(Shard("b.parquet")))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("folder", "file", "split"),
    [
        ("test", "part-0.tar", "test"),
        ("coco-val", "part-0.tar", "validation"),
        ("test", "train-0.tar", "train"),
        ("tests", "part-0.tar", "train"),
        ("test_data", "part-0.tar", "train"),
        ("test", "dev/part-0.tar", "validation"),
    ],
)
def test_the_folder_gives_the_split_where_the_file_does_not(tmp_path, folder, file, split):
    write_files(tmp_path / folder, {file: "x"})
    assert SourceFiles(str(tmp_path / folder)).split(file) == split
    assert SourceFiles(str(tmp_path / folder / file)).split(file.rpartition("/")[2]) == split


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("../secret.png", "missing picture", "../secret.png leaves its folder"),
        ("x/../../secret.png", "missing picture", "leaves its folder"),
        ("a\0.png", "bad row", "a\\x00.png"),
        ("", "bad row", "empty"),
        ("nowhere.png", "missing picture", "nowhere.png"),
        ("http://x/a.png", "URL", "http"),
    ],
)
def test_a_picture_is_read_from_its_folder_alone(tmp_path, path, reason, detail):
    tree = SourceFiles(str(write_files(tmp_path / "in", {"a.png": b"png"})))
    write_files(tmp_path, {"secret.png": b"secret"})
    with pytest.raises(RowError) as trouble:
        tree.picture(path)
    assert trouble.value.reason == reason and detail in trouble.value.detail
    assert tree.picture("./a.png") == b"png"


def test_an_absolute_path_is_read_where_it_is(tmp_path):
    write_files(tmp_path, {"in/x": "x", "elsewhere/a.png": b"png"})
    assert SourceFiles(str(tmp_path / "in")).picture(f"{tmp_path}/elsewhere/a.png") == b"png"


def test_large_rows_of_parquet_come_fewer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "TABLE_BYTES", 10_000)
    table = pa.table({"id": list(map(str, range(12))), "data": [bytes([n]) * 4000 for n in range(12)]})
    pq.write_table(table, tmp_path / "rows.parquet", use_dictionary=False, compression="none")
    given = SourceFiles(str(tmp_path))
    (shard,) = given.parquet_shards("rows.parquet")
    found = list(given.tables(shard))
    assert [(number, rows.num_rows) for number, rows in found] == [(first, 2) for first in range(1, 13, 2)]
    assert pa.concat_tables(rows for _, rows in found).combine_chunks() == table.combine_chunks()


@pytest.mark.parametrize(
    "file",
    [
        "out/runs/search-20260102-030405-00ff/report.json",
        "out/artefacts/sources/0123456789abcdef/corpus/part-0.parquet",
        "out/leases/driver-host-1-abc.json",
        "storage/artefacts/corpus.jsonl",
        "runs/search-20260102-030405-00ff/report.json",
    ],
)
@pytest.mark.parametrize("uri", [False, True])
def test_what_runs_wrote_among_the_files_is_left_out(tmp_path, file, uri):
    write_files(tmp_path, {"a.jsonl": "{}\n", file: "{}\n"})
    tree = SourceFiles(f"local://{tmp_path}" if uri else str(tmp_path))
    assert tree.files() == ["a.jsonl"]


@pytest.mark.parametrize("name", [b"b\xfcro.png", b"caf\xe9/a.png"])
def test_a_name_that_is_not_utf8_is_refused_in_one_line_that_has_it(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "wb").close()
    with pytest.raises(Refused, match="has a file whose name is not UTF-8: ") as refused:
        SourceFiles(str(tmp_path)).listing  # noqa: B018 - it is listed when it is first asked for
    assert ascii(name)[2:6].replace("'", "") in str(refused.value) and "\\x" in str(refused.value) and "\n" not in str(refused.value)


def test_folders_that_are_called_as_those_of_a_storage_are_read(tmp_path):
    files = ["artefacts/vase/a.jpg", "leases/contract-1.json", "runs/monday/track.jpg", "work/a.jpg"]
    write_files(tmp_path, dict.fromkeys(files, b"x"))
    assert SourceFiles(str(tmp_path)).files() == files


def test_a_storage_that_is_being_made_is_left_out_by_its_lock(tmp_path):
    write_files(
        tmp_path, {"a.jpg": b"x", "out/leases/.lock": b"", "out/mlflow.db": b"x", "out/mlflow.db-wal": b"x", "out/tmp/d/a.parquet": b"x"}
    )
    assert SourceFiles(str(tmp_path)).files() == ["a.jpg"]
