"""Adding is measured beside embedding all, and too much of it is reported."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from mirepoix.models.backbones.twin_config import Tiny

BENCH = Path(__file__).resolve().parents[2] / "bench" / "add.py"


@pytest.fixture
def add(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("add", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_has_the_sizes_of_clip_vit_b_32(add):
    sizes = Tiny(**add.BASE)
    assert (sizes.side, sizes.vision_width, sizes.vision_depth, sizes.hidden_size) == (224, 768, 12, 512)


@pytest.mark.parametrize(
    ("adding", "encoded", "checked", "status"), [(24.9, 2, True, 0), (25.1, 2, True, 1), (24.9, 3, True, 1), (99.0, 2, False, 0)]
)
def test_work_is_what_a_command_takes_beyond_one_picture_and_too_much_of_it_is_reported(
    adding, encoded, checked, status, add, monkeypatch, capsys, tmp_path
):
    """Embedding 200 takes 100 seconds here, of which adding 2 may take 5; a command over one picture takes 20."""
    metrics = {"embed": {"encoded": encoded}, "index": {"items": 202}}
    stages = [{"name": name, "metrics": numbers} for name, numbers in metrics.items()]
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}))
    asked = []

    def command(home: Path, *words: object) -> tuple[float, Path]:
        asked.append(" ".join(str(word).replace(str(home), "HOME") for word in words))
        many = "HOME/all" in asked[-1] or "HOME/new" in asked[-1]
        return (adding if "HOME/new" in asked[-1] else 120.0 if many else 20.0), tmp_path

    monkeypatch.setattr(add, "command", command)
    monkeypatch.setattr(add, "model", lambda home: home / "clip")
    monkeypatch.setattr(add, "picture", lambda number: b"x")
    assert add.main(["--pictures", "200", *["--check"] * checked]) == status
    run = "run search sources.path=HOME/all backbone.name=HOME/clip --until"
    assert asked[4:8] == [f"{run} {stage}" for stage in ("pairs", "backbone", "embed", "release")]
    assert asked[8:] == [f"add {tmp_path} HOME/another", f"add {tmp_path} HOME/new"]
    shown = capsys.readouterr()
    assert f"| adding 2 | 20.0 | {adding:.1f} | {adding - 20:.1f} ({(adding - 20):.1f}%) |" in shown.out
    assert ("an addition takes more than 5% of embedding all" in shown.err) == (adding > 25 or encoded > 2)


def test_a_command_that_fails_ends_the_measurement_with_the_end_of_its_output(add, tmp_path, monkeypatch):
    class Cost:
        cpu, status = 1.0, 2

    def fail(command: list[str]) -> Cost:
        Path(command[4]).write_text("it failed")
        return Cost()

    monkeypatch.setattr(add, "measure", fail)
    with pytest.raises(SystemExit, match=r"(?s)`mirepoix add x y` ended with 2:\nit failed"):
        add.command(tmp_path, "add", "x", "y")
