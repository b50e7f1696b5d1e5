"""A command run in this process; a small BEIR folder; a Ray head that takes jobs, one for all tests that need a cluster beside theirs."""

import os
from pathlib import Path

import pytest

from mirepoix.workflows.__main__ import main
from tests.workflows.cluster.ray_heads import head
from tests.workflows.corpora import lines


@pytest.fixture
def cli(capsys):
    """Runs a command in this process; returns its status, its output, and its one line of refusal."""

    def run(*words):
        status = main(list(words))
        out, err = capsys.readouterr()
        return status, out, err

    return run


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


@pytest.fixture(scope="session")
def job_head(ray_cluster):
    """A head with a job server, under the token that this process has for its own cluster."""
    with head(token=Path(os.environ["RAY_AUTH_TOKEN_PATH"]), num_cpus=6) as up:
        yield up
