"""What a search over pictures is measured on is what it is said to be, and work above its limit is reported."""

import importlib.util
import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from mirepoix.workflows.__main__ import main

BENCH = Path(__file__).resolve().parents[2] / "bench" / "search.py"


class Cost:
    def __init__(self, cpu: float = 1.0, status: int = 0):
        self.cpu, self.status = cpu, status


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("search", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_jpegs_of_640_x_480_and_each_is_another(search):
    first, second = search.picture(0), search.picture(1)
    opened = Image.open(io.BytesIO(first))
    assert (opened.format, opened.size) == ("JPEG", (640, 480))
    assert first == search.picture(0) != second
    assert 20_000 < len(first) < 200_000, "neither flat nor pure noise"


def test_the_command_that_is_measured_is_a_search_without_a_training(search, tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "00000.jpg").write_bytes(search.picture(0))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    given = []
    monkeypatch.setattr(search, "measure", lambda command: given.append(command) or Cost(3.5))
    assert search.searched(tmp_path, tmp_path / "clip", tmp_path / "corpus") == 3.5
    words = given[0][given[0].index("mirepoix.workflows") + 1 :]
    assert main([*words, "--plan"]) == 0
    stages = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert stages == ["sources", "curate", "check", "floors", "pairs", "backbone", "embed", "index", "evaluate", "release", "deploy"]


def test_a_run_that_fails_ends_the_measurement_with_the_end_of_its_output(search, tmp_path, monkeypatch):
    def fail(command: list[str]) -> Cost:
        Path(command[4]).write_text("it failed")
        return Cost(status=2)

    monkeypatch.setattr(search, "measure", fail)
    with pytest.raises(SystemExit, match=r"(?s)run search sources\.path=.* ended with 2:\nit failed"):
        search.searched(tmp_path, tmp_path / "clip", tmp_path / "corpus")


@pytest.mark.parametrize(("many", "checked", "status"), [(29.0, True, 0), (31.0, True, 1), (31.0, False, 0)])
def test_work_is_what_all_pictures_take_beyond_one_and_too_much_of_it_is_reported(many, checked, status, search, monkeypatch, capsys):
    """At most 20 CPU seconds are promised; a run over one picture takes 10 here."""
    counted = []

    def searched(home: Path, model: Path, corpus: Path) -> float:
        counted.append(len(list(corpus.glob("*.jpg"))))
        return 10.0 if counted[-1] == 1 else many

    monkeypatch.setattr(search, "searched", searched)
    monkeypatch.setattr(search, "models", lambda home: {"plain": home})
    monkeypatch.setattr(search, "measure", lambda command: Cost(1.7))
    assert search.main(["--pictures", "2", "--repeats", "1", *["--check"] * checked]) == status
    shown = capsys.readouterr()
    assert counted == [1, 2]
    assert f"| plain | 10.0 | {many:.1f} | {many - 10:.1f} ({many - 10:.1f} to {many - 10:.1f}) |" in shown.out
    assert "| torch | 1.7 |" in shown.out and ("more than 20 CPU seconds" in shown.err) == (many > 30)
