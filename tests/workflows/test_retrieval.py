"""The DAG: what hangs on what, and that a change of code which decides a result does not go unnoticed."""

import json
from dataclasses import replace

import pytest

from mirepoix.models.encoder import ARCHITECTURES
from mirepoix.workflows.fingerprint import ingredients, key_of
from mirepoix.workflows.recipes import RECIPES, recipe
from mirepoix.workflows.retrieval import prepared, stages

STAGES = {stage.name: stage for stage in stages(recipe("quickstart"))}


@pytest.mark.parametrize(
    ("name", "consists_of", "does_not"),
    [
        ("sources", "components.drawing components.entities components.corpus models.item", "components.curate models.encoder"),
        ("curate", "serving.pictures components.corpus", "components.world models.encoder"),
        ("pairs", "components.instructions components.batches", "components.world components.train"),
        (
            "adapt",
            "models.loss models.unite models.backbone components.zero components.batches components.job",
            "components.world serving.index",
        ),
        ("embed", "models.unite models.encoder models.vectors components.embeddings", "models.loss components.train serving.index"),
        ("index", "serving.index components.embeddings", "models.unite components.embed"),
        ("evaluate", "serving.index components.metrics", "models.unite components.train"),
        ("release", "serving.release serving.index models.unite components.instructions", "components.train serving.app"),
        ("deploy", "serving.app serving.api serving.schemas serving.replicas", "components.train"),
    ],
)
def test_a_stage_is_made_anew_when_a_module_changes_that_decides_its_result_and_by_no_other(name, consists_of, does_not):
    parts = set(STAGES[name].modules)
    assert {f"mirepoix.{part}" for part in consists_of.split()} <= parts
    assert not {f"mirepoix.{part}" for part in does_not.split()} & parts


def test_every_retriever_is_in_the_key_of_what_encodes():
    for module, _ in ARCHITECTURES.values():
        for name in ("backbone", "adapt", "instruct", "embed", "release"):
            assert module in STAGES[name].modules


def test_every_input_is_a_stage_that_comes_before():
    seen = set()
    for name, stage in STAGES.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(name)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_makes_the_same_stages(name):
    config = recipe(name)
    if name == "quickstart":
        assert [stage.name for stage in stages(config)] == list(STAGES)
    assert config.adapt.modality_mask is False
    assert config.instruct.modality_mask is True


def test_the_seed_is_in_every_key():
    one, other = (stages(replace(recipe("quickstart"), seed=seed)) for seed in (0, 1))
    for before, after in zip(one, other, strict=True):
        assert key_of(ingredients(before, {})) != key_of(ingredients(after, {}))


def test_the_content_of_a_deepspeed_file_is_in_the_key(tmp_path):
    file = tmp_path / "zero.json"
    config = recipe("quickstart")
    config = replace(config, adapt=replace(config.adapt, deepspeed=str(file)))
    digests = []
    for stage in (1, 2):
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        digests.append(prepared(config).adapt.deepspeed_digest)
    assert digests[0] != digests[1]
    assert prepared(config).instruct.deepspeed_digest is None
