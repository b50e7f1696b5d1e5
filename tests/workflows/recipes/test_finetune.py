"""A published model is trained on a folder's captions, and measured before and after on captions that it was not trained on."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from mirepoix.models.backbones.twins import make_twin
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.recipes.registry import recipe
from tests.components.fixtures import SIZES

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
BRIEF = ("instruct.max_steps=2", "instruct.global_batch_size=8", "evaluate.draws=10", "embed.threads=1")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Pictures of two rectangles with a caption each, and a tiny random CLIP."""
    home = tmp_path_factory.mktemp("finetune")
    (home / "pictures").mkdir()
    lines = ["file,caption"]
    for one in COLOURS:
        for other in COLOURS:
            if one != other:
                picture = Image.new("RGB", (40, 24), one)
                ImageDraw.Draw(picture).rectangle((20, 0, 39, 23), fill=other)
                picture.save(home / "pictures" / f"{one}-{other}.png")
                lines.append(f"{one}-{other}.png,{one} on the left and {other} on the right")
    (home / "pictures" / "captions.csv").write_text("\n".join(lines))
    make_twin(home / "clip", "clip", lines, SIZES, seed=0)
    return home


@pytest.mark.soak
def test_a_model_is_measured_before_and_after_on_what_was_held_out(ray_cluster, home, capsys):
    words = ["run", "finetune", f"sources.path={home / 'pictures'}", f"backbone.name={home / 'clip'}", *BRIEF]
    status = main([*words, "--local", "--until", "evaluate", "--storage", str(home / "storage")])
    out, err = capsys.readouterr()
    assert status == 0, err
    folder = Path(next(line.split()[-1] for line in out.splitlines() if line.startswith("report "))).parent
    report = json.loads((folder / "report.json").read_text())
    assert report["headline"]["split"] == "held_out"
    assert {entry["system"] for entry in report["results"]} == {"trained", "untrained"}
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert stages["curate"]["metrics"]["held_out"] == 6, "a tenth of 60 queries: three pictures and their captions"
    assert stages["instruct"]["status"] == "done" and stages["instruct"]["metrics"]["temperature"] == pytest.approx(0.07, rel=0.01)


def test_a_tenth_of_the_queries_is_held_out_and_the_others_are_trained_on(ray_cluster, home, tmp_path, capsys):
    words = ["run", "finetune", f"sources.path={home / 'pictures'}", f"backbone.name={home / 'clip'}", *BRIEF]
    assert main([*words, "--local", "--until", "pairs", "--storage", str(tmp_path)]) == 0, capsys.readouterr().err
    (report,) = tmp_path.glob("runs/*/report.json")
    stages = {stage["name"]: stage for stage in json.loads(report.read_text())["stages"]}
    assert stages["curate"]["metrics"]["held_out"] == 6, "three pictures and their captions"
    assert stages["pairs"]["metrics"]["instruct_pairs"] == 54


def test_the_recipe_trains_adapters_alone_and_keeps_what_a_user_wants_to_find():
    config = recipe("finetune")
    assert list(config.trainings) == ["instruct"]
    training = config.trainings["instruct"]
    assert (training.learning_rate, training.global_batch_size, training.max_steps) == (2e-4, 32, 300)
    assert training.tuning.towers == ("text", "vision") and training.tuning.lora.alpha / training.tuning.lora.rank == 0.5
    assert (config.curate.near_duplicates, config.curate.leakage, config.curate.held_out) == ("keep", "all", 0.1)
    assert config.curate.max_rejected == 1 and config.deploy.port == 0
