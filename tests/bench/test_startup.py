"""What the start of commands is measured on is what it is said to be."""

import importlib.util
from pathlib import Path

import pytest

from mirepoix.workflows.__main__ import main

BENCH = Path(__file__).resolve().parents[2] / "bench" / "startup.py"


@pytest.fixture(scope="module")
def startup():
    spec = importlib.util.spec_from_file_location("startup", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_corpus_that_is_validated_has_fifty_files_and_nothing_to_reject(startup, tmp_path, capsys):
    folder = startup.corpus_of_fifty(tmp_path / "corpus")
    assert len(list(folder.iterdir())) == 50
    assert main(["validate", str(folder)]) == 0
    assert "nothing would be rejected" in capsys.readouterr().out


def test_a_figure_above_its_limit_is_reported(startup):
    figures = {name: {"ratio": {"median": 2.0}, "seconds": {"median": 1.0}} for name in (*startup.PROMISED, "validate")}
    figures |= {f"plan, {name}": {"seconds": {"median": spent}} for name, spent in (("checked", 1.9), ("unchecked", 1.0))}
    assert startup.missed({"commands": figures, "stages": {"seconds": 14.0}}) == []
    figures["list"]["ratio"]["median"], figures["validate"]["seconds"]["median"] = 3.0, 4.0
    figures["plan, checked"]["seconds"]["median"] = 2.1
    lines = startup.missed({"commands": figures, "stages": {"seconds": 16.0}})
    assert [line.split()[0] for line in lines] == ["list", "validate", "checks", "the"]
