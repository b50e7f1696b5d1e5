"""An adopted model goes the whole way of a retriever through the real stages: mined with, trained, measured, released, exported."""

import pytest

from mirepoix.components.publishing.export import export
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.serving.release import open_release
from mirepoix.serving.store import local_path
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.execute import execute
from tests.models.adopted.test_adopted import PICTURES, TEXTS
from tests.models.adopted.written import by_library, transformer, write

pytestmark = pytest.mark.soak
BRIEF = (
    "backbone.encoder=AdoptedConfig",
    "backbone.encoder.several=sum",
    "adapt=null",
    "mine=MineConfig",
    "instruct.negatives=2",
    "instruct.tuning.towers=text,vision",
    "instruct.loss.temperature=null",
    "instruct.max_steps=30",
    "instruct.logging_steps=5",
    "instruct.global_batch_size=24",
    "sources.world.entities=60",
    "sources.world.train_queries=100",
    "sources.world.evaluation_queries=20",
    "evaluate.draws=50",
)


def test_an_adopted_model_is_mined_with_trained_measured_released_and_exported(ray_cluster, tmp_path):
    words = ["a small red circle on snow", "two large blue stars at night"] * 40
    clip = make_twin(tmp_path / "clip", "clip", words, Tiny(hidden_size=64, intermediate_size=128, layers=1, vision_width=32), seed=0)
    folder = write(tmp_path / "written", transformer(clip["model"].name), prompts={"query": "a picture of "})
    config = resolve("quickstart", [f"backbone.name={folder}", *BRIEF])
    report = execute(config.stages(), str(tmp_path / "storage"), until="release")
    assert report.ok, {name: stage.error for name, stage in report.stages.items() if stage.status == "failed"}
    assert {"mine", "instruct", "embed", "release"} <= set(report.stages)
    assert report.stages["instruct"].metrics["temperature"] == pytest.approx(0.07, rel=1e-2)  # CLIP's initial scale, learnt on from
    assert report.stages["instruct"].metrics["loss"] < 2.6
    release = open_release(local_path(report.stages["release"].target))
    encoder = release.open_encoder()
    exported = export(release, tmp_path / "exported", "sentence-transformers", report=lambda line: None)
    items = [TEXTS[0], PICTURES[0]]
    assert (by_library(exported, items) - encoder.encode(items).rows_NTD[:, 0]).abs().max() < 1e-5
