"""Commands that run no stage answer without importing the heavy libraries."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.workflows.recipes.small_quickstart import ROOT, environment

HEAVY = ("torch", "transformers", "ray", "fastapi", "faiss", "mlflow", "deepspeed")
MAIN = """
    import json, sys
    from mirepoix.workflows.__main__ import main
    status = main(sys.argv[2:])
    print(json.dumps([status, [name for name in json.loads(sys.argv[1]) if name in sys.modules]]))
"""


def imported(arguments: list[str], folder: Path) -> tuple[int, list[str]]:
    """The exit status of a command that runs in a new interpreter, and the heavy libraries that it imported."""
    command = [sys.executable, "-c", textwrap.dedent(MAIN), json.dumps(HEAVY), *arguments]
    variables = environment() | {"XDG_CACHE_HOME": str(folder / "cache"), "MIREPOIX_STORAGE": str(folder / "storage")}
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    status, names = json.loads(ended.stdout.splitlines()[-1])
    return status, names


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["list"], 0),
        (["describe", "quickstart"], 0),
        (["describe", "quickstart_all"], 0),
        (["describe", "quickstrat"], 2),
        (["describe", "quickstart", "instruct.max_step=3"], 2),
        (["describe", "quickstart", "instruct.max_steps=many"], 2),
        (["run", "quickstrat"], 2),
        (["run", "quickstart", "instruct.max_step=3"], 2),
        (["run", "quickstart", "--until", "adopt"], 2),
        (["demo", "quickstart", "instruct.max_steps=many"], 2),
        (["submit", "quickstrat", "--address", "http://127.0.0.1:9"], 2),
        (["submit", "quickstart", "instruct.max_step=3", "--address", "http://127.0.0.1:9"], 2),
        (["serve", "/nowhere"], 2),
        (["export", "/nowhere", "/tmp/out", "--to", "hf"], 2),
        (["validate", "/nowhere"], 2),
        (["measure", "/nowhere", "/nowhere"], 2),
        (["run", "quickstart", "--plan"], 0),
        (["run", "quickstart_all", "--plan"], 0),
        (["run", "search", "--plan"], 2),  # its model is not here, and HF_HUB_OFFLINE is set
        (["release", "/nowhere", "--corpus", "/nowhere"], 2),
        (["runs"], 0),
        (["releases"], 0),
        (["releases", "promote", "latest"], 2),
        (["releases", "rollback"], 2),
        (["serve", "@champion"], 2),
        (["show", "latest"], 2),
        (["try", "latest"], 2),
        (["gc"], 2),
        (["mlflow"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_command_that_runs_no_stage_imports_no_heavy_library(arguments, status, tmp_path):
    assert imported(arguments, tmp_path) == (status, [])


@pytest.fixture
def corpus(tmp_path):
    """A small BEIR folder of which no row is rejected."""
    home = tmp_path / "corpus"
    (home / "qrels").mkdir(parents=True)
    texts = ["The lighthouse keeper counts ships.", "Rain falls on the harbour.", "An old clock strikes.", "Bread is baked."]
    lines = {
        "corpus.jsonl": [json.dumps({"_id": f"c{number}", "text": text}) for number, text in enumerate(texts)],
        "queries.jsonl": [json.dumps({"_id": f"q{number}", "text": f"which sentence is number {number} ?"}) for number in range(4)],
        "qrels/train.tsv": ["query-id\tcorpus-id\tscore", *(f"q{number}\tc{number}\t1" for number in range(4))],
    }
    for name, rows in lines.items():
        (home / name).write_text("\n".join(rows) + "\n")
    return home


def test_a_small_corpus_is_validated_without_a_heavy_library(corpus, tmp_path):
    assert imported(["validate", str(corpus)], tmp_path) == (0, [])


def test_a_folder_is_looked_at_without_a_heavy_library(corpus, tmp_path):
    assert imported(["init", str(corpus), "--output", str(tmp_path / "mine.yaml")], tmp_path) == (0, [])


def test_a_small_corpus_is_converted_without_a_heavy_library(corpus, tmp_path):
    assert imported(["convert", str(corpus), str(tmp_path / "out"), "--to", "flagembedding"], tmp_path) == (0, [])


def test_a_heavy_library_is_found(tmp_path):
    """A server that is submitted to is asked through Ray's own client."""
    assert "ray" in imported(["submit", "quickstart", "--address", "http://127.0.0.1:9"], tmp_path)[1]
