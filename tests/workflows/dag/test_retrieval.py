"""The DAG: what hangs on what, and that a change of code which decides a result does not go unnoticed."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from mirepoix.components.synthetic.world_config import SPLITS
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.runner.fingerprint import ingredients, key_of, library_version
from mirepoix.workflows.runner.source_code import Source, SourceFiles

STAGES = {stage.name: stage for stage in recipe("quickstart").stages()}


@pytest.mark.parametrize(
    ("name", "consists_of", "does_not"),
    [
        (
            "sources",
            "components.synthetic.drawing components.synthetic.entities components.corpus.parts "
            "components.ingestion.formats.beir components.ingestion.formats.source_files models.item",
            "components.curation.curate components.curation.curate_config models.encoder",
        ),
        (
            "curate",
            "serving.pictures components.corpus.parts components.curation.near_duplicates components.corpus.text",
            "components.synthetic.world components.pairs.pairs_config models.encoder",
        ),
        (
            "pairs",
            "components.pairs.instructions components.pairs.store components.pairs.pairs_config",
            "components.synthetic.world components.curation.curate_config components.pairs.mine_config components.training.train",
        ),
        (
            "adapt",
            "models.losses.contrastive models.retrievers.unite models.backbones.checkpoints "
            "components.training.engine.deepspeed_engine components.pairs.store components.training.job",
            "components.synthetic.world components.embedding.embed_config components.evaluation.evaluate_config serving.search.dense",
        ),
        (
            "embed",
            "models.retrievers.unite models.encoder models.vectors components.embedding.vectors",
            "models.losses.contrastive components.training.train components.training.train_config serving.search.index_config",
        ),
        ("index", "serving.search.dense components.embedding.vectors", "models.retrievers.unite components.embedding.embed"),
        (
            "evaluate",
            "serving.search.dense components.evaluation.scoring.metrics components.evaluation.boards.mbeir",
            "models.retrievers.unite components.training.train_config components.embedding.embed_config components.evaluation.floors "
            "components.evaluation.reports.report components.evaluation.files.results",
        ),
        (
            "floors",
            "serving.search.bm25 serving.search.dense components.evaluation.scoring.metrics components.evaluation.scoring.chance",
            "models.encoder components.embedding.vectors components.evaluation.evaluate components.evaluation.gallery",
        ),
        (
            "release",
            "serving.release serving.search.dense models.retrievers.unite components.pairs.instructions",
            "components.training.train_config components.embedding.embed_config serving.serve_config",
        ),
        ("deploy", "serving.ray_serve.app serving.http.api serving.http.schemas serving.ray_serve.replicas", "components.training.train"),
    ],
)
def test_a_stage_is_made_anew_when_a_module_changes_that_decides_its_result_and_by_no_other(name, consists_of, does_not):
    parts = set(ingredients(STAGES[name], {})["source"])
    assert {f"mirepoix.{part}" for part in consists_of.split()} <= parts
    assert not {f"mirepoix.{part}" for part in does_not.split()} & parts


@pytest.mark.parametrize("retriever", sorted(set(ARCHITECTURES) - {"adopted"}))
def test_a_retriever_is_in_the_key_of_what_its_own_encoder_is_opened_by_and_in_no_others(retriever):
    modules = {config_class(name).ENCODER.partition(":")[0] for name in ARCHITECTURES}
    arm = f"arms.{retriever}"
    own = [stage for stage in resolve("quickstart_all", [f"only={retriever}", f"{arm}.mine=MineConfig"]).stages() if stage.arm]
    opened = {stage.step: modules & set(ingredients(stage, {})["source"]) for stage in own}
    for step in ("instruct", "embed", "release", "mine"):
        assert opened[step] == {config_class(retriever).ENCODER.partition(":")[0]}, step
    assert not opened["evaluate"] | opened["index"]


def test_what_opens_any_release_has_all_retrievers_in_its_key(tmp_path):
    publish(written(tmp_path / "draft", "x"), tmp_path / "release", {})
    mined = {stage.name: stage for stage in resolve("quickstart", ["mine=MineConfig", f"mine.release={tmp_path}/release"]).stages()}
    for name in ("mine", "deploy"):
        assert {config_class(each).ENCODER.partition(":")[0] for each in ARCHITECTURES} <= set(ingredients(mined[name], {})["source"])


ADOPTING = {"sentence-transformers", "peft"}
TRAINED = {"adapt", "instruct"}


def test_the_libraries_of_adopted_models_are_in_the_key_of_what_encodes_with_one_and_of_nothing_else(tmp_path):
    """Where one of them is not installed its version is "absent", so that installing it makes these stages anew."""

    def versions(*settings):
        return {stage.name: ingredients(stage, {})["libraries"] for stage in resolve("quickstart", settings).stages()}

    adopted = versions("backbone.encoder=AdoptedConfig", "instruct.tuning.towers=text", "adapt.tuning.towers=text", "mine=MineConfig")
    encoding = {"backbone", "embed", "embed-untrained", "embed-adapted", "mine", *TRAINED}
    assert {name for name, found in adopted.items() if found.keys() >= ADOPTING} == encoding
    assert all(adopted["embed"][name] == library_version(name) for name in ADOPTING) and library_version("no-such") == "absent"
    assert not any(ADOPTING & found.keys() for name, found in adopted.items() if name not in encoding)
    plain = versions("mine=MineConfig")
    assert {name for name, found in plain.items() if ADOPTING & found.keys()} == TRAINED, "where adapters are trained, by PEFT"
    publish(written(tmp_path / "draft", "x"), tmp_path / "release", {})
    assert versions("mine=MineConfig", f"mine.release={tmp_path}/release")["mine"].keys() >= ADOPTING, "any release may be of one"


def test_vectors_are_reused_only_of_the_same_code_that_reads_items_as_queries_or_documents(monkeypatch):
    read, before = SourceFiles.read, STAGES["embed"].arguments["versions"]

    def changed(self, path):
        return Source("changed", ()) if path.parts[-2:] == ("embedding", "embed.py") else read(self, path)

    monkeypatch.setattr(SourceFiles, "read", changed)
    after = {stage.name: stage for stage in recipe("quickstart").stages()}["embed"].arguments["versions"]
    assert before and after and after != before


@pytest.mark.parametrize(
    ("file", "merged"), [("adapter_config.json", True), ("config.json", False), (None, True)], ids=["adapter", "model", "hub id"]
)
def test_the_library_that_merges_an_adapter_is_in_the_key_of_the_backbone_that_is_one(file, merged, tmp_path):
    name = "some/model" if file is None else str(tmp_path)
    if file is not None:
        (tmp_path / file).write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/model"}')
    stages = {stage.name: stage.libraries for stage in resolve("quickstart", [f"backbone.name={name}"]).stages()}
    assert ("peft" in stages["backbone"], "peft" in stages["embed"]) == (merged, False)


@pytest.mark.parametrize("name", ["quickstart", "nlvr", "unite"])
def test_unite_is_adapted_without_the_mask_and_instructed_with_it(name):
    config = recipe(name)
    assert config.adapt.loss.modality_mask is False
    assert config.instruct.loss.modality_mask is True


def test_trainings_are_driven_from_the_head_which_outlives_their_workers():
    assert {name for name, stage in STAGES.items() if stage.on_head} == {"adapt", "instruct", "deploy"}


def test_the_optional_stages_of_a_config_are_put_between_the_others():
    chosen = resolve("quickstart", ["passages.kind=vid2r", "mine=MineConfig", "mine.last=50"])
    more = {stage.name: stage for stage in chosen.stages()}
    assert set(more) - set(STAGES) == {"passages", "embed-adapted", "index-adapted", "mine"}
    assert more["pairs"].inputs == {"curate": "curate", "passages": "passages"}
    assert more["mine"].inputs == {"pairs": "pairs", "curate": "curate", "encoder": "adapt", "index": "index-adapted"}
    assert more["instruct"].inputs == {"pairs": "mine", "encoder": "adapt"}
    decided = ("components.pairs.hard_negatives", "serving.search.dense", "models.retrievers.unite")
    assert {f"mirepoix.{name}" for name in decided} <= set(ingredients(more["mine"], {})["source"])


def test_a_training_that_is_left_out_leaves_its_place_to_the_one_before_it():
    plain = {stage.name: stage for stage in resolve("quickstart", ["adapt=null"]).stages()}
    assert set(STAGES) - set(plain) == {"adapt"}
    assert plain["instruct"].inputs == {"pairs": "pairs", "encoder": "backbone"}
    assert (STAGES["pairs"].config.adapt_tasks, plain["pairs"].config.adapt_tasks) == ((), None), (
        "no pairs are made for the training that is left out"
    )
    assert plain["embed-untrained"].after == ("embed",), "a small machine holds one embedding at a time"
    mined = {stage.name: stage for stage in resolve("quickstart", ["adapt=null", "mine=MineConfig"]).stages()}
    assert set(mined) - set(plain) == {"mine"}, "the untrained encoder has an index already"
    assert mined["mine"].inputs == {"pairs": "pairs", "curate": "curate", "encoder": "backbone", "index": "index-untrained"}
    assert mined["embed-untrained"].after == (), "what the training waits for does not wait for it"


def test_whatever_reads_the_curated_corpus_waits_for_its_check_and_nothing_has_the_check_in_its_key():
    settings = ["passages.kind=vid2r", "mine=MineConfig", "refine=TrainConfig", "verbalise.kind=written", "verbalise.writer.model=m"]
    graph = {stage.name: stage for stage in resolve("quickstart", settings).stages()}
    reading = {name for name, stage in graph.items() if "curate" in stage.inputs.values()}
    assert {"backbone", "passages", "verbalise", "pairs"} <= reading
    assert {name for name, stage in graph.items() if stage.requires == ("check",)} >= reading - {"check"}
    assert {name for name, stage in graph.items() if not stage.requires} >= {"sources", "curate", "check"}
    assert not [name for name, stage in graph.items() if "check" in stage.inputs.values()]
    assert graph["check"].inputs == {"curate": "curate"}


def test_a_change_of_the_split_that_is_measured_makes_the_check_and_the_evaluation_anew_and_nothing_else():
    before, after = ({stage.name: stage for stage in resolve("quickstart", words).stages()} for words in ([], ["evaluate.split=null"]))
    changed = {name for name in before if key_of(ingredients(before[name], {})) != key_of(ingredients(after[name], {}))}
    assert changed == {"check", "evaluate"}


BARE_UNITE = ("arms.unite.adapt=null", "arms.unite.instruct=null")


@pytest.mark.parametrize(
    ("recipe", "settings", "expected"),
    [
        ("quickstart", [], (True, False, False, "test_combination", ["pairs"])),
        ("quickstart", ["passages.kind=vid2r"], (True, True, False, "test_combination", ["pairs"])),
        ("search", [], (False, False, True, None, ["pairs"])),
        ("quickstart_all", ["only=univldr"], (True, False, False, "test_combination", ["pairs"])),
        (
            "quickstart_all",
            ["only=univldr,unite", "arms.unite.adapt=null", "arms.unite.instruct=null"],
            (True, False, True, "test_combination", 0),
        ),
    ],
)
def test_a_corpus_is_asked_for_what_the_methods_of_the_run_take(recipe, settings, expected):
    asked = resolve(recipe, settings).corpus_check
    *rest, stages = expected
    assert [asked.trained, asked.passages, asked.untrained, asked.split] == rest
    assert asked.evaluated and (not stages or list(asked.pairs) == stages)


UNTRAINED = {"sources", "curate", "check", "floors", "pairs", "backbone", "embed", "index", "evaluate", "release", "deploy"}
BOTH = UNTRAINED | {"embed-untrained", "index-untrained"}


@pytest.mark.parametrize(
    ("given", "stages", "last", "made"),
    [
        ((), UNTRAINED, "backbone", (False, False)),
        (("adapt",), BOTH | {"adapt"}, "adapt", (True, False)),
        (("instruct",), BOTH | {"instruct"}, "instruct", (False, True)),
        (("refine",), BOTH | {"refine"}, "refine", (False, True)),
        (("adapt", "instruct"), BOTH | {"adapt", "instruct"}, "instruct", (True, True)),
        (("adapt", "refine"), BOTH | {"adapt", "refine"}, "refine", (True, True)),
        (("instruct", "refine"), BOTH | {"instruct", "refine"}, "refine", (False, True)),
        (("adapt", "instruct", "refine"), BOTH | {"adapt", "instruct", "refine"}, "refine", (True, True)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) and all(isinstance(each, str) for each in value) else "",
)
def test_each_of_the_trainings_may_be_left_out(given, stages, last, made):
    settings = [f"{name}={'TrainConfig' if name in given else 'null'}" for name in ("adapt", "instruct", "refine")]
    graph = {stage.name: stage for stage in resolve("quickstart", settings).stages()}
    assert set(graph) == stages
    assert graph["embed"].inputs["encoder"] == graph["release"].inputs["encoder"] == last
    config = graph["pairs"].config
    assert (config.adapt_tasks is not None, config.instruct_tasks is not None) == made, "pairs are made for trainings alone"
    before = "backbone"
    for name in given:
        assert graph[name].inputs == {"pairs": "pairs", "encoder": before}
        before = name


def test_without_a_training_there_is_one_encoder_to_embed_with_and_to_measure():
    graph = {stage.name: stage for stage in resolve("quickstart", ["adapt=null", "instruct=null"]).stages()}
    assert graph["embed"].inputs == {"encoder": "backbone", "curate": "curate", "pairs": "pairs"} and graph["embed"].after == ()
    assert graph["evaluate"].inputs == {"curate": "curate", "embed": "embed", "index": "index", "floors": "floors"}
    assert graph["release"].inputs == {"encoder": "backbone", "index": "index", "curate": "curate", "pairs": "pairs"}
    assert graph["deploy"].after == ("evaluate",)


def floors_of(*settings: str) -> Any:
    """The stage of the floors, and the key of what it consists of; None where there is none."""
    stages = {stage.name: stage for stage in resolve("quickstart", settings).stages()}
    assert ("floors" in stages) == ("floors" in stages["evaluate"].inputs)
    return (stages["floors"], key_of(ingredients(stages["floors"], {}))) if "floors" in stages else None


def test_floors_read_the_corpus_alone_and_are_left_out_where_none_is_named():
    stage, _ = floors_of()
    assert stage.inputs == {"curate": "curate"} and stage.requires == ("check",) and stage.config.trained
    assert not floors_of("adapt=null", "instruct=null")[0].config.trained
    assert floors_of("evaluate.floors=[]") is None


@pytest.mark.parametrize(
    ("settings", "anew"),
    [
        (["evaluate.measure=nDCG@10", "evaluate.pool=target", "evaluate.draws=10", "evaluate.mean=queries"], False),
        (["evaluate.split=test_entity", "adapt.learning_rate=0.1"], False),
        (["evaluate.measures=R@5,R@20"], True),
        (["evaluate.pools=target"], True),
        (["evaluate.floors=bm25"], True),
        (["evaluate.board=mbeir", "evaluate.measure=main", "evaluate.pool=null"], True),
        (["evaluate.ignore_same_id=true"], True),
        (["adapt=null", "instruct=null"], True),
    ],
    ids=lambda value: "".join(value[:1]) if isinstance(value, list) else "",
)
def test_floors_are_measured_anew_for_other_values_and_not_for_another_headline(settings, anew):
    assert (floors_of(*settings)[1] != floors_of()[1]) == anew


def test_a_third_training_that_is_the_only_one_mines_with_the_untrained_encoder_and_after_the_first_with_that():
    alone = ["instruct=null", "mine_refine=MineConfig", "refine=TrainConfig"]
    graph = {stage.name: stage for stage in resolve("quickstart", ["adapt=null", *alone]).stages()}
    assert set(graph) == BOTH | {"mine-refine", "refine"}
    assert graph["mine-refine"].inputs == {"pairs": "pairs", "curate": "curate", "encoder": "backbone", "index": "index-untrained"}
    assert graph["refine"].inputs == {"pairs": "mine-refine", "encoder": "backbone"}
    adapted = {stage.name: stage for stage in resolve("quickstart", alone).stages()}
    assert set(adapted) - set(graph) == {"adapt", "embed-adapted", "index-adapted"}
    assert adapted["mine-refine"].inputs == {"pairs": "pairs", "curate": "curate", "encoder": "adapt", "index": "index-adapted"}


def test_without_a_training_queries_of_every_split_may_be_the_headline():
    assert resolve("quickstart", ["adapt=null", "instruct=null", "evaluate.split=train"]).evaluate.split == "train"


def test_a_training_without_the_pairs_that_it_would_read_is_refused_before_anything_runs():
    with pytest.raises(Refused, match=r"pairs\.instruct_tasks is null, and instruct trains on these pairs.*instruct=null"):
        resolve("quickstart", ["pairs.instruct_tasks=null"]).stages()
    with pytest.raises(Refused, match=r"set instruct=null and refine=null"):
        resolve("quickstart", ["pairs.instruct_tasks=null", "refine=TrainConfig"]).stages()
    assert resolve("quickstart", ["pairs.instruct_tasks=null", "instruct=null"]).stages()
    with pytest.raises(Refused, match=r"pairs\.adapt_tasks is null, and adapt trains on these pairs.*adapt=null"):
        resolve("quickstart", ["pairs.adapt_tasks=null"]).stages()
    assert resolve("quickstart", ["pairs.adapt_tasks=null", "adapt=null"]).stages()
    assert resolve("quickstart", ["pairs.adapt_tasks=[]"]).pairs.adapt_tasks == ()


def test_a_third_training_takes_the_second_and_what_it_finds_hard():
    refined = {stage.name: stage for stage in resolve("quickstart", ["mine_refine=MineConfig", "refine=TrainConfig"]).stages()}
    assert set(refined) - set(STAGES) == {"embed-instructed", "index-instructed", "mine-refine", "refine"}
    assert refined["embed-instructed"].inputs == {"encoder": "instruct", "curate": "curate", "pairs": "pairs"}
    searched = {"encoder": "instruct", "index": "index-instructed"}
    assert refined["mine-refine"].inputs == {"pairs": "pairs", "curate": "curate", **searched}
    assert refined["refine"].inputs == {"pairs": "mine-refine", "encoder": "instruct"}
    for last in ("embed", "release"):
        assert refined[last].inputs["encoder"] == "refine"


def test_a_verbalised_corpus_is_what_the_third_training_reads_and_what_is_searched_and_not_what_is_mined_in():
    settings = ["verbalise.kind=written", "refine=TrainConfig", "mine_refine=MineConfig", "passages.kind=vid2r"]
    stages = {stage.name: stage for stage in resolve("quickstart", settings).stages()}
    assert stages["verbalise"].inputs == {"curate": "curate"}
    assert stages["pairs-verbalised"].inputs == {"curate": "verbalise", "passages": "passages"}
    assert stages["pairs-verbalised"].config == replace(stages["pairs"].config, adapt_tasks=None), "nothing is adapted to it"
    assert stages["embed-instructed"].inputs == {"encoder": "instruct", "curate": "curate", "pairs": "pairs"}
    searched = {"encoder": "instruct", "index": "index-instructed"}
    assert stages["mine-refine"].inputs == {"pairs": "pairs-verbalised", "curate": "verbalise", **searched}
    assert stages["refine"].inputs == {"pairs": "mine-refine", "encoder": "instruct"}
    assert {stages[name].inputs["curate"] for name in ("embed", "embed-untrained", "release")} == {"verbalise"}
    assert {stages[name].inputs["curate"] for name in ("backbone", "evaluate")} == {"curate"}
    unmined = {stage.name: stage for stage in resolve("quickstart", settings[:2]).stages()}
    assert unmined["refine"].inputs["pairs"] == "pairs-verbalised"
    early = {stage.name: stage for stage in resolve("quickstart", [*settings, "adapt=null", "mine=MineConfig"]).stages()}
    assert early["embed-untrained"].inputs["curate"] == "curate", "what is mined with is not embedded again"


@pytest.mark.parametrize(("mining", "read"), [([], "pairs"), (["mine=MineConfig"], "mine")])
def test_without_negatives_of_its_own_the_third_training_reads_what_the_second_read(mining, read):
    refined = {stage.name: stage for stage in resolve("quickstart", ["refine=TrainConfig", *mining]).stages()}
    assert refined["refine"].inputs == {"pairs": read, "encoder": "instruct"}


@pytest.mark.parametrize(
    "settings", [[], ["adapt=null", "mine=MineConfig"], ["mine=MineConfig", "mine_refine=MineConfig", "refine=TrainConfig"]]
)
def test_every_input_is_a_stage_that_comes_before(settings):
    seen = set()
    for stage in resolve("quickstart", ["passages.kind=vid2r", *settings]).stages():
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.name)


def test_a_release_that_negatives_are_mined_with_is_in_the_key_and_must_be_there(tmp_path):
    with pytest.raises(Refused, match=r"mine.release is .*there is no published release"):
        resolve("quickstart", ["mine=MineConfig", f"mine.release={tmp_path}"]).stages()
    digests = []
    for content in ("one", "two"):
        publish(written(tmp_path / f"draft-{content}", content), tmp_path / "release", {}, replace=True)
        config = resolve("quickstart", ["mine=MineConfig", f"mine.release={tmp_path}/release"])
        digests.append(called("mine", config).outside["release"])
    assert digests[0] != digests[1]
    assert [stage.name for stage in config.stages() if "adapted" in stage.name] == []


def called(name, config):
    """The stage of that name."""
    return next(stage for stage in config.stages() if stage.name == name)


def written(folder, content):
    folder.mkdir()
    (folder / "file").write_text(content)
    return folder


def test_a_recipe_of_real_data_asks_for_its_folder():
    with pytest.raises(Refused, match=r"sources\.path is not given; give the folder or URI of a corpus in the format nlvr"):
        recipe("nlvr").stages()


def test_the_seed_is_in_every_key():
    one, other = (replace(recipe("quickstart"), seed=seed).stages() for seed in (0, 1))
    for before, after in zip(one, other, strict=True):
        assert key_of(ingredients(before, {})) != key_of(ingredients(after, {}))


def test_the_content_of_a_deepspeed_file_is_in_the_key(tmp_path):
    file = tmp_path / "zero.json"
    config = recipe("quickstart")
    config = replace(config, adapt=replace(config.adapt, deepspeed=str(file)))
    digests = []
    for stage in (1, 2):
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        digests.append(called("adapt", config).outside["deepspeed settings"])
    assert digests[0] != digests[1]
    assert called("instruct", config).outside == {}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("backbone.encoder=Colbert", ("backbone.encoder='Colbert'", "UniteConfig", "MireConfig")),
        ("backbone.encoder=MireConfig", ("adapt.tuning: it is a Tuning", "MireTuning")),
        ("adapt.tuning.towers=langage", ("adapt.tuning: towers langage", "language, vision")),
        ("instruct.tuning.towers=language,sound", ("instruct.tuning: towers sound", "language, vision")),
        ("instruct.tuning.towers=[]", ("instruct.tuning: towers ()", "language, vision")),
        ("mine_refine=MineConfig", ("mine_refine is given, and there is no refine", "refine=TrainConfig")),
        ("verbalise.kind=written", ("verbalise.kind is written, and there is no refine", "refine=TrainConfig")),
        ("instruct=null mine=MineConfig", ("mine is given, and there is no instruct", "instruct=TrainConfig", "mine=null")),
        ("adapt=null instruct=null passages.kind=vid2r", ("passages.kind is vid2r, and there is no training", "passages.kind=none")),
        ("evaluate.split=test", ("evaluate.split is 'test'", "validation, test_entity, test_combination")),
        ("evaluate.split=train", ("evaluate.split is 'train'", "validation, test_entity, test_combination")),
        ("sources.world.held_out_combinations=0", ("evaluate.split is 'test_combination'", "validation, test_entity")),
        ("sources.path=s3://name:hidden@bucket/corpus", ("sources", "AWS_ACCESS_KEY_ID")),
    ],
)
def test_what_is_wrong_by_itself_is_refused_when_the_config_is_made(setting, words):
    with pytest.raises(Refused) as refusal:
        resolve("quickstart", setting.split())
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "hidden" not in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("recipe", "settings", "stage"),
    [
        ("marvel", "backbone.name=tiny backbone.vision=null", "adapt"),
        ("mimic", "backbone.name=tiny backbone.vision=null", "instruct"),
        ("quickstart", "adapt.loss.temperature=null", "adapt"),
        ("quickstart", "instruct.loss.temperature=null", "instruct"),
        ("unite", "adapt.loss.temperature=null adapt.loss.learned_temperature=true", "adapt"),
        ("quickstart_all", "arms.mire.adapt.loss.temperature=null", "adapt"),
    ],
)
def test_a_training_at_a_temperature_that_its_encoder_cannot_have_is_refused_when_the_config_is_made(recipe, settings, stage):
    words = ["sources.path=DIR"] * (not recipe.startswith("quickstart"))
    with pytest.raises(Refused, match=rf"{stage}\.loss\.temperature is null, .* has none; give .* {stage}\.loss\.temperature=0\.07$"):
        resolve(recipe, [*words, *settings.split()])


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("marvel", "backbone.name=tiny backbone.vision=null adapt.loss.temperature=0.07"),
        ("univldr", "backbone.name=tiny"),
        ("univldr", "backbone.name=tiny backbone.encoder=AdoptedConfig backbone.tiny.family=siglip"),
        ("quickstart", "adapt.loss.learned_temperature=true instruct.loss.temperature=null"),
        ("mimic", "backbone.vision=a-tower"),
    ],
)
def test_a_training_at_a_temperature_that_its_encoder_has_or_may_have_is_not_refused(recipe, settings):
    words = ["sources.path=DIR"] * (recipe != "quickstart")
    assert resolve(recipe, [*words, *settings.split()]).trainings


def test_the_temperature_of_a_saved_encoder_is_known_before_it_is_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    described = {"architecture": "unite", "config": {}, "temperature": 0.05, "widths": []}
    words = [f"backbone.name={tmp_path}", "adapt.loss.temperature=null"]
    (tmp_path / "mirepoix.json").write_text(json.dumps(described))
    assert resolve("quickstart", words).adapt.loss.temperature is None
    (tmp_path / "mirepoix.json").write_text(json.dumps(described | {"temperature": None}))
    with pytest.raises(Refused, match=rf"unite over {tmp_path} has none; give a number above 0"):
        resolve("quickstart", words)


@pytest.mark.parametrize("stage", ["adapt", "instruct", "refine"])
@pytest.mark.parametrize("mining", [[], ["mine=MineConfig", "mine_refine=MineConfig"]])
def test_a_training_that_has_neither_the_batch_nor_hard_negatives_to_contrast_is_refused(stage, mining):
    """Pairs may bring negatives of their own, so without mining it can be trained; with none of them taken it cannot."""
    given = ["refine=TrainConfig", *mining]
    alone = [*given, *(f"{stage}.loss.{field}=false" for field in ("in_batch", "symmetric", "modality_mask"))]
    assert resolve("quickstart", alone) and ((mining and stage != "adapt") or resolve("quickstart", [*given, f"{stage}.negatives=0"]))
    with pytest.raises(Refused, match=rf"{stage}\.negatives is 0 and {stage}\.loss\.in_batch is off.*{stage}\.loss\.in_batch=true"):
        resolve("quickstart", [*alone, f"{stage}.negatives=0"])


@pytest.mark.parametrize(("stage", "mining"), [("instruct", "mine"), ("refine", "mine_refine")])
def test_mining_for_a_training_that_reads_no_hard_negatives_is_refused(stage, mining):
    """Every published training of the first round says negatives=0."""
    with pytest.raises(Refused, match=rf"{stage}\.negatives is 0, so the negatives that are mined.*; give {stage}\.negatives=3"):
        given = ["refine=TrainConfig", "mine_refine=MineConfig", f"{mining}=MineConfig", f"{mining}.negatives=3"]
        resolve("quickstart", [*given, f"{stage}.negatives=0"])
    with pytest.raises(Refused, match=r"instruct\.negatives is 0"):
        resolve("mimic", ["mine=MineConfig"])
    given = ["refine=TrainConfig", "mine=MineConfig", "instruct.negatives=0"]
    stages = {stage.name: stage for stage in resolve("quickstart", given).stages()}
    assert stages["refine"].inputs["pairs"] == "mine", "the third training reads them"


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_split_that_the_world_keeps_from_training_can_be_the_headline(split):
    assert resolve("quickstart", [f"evaluate.split={split}"]).evaluate.split == split


def test_a_split_need_not_be_named():
    assert resolve("quickstart", ["evaluate.split=null"]).evaluate.split is None


def test_the_splits_of_a_corpus_of_the_users_are_not_known_before_it_is_read():
    assert resolve("quickstart", ["sources.path=/mine", "evaluate.split=dev"]).evaluate.split == "dev"


def test_the_files_that_a_config_names_are_known_by_their_fields(tmp_path):
    assert recipe("quickstart").named_files() == {}
    (tmp_path / "zero.json").write_text("{}")
    assert resolve("quickstart", [f"adapt.deepspeed={tmp_path}/zero.json"]).named_files() == {"adapt.deepspeed": tmp_path / "zero.json"}
    with pytest.raises(Refused, match=r"deepspeed settings missing\.json cannot be read"):
        resolve("quickstart", ["instruct.deepspeed=missing.json"]).named_files()


def choices(hint: Any) -> Iterator[tuple[type, str]]:
    """Every config class within a hint, with each of its fields that is one of some values."""
    for part in get_args(hint):
        yield from choices(part)
    for name, inner in get_type_hints(hint).items() if is_dataclass(hint) else ():
        if get_origin(inner) is Literal:
            yield hint, name
        else:
            yield from choices(inner)


@pytest.mark.parametrize(
    ("config", "name"), sorted(set(choices(Retrieval)), key=str), ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_a_config_made_in_python_refuses_what_is_none_of_a_fields_values_as_the_command_line_does(config, name):
    with pytest.raises(Refused, match=f"{name} is 'odd'; give one of "):
        config(**{name: "odd"})


def test_only_a_small_generated_corpus_is_read_and_curated_without_ray(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "a text"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a query"}\n')

    def use_ray(*settings):
        return {stage.name for stage in resolve("quickstart", settings).stages() if stage.uses_ray} & {"sources", "curate"}

    assert use_ray() == set()
    assert use_ray("sources.world.entities=2000") == use_ray(f"sources.path={tmp_path}") == {"sources", "curate"}


def test_an_endpoint_that_would_not_open_the_release_is_refused_before_the_first_stage():
    words = ["backbone.encoder=AdoptedConfig", "backbone.name=some/model", "backbone.trust_remote_code=true"]
    with pytest.raises(
        Refused, match=r"backbone\.trust_remote_code is on and deploy\.trust_remote_code off, so the endpoint would not open"
    ):
        resolve("search", words)
    assert resolve("search", [*words, "deploy.trust_remote_code=true"]).deploy.trust_remote_code


def test_towers_of_an_adopted_model_are_checked_where_its_folder_is_here(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    words = ["adapt=null", "backbone.encoder=AdoptedConfig", f"backbone.name={tmp_path}"]
    with pytest.raises(Refused, match=r"instruct\.tuning: towers language cannot be trained; this retriever has text, vision: name one"):
        resolve("quickstart", [*words, "instruct.tuning.towers=language"])
    assert resolve("quickstart", [*words, "instruct.tuning.towers=text"])
