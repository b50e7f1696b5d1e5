"""A comparison: one DAG in which each arm has its own stages, and stages that arms share are in it once."""

from dataclasses import replace

import pytest
import yaml

from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.errors import Refused
from mirepoix.workflows.config import describe, flatten, read
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.runner.fingerprint import ingredients

SHARED = ["sources", "curate", "check", "floors", "pairs"]


def compared(**arms: Arm) -> Comparison:
    return Comparison(arms=arms or {"one": Arm(), "other": Arm()})


def changed(arm: Arm, stage: str, **fields) -> Arm:
    return replace(arm, **{stage: replace(getattr(arm, stage), **fields)})


def names(config: Comparison) -> list[str]:
    return [stage.name for stage in config.stages()]


def test_the_quickstart_of_all_has_every_retriever_that_is_built_in_an_arm_of_its_name():
    config = recipe("quickstart_all")
    assert {name: type(arm.backbone.encoder) for name, arm in config.arms.items()} == {
        name: config_class(name) for name in ARCHITECTURES if name != "adopted"
    }


def test_data_is_made_once_and_an_arms_stages_carry_its_name_as_do_those_they_hang_on():
    stages = {stage.name: stage for stage in resolve("quickstart_all", ["only=unite,univldr"]).stages()}
    assert [name for name, stage in stages.items() if not stage.arm] == SHARED
    assert {stage.arm for stage in stages.values()} == {"", "unite", "univldr"}
    assert stages["unite:adapt"].inputs == {"pairs": "pairs", "encoder": "unite:backbone"}
    assert stages["univldr:backbone"].inputs == {"curate": "curate"}
    assert stages["univldr:refine"].inputs == {"pairs": "univldr:mine-refine", "encoder": "univldr:instruct"}
    assert stages["univldr:embed-untrained"].after == ("univldr:embed",)
    seen = set()
    for name, stage in stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(name)


def test_an_arm_is_made_of_what_its_recipe_alone_is_made_of():
    """So that each takes the results of the other, whichever ran first."""
    alone = {stage.name: ingredients(stage, {}) for stage in recipe("quickstart").stages()}
    among = {stage.step: ingredients(stage, {}) for stage in resolve("quickstart_all", ["only=unite"]).stages()}
    assert alone.keys() - among.keys() == {"deploy"}
    assert all(alone[name] == parts for name, parts in among.items())


def test_what_two_arms_ask_for_alike_is_one_stage_under_the_name_of_the_first():
    one = Arm()
    other = changed(one, "instruct", learning_rate=3e-5)
    config = compared(one=one, other=other)
    stages = {stage.name: stage for stage in config.stages()}
    both = {"backbone", "adapt", "embed-untrained", "index-untrained"}
    assert {stage.step for stage in stages.values() if stage.arm == "one"} >= both
    assert {stage.step for stage in stages.values() if stage.arm == "other"} == {"instruct", "embed", "index", "evaluate", "release"}
    assert stages["other:instruct"].inputs == {"pairs": "pairs", "encoder": "one:adapt"}
    assert stages["other:evaluate"].inputs["untrained_index"] == "one:index-untrained"
    assert config.executed_as["other:adapt"] == "one:adapt" and config.executed_as["other:embed"] == "other:embed"


def test_two_equal_arms_are_one():
    config = compared()
    assert {stage.arm for stage in config.stages()} == {"", "one"}
    assert config.executed_as["other:evaluate"] == "one:evaluate"


def test_pairs_have_tasks_to_adapt_on_where_an_arm_that_reads_them_adapts():
    def adapt_tasks_of(**arms):
        return {stage.name: stage.config.adapt_tasks for stage in compared(**arms).stages() if stage.step == "pairs"}

    shared, none, own = PairsConfig().adapt_tasks, Arm(adapt=None), replace(Arm(), pairs=PairsConfig(adapt_tasks=("t->i",)))
    assert adapt_tasks_of(one=none, other=Arm()) == {"pairs": shared}
    assert adapt_tasks_of(one=none, other=none) == {"pairs": None}
    assert adapt_tasks_of(one=none, other=own) == {"pairs": None, "other:pairs": ("t->i",)}
    assert adapt_tasks_of(one=Arm(), other=replace(own, adapt=None)) == {"pairs": shared, "other:pairs": None}
    among = resolve("quickstart_all", ["only=mimic"])
    assert next(stage for stage in among.stages() if stage.name == "pairs").config == recipe("quickstart_all").pairs, "one for all runs"


def test_an_arm_may_have_pairs_of_its_own():
    own = replace(Arm(), pairs=PairsConfig(instruct_tasks=("t->i",)))
    stages = {stage.name: stage for stage in compared(one=Arm(), other=own).stages()}
    assert stages["one:adapt"].inputs["pairs"] == "pairs"
    assert {stages[f"other:{step}"].inputs["pairs"] for step in ("adapt", "instruct", "embed")} == {"other:pairs"}
    same = compared(one=Arm(), other=changed(replace(Arm(), pairs=PairsConfig()), "adapt", max_steps=3))
    assert "other:pairs" not in names(same), "pairs that all arms share are made once"


def test_nothing_is_served_unless_an_arm_is_named_and_then_after_all_were_measured():
    config = recipe("quickstart_all")
    assert "deploy" not in names(config) and config.served is None
    served = replace(config, serve="mire")
    deploy = served.stages()[-1]
    assert (deploy.name, deploy.inputs, deploy.arm) == ("deploy", {"release": "mire:release"}, "")
    assert set(deploy.after) == {f"{arm}:evaluate" for arm in config.arms}
    assert served.served == "mire:release"


