"""A small BEIR folder."""

import pytest

from tests.workflows.checks.corpora import lines


@pytest.fixture
def beir(tmp_path):
    """Writes a small BEIR folder: rows of candidates, and queries of splits."""

    def write(candidates, **queries):
        home = tmp_path / "beir"
        lines(home / "corpus.jsonl", [{"_id": name, "text": text} for name, text in candidates.items()])
        lines(
            home / "queries.jsonl",
            [{"_id": f"q-{split}-{answer}", "text": f"who is {answer} of {split} ?"} for split in queries for answer in queries[split]],
        )
        for split, answers in queries.items():
            rows = ["query-id\tcorpus-id\tscore", *(f"q-{split}-{answer}\t{answer}\t1" for answer in answers)]
            (home / "qrels").mkdir(exist_ok=True)
            (home / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
        return home

    return write
