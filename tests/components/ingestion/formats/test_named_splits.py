"""Formats that have the splits of their queries in the names of files say which ones there are before a file is read."""

import pytest

from mirepoix.components.ingestion.readers import open_sources

BEIR = {
    "corpus.jsonl": '{"_id": "a", "text": "x"}\n',
    "queries.jsonl": "",
    "qrels/train.tsv": "",
    "qrels/dev.tsv": "",
    "qrels/hard.tsv": "",
}
MBEIR = {"cand_pool/local/a.jsonl": "", "query/train/a.jsonl": "", "query/union_test/b.jsonl": "", "qrels/val/a.txt": ""}
LINE = '{"sentence": "x", "label": "true", "identifier": "10-0"}\n'
NLVR = {"train/train.json": LINE, "dev/dev.json": LINE, "hidden/hidden.json": LINE}


WEBQA = {"all_docs.json": "", "train.json": "", "dev.json": "", "test_qrels.txt": ""}


@pytest.mark.parametrize(
    ("form", "files", "expected"),
    [
        ("beir", BEIR, {"train", "validation", "hard"}),
        ("mbeir", MBEIR, {"train", "test"}),
        ("nlvr", NLVR, {"train", "validation"}),
        ("folder", {"a.png": ""}, None),
        ("webqa", WEBQA, {"train", "validation"}),
    ],
)
def test_the_splits_that_there_are_are_known_from_the_listing(form, files, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (source,) = open_sources([f"{form}+{tmp_path}"])
    assert source.named_splits == expected
    (renamed,) = open_sources([f"a={form}+{tmp_path}"], splits=("train=mine", "a:train=yours", "b:train=theirs"))
    assert renamed.named_splits == (expected and {"yours" if split == "train" else split for split in expected})