def test_the_arms_that_are_named_are_run_and_no_other():
    assert {name.partition(":")[0] for name in names(resolve("quickstart_all", ["only=mire,unite"]))} == {*SHARED, "mire", "unite"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"), [(2, 0, 1), (1, 0, 1), (8, 0, 4), (96, 0, 48), (96, 8, 48)], ids=["two", "one", "eight", "many", "gpus"]
)
def test_as_many_arms_run_at_once_as_there_are_cpus_for(cpus, gpus, room):
    assert recipe("quickstart_all").parallel_arms(cpus, gpus) == room
    assert replace(recipe("quickstart_all"), at_once=3).parallel_arms(cpus, gpus) == 3


def test_arms_on_gpus_need_their_gpus():
    large = changed(Arm(), "instruct", use_gpu=True, num_workers=4, cpus_per_worker=2)
    assert [compared(one=large).parallel_arms(96, gpus) for gpus in (0, 4, 8, 31)] == [1, 1, 2, 7]
    assert compared(one=large).parallel_arms(16, 31) == 2


UNTRAINED = Arm(adapt=None, instruct=None)


def test_an_arm_without_a_training_is_compared_with_others_by_the_same_queries():
    stages = {stage.name: stage for stage in compared(one=Arm(), other=UNTRAINED).stages()}
    assert {stage.step for stage in stages.values() if stage.arm == "other"} == {"embed", "index", "evaluate", "release"}
    assert stages["other:embed"].inputs == {"encoder": "one:backbone", "curate": "curate", "pairs": "pairs"}
    searched = {"curate": "curate", "embed": "other:embed", "index": "other:index", "floors": "floors"}
    assert stages["other:evaluate"].inputs == searched and stages["one:evaluate"].inputs["floors"] == "floors"
    assert stages["floors"].config.trained, "of the queries that are trained on there are no floors"
    assert stages["pairs"].config == PairsConfig(), "what is trained on is not measured by"
    alone = {stage.name: stage for stage in compared(other=UNTRAINED).stages()}
    assert alone["pairs"].config == PairsConfig(adapt_tasks=None, instruct_tasks=None) and not alone["floors"].config.trained


def test_arms_without_a_training_take_the_cpus_and_gpus_of_their_embedding():
    two = changed(UNTRAINED, "embed", workers=2)
    assert [compared(one=two).parallel_arms(cpus, 0) for cpus in (1, 2, 8)] == [1, 1, 4]
    assert compared(one=changed(two, "embed", use_gpu=True)).parallel_arms(96, 8) == 4


def test_passages_that_no_arm_trains_on_are_refused():
    with pytest.raises(Refused, match=r"passages\.kind is vid2r, and there is no training to read passages"):
        replace(compared(one=UNTRAINED), passages=PassagesConfig(kind="vid2r"))
    assert replace(compared(one=UNTRAINED, other=Arm()), passages=PassagesConfig(kind="vid2r"))


def test_a_field_of_an_arm_is_set_by_its_dotted_name():
    config = resolve("quickstart_all", ["arms.mire.adapt.max_steps=7", "arms.unite.adapt=null", "pairs.without_instruction=0.2"])
    assert config.arms["mire"].adapt.max_steps == 7
    assert config.arms["unite"].adapt is None
    assert config.pairs.without_instruction == 0.2 and config.arms["mire"].pairs is None
    assert flatten(config)["arms.mire.instruct.loss.temperature"] == 0.3


def test_what_describe_prints_is_read_back():
    config = resolve("quickstart_all", ["only=mire", "serve=mire"])
    assert read(describe(config), Comparison) == config
    assert list(yaml.safe_load(describe(config))["arms"]) == list(config.arms)


def test_files_that_arms_name_are_known_by_their_fields(tmp_path):
    (tmp_path / "zero.json").write_text("{}")
    config = resolve(
        "quickstart_all", [f"arms.mire.adapt.deepspeed={tmp_path}/zero.json", "arms.jfe.adapt.deepspeed=missing.json", "only=mire"]
    )
    assert config.named_files() == {"arms.mire.adapt.deepspeed": tmp_path / "zero.json"}
    assert next(stage for stage in config.stages() if stage.name == "mire:adapt").outside["deepspeed settings"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("only=mire,colbert", ("only is colbert", "unite, jfe, mimic, mire")),
        ("serve=colbert", ("serve is colbert", "unite, jfe, mimic, mire")),
        ("at_once=0", ("at_once is 0", "1 or more")),
        ("arms.mire.instruct.tuning.towers=vision", ("arms.mire: instruct.tuning: towers vision", "text, pooling")),
        ("evaluate.split=test", ("evaluate.split is 'test'", "test_combination")),
        ("arms.colbert.adapt=null", ("arms.colbert.adapt", "arms.univldr.adapt")),
    ],
)
def test_what_is_wrong_by_itself_is_refused_when_the_config_is_made(setting, words):
    with pytest.raises(Refused) as refusal:
        resolve("quickstart_all", [setting])
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


def test_an_arm_that_is_served_must_be_among_those_that_run():
    with pytest.raises(Refused, match=r"serve is unite; the arms of this run are mire"):
        resolve("quickstart_all", ["only=mire", "serve=unite"])


@pytest.mark.parametrize("name", ["a:b", "a.b", "", "a b"])
def test_an_arm_whose_name_could_not_begin_a_stages_name_is_refused(name):
    with pytest.raises(Refused, match="cannot begin the name of a stage"):
        Comparison(arms={name: Arm()})


def test_a_comparison_without_arms_is_refused():
    with pytest.raises(Refused, match="arms is empty"):
        Comparison()
