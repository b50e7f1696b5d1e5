"""A file that is read in the wrong way has a hint at how it is written."""

import json

import pytest

from mirepoix.workflows.__main__ import main
from tests.workflows.corpora import TEXTS


def rows(texts):
    return "".join(json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n" for name, text in texts.items())


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("latin-1", "/queries.jsonl is Windows-1252, and this format is read as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 queries.jsonl"),
        ("utf-16", "/queries.jsonl is UTF-16, and this format is read as UTF-8: iconv -f UTF-16 -t UTF-8 queries.jsonl"),
    ],
)
def test_json_lines_of_another_encoding_are_hinted_at(beir, capsys, encoding, said):
    home = beir(TEXTS, train="ab", test="cd")
    asked = "".join(json.dumps({"_id": f"q-{split}-{n}", "text": f"où est l'été {n} ?"}, ensure_ascii=False) + "\n" for split, n in
                    (("train", "a"), ("train", "b"), ("test", "c"), ("test", "d")))  # fmt: skip
    (home / "queries.jsonl").write_bytes(asked.encode(encoding))
    assert main(["validate", str(home)]) == 1
    assert f"hint        {home}{said} > queries-utf8" in capsys.readouterr().err


def test_judgements_between_semicolons_are_hinted_at(beir, capsys):
    home = beir(TEXTS, train="ab", test="cd")
    (home / "qrels" / "test.tsv").write_text("query-id;corpus-id;score\nq-test-c;c;1\nq-test-d;d;1\n")
    assert main(["validate", str(home)]) == 1
    err = capsys.readouterr().err
    assert f"hint        {home}/qrels/test.tsv has semicolons between its cells, not tabs: write it anew, or name its columns" in err


def test_rows_that_are_rejected_for_what_they_say_have_no_hint(beir, capsys):
    home = beir({**TEXTS, "x": "IMG_0001.jpg"}, train="ab", test="cd")
    assert main(["validate", str(home)]) == 1
    assert "hint" not in capsys.readouterr().err
