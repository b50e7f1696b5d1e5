"""`convert` writes a whole folder of another format, or nothing."""

import json

from mirepoix.workflows.__main__ import main
from tests.workflows.corpora import TEXTS, lines, picture


def test_what_is_converted_is_read_again_as_it_was(tmp_path, capsys):
    rows = [{"query": "who ?", "pos": ["he"], "neg": ["it"]}, {"query": "what ?", "pos": ["it"], "neg": []}]
    path = lines(tmp_path / "train.jsonl", rows)
    assert main(["convert", str(path), str(tmp_path / "beir"), "--to", "beir"]) == 0
    assert main(["convert", str(tmp_path / "beir"), str(tmp_path / "back"), "--to", "flagembedding"]) == 0
    (file,) = (tmp_path / "back").glob("*.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    assert "flagembedding; corpus 2, queries 2, qrels 3" in capsys.readouterr().out


def test_convert_prints_the_notices_of_reading_too(beir, tmp_path, capsys):
    home = beir({"a": TEXTS["a"]}, train=["a"])
    with (home / "queries.jsonl").open("a") as queries:
        queries.write(json.dumps({"_id": "q9", "text": "which no qrels name"}) + "\n")
    assert main(["convert", str(home), str(tmp_path / "swift"), "--to", "ms-swift"]) == 0
    assert "left aside  beir/queries.jsonl: queries that no qrels name: 1, the first in line 2" in capsys.readouterr().err


def test_convert_counts_the_rows_that_another_format_changes(tmp_path, capsys):
    path = lines(tmp_path / "train.jsonl", [{"query": "who ?", "pos": ["he"], "neg": ["it", "they"]}])
    assert main(["convert", str(path), str(tmp_path / "unite"), "--to", "unite"]) == 1
    assert "not the same when unite is read again: 1 queries that are written as several rows" in capsys.readouterr().err


def test_a_format_that_cannot_hold_it_is_refused_and_leaves_nothing(tmp_path, capsys):
    home = tmp_path / "pictures"
    home.mkdir()
    (home / "a.png").write_bytes(picture("a"))
    lines(home / "captions.jsonl", [{"file_name": "a.png", "text": "noise"}])
    assert main(["convert", str(home), str(tmp_path / "out"), "--to", "flagembedding"]) == 2
    assert "flagembedding" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_a_target_that_holds_something_is_not_written_over(tmp_path, capsys):
    path = lines(tmp_path / "train.jsonl", [{"query": "who ?", "pos": ["he"], "neg": []}])
    assert main(["convert", str(path), str(tmp_path), "--to", "beir"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "x"), "--to", "nlvr"]) == 2
    assert "cannot be written; give one of canonical, beir" in capsys.readouterr().err
