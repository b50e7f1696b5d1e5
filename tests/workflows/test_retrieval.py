"""The DAG: what hangs on what, and that a change of code which decides a result does not go unnoticed."""

import json
from dataclasses import replace

import pytest

from mirepoix.components.entities import SPLITS
from mirepoix.models.encoder import ARCHITECTURES
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.fingerprint import ingredients, key_of
from mirepoix.workflows.recipes import RECIPES, recipe
from mirepoix.workflows.retrieval import named_files, prepared, stages
from mirepoix.workflows.run import settled

STAGES = {stage.name: stage for stage in stages(recipe("quickstart"))}


@pytest.mark.parametrize(
    ("name", "consists_of", "does_not"),
    [
        (
            "sources",
            "components.drawing components.entities components.corpus components.formats.beir components.formats.place models.item",
            "components.curate models.encoder",
        ),
        ("curate", "serving.pictures components.corpus components.duplicates components.texts", "components.world models.encoder"),
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


def test_what_the_config_asks_for_beside_stands_in_its_place():
    chosen = settled("quickstart", ["passages.kind=vid2r", "mine=MineConfig", "mine.last=50"])
    more = {stage.name: stage for stage in stages(chosen)}
    assert set(more) - set(STAGES) == {"passages", "embed-adapted", "index-adapted", "mine"}
    assert more["pairs"].inputs == {"curate": "curate", "passages": "passages"}
    assert more["mine"].inputs == {"pairs": "pairs", "curate": "curate", "encoder": "adapt", "index": "index-adapted"}
    assert more["instruct"].inputs == {"pairs": "mine", "encoder": "adapt"}
    assert {f"mirepoix.{name}" for name in ("components.negatives", "serving.index", "models.unite")} <= set(more["mine"].modules)


def test_a_release_that_negatives_are_mined_with_is_in_the_key_and_must_be_there(tmp_path):
    with pytest.raises(Refused, match=r"mine.release is .*no release was published there"):
        stages(settled("quickstart", ["mine=MineConfig", f"mine.release={tmp_path}"]))
    digests = []
    for content in ("one", "two"):
        publish(written(tmp_path / f"draft-{content}", content), tmp_path / "release", {}, replace=True)
        config = settled("quickstart", ["mine=MineConfig", f"mine.release={tmp_path}/release"])
        digests.append(prepared(config).mine.fingerprint)
    assert digests[0] != digests[1]
    assert [stage.name for stage in stages(config) if "adapted" in stage.name] == []


def written(folder, content):
    folder.mkdir()
    (folder / "file").write_text(content)
    return folder


def test_a_recipe_of_real_data_asks_for_its_folder():
    with pytest.raises(Refused, match=r"sources\.path is not given; give the folder or URI of a corpus in the format nlvr"):
        stages(recipe("nlvr"))


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


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("backbone.retriever=jfe", ("backbone", "'jfe'", "unite")),
        ("adapt.tuning.towers=langage", ("adapt.tuning.towers langage", "language, vision")),
        ("instruct.tuning.towers=language,sound", ("instruct.tuning.towers sound", "language, vision")),
        ("instruct.tuning.towers=[]", ("instruct.tuning.towers ()", "language, vision")),
        ("evaluate.split=test", ("evaluate.split is 'test'", "validation, test_entity, test_combination")),
        ("evaluate.split=train", ("evaluate.split is 'train'", "validation, test_entity, test_combination")),
        ("sources.world.held_out_combinations=0", ("evaluate.split is 'test_combination'", "validation, test_entity")),
        ("sources.path=s3://name:hidden@bucket/corpus", ("sources", "AWS_ACCESS_KEY_ID")),
    ],
)
def test_what_is_wrong_by_itself_is_refused_when_the_config_is_made(setting, words):
    with pytest.raises(Refused) as refusal:
        settled("quickstart", [setting])
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "hidden" not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_split_that_the_world_keeps_from_training_can_be_the_headline(split):
    assert settled("quickstart", [f"evaluate.split={split}"]).evaluate.split == split


def test_the_splits_of_a_corpus_of_the_users_are_not_known_before_it_is_read():
    assert settled("quickstart", ["sources.path=/mine", "evaluate.split=dev"]).evaluate.split == "dev"


def test_the_files_that_a_config_names_are_known_by_their_fields(tmp_path):
    assert named_files(recipe("quickstart")) == {}
    (tmp_path / "zero.json").write_text("{}")
    assert named_files(settled("quickstart", [f"adapt.deepspeed={tmp_path}/zero.json"])) == {"adapt.deepspeed": tmp_path / "zero.json"}
    with pytest.raises(Refused, match=r"deepspeed settings missing\.json cannot be read"):
        named_files(settled("quickstart", ["instruct.deepspeed=missing.json"]))
