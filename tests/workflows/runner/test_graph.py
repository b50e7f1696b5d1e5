"""The graph of stages: which are chosen, in which order, and which of two arms are the same."""

import collections

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.options import import_named
from mirepoix.workflows.runner.graph import Stage, choose, downstream, matching_names, merge_shared

WORK = "no_such_module:work"
"""A graph is ordered without the modules of its stages."""


def graph() -> list[Stage]:
    """load -> (pair:copy -> pair:join), (text:copy -> text:join); given with the last first."""
    stages = [Stage("load", WORK, None)]
    for arm in ("pair", "text"):
        stages.append(Stage(f"{arm}:copy", WORK, None, {"loaded": "load"}))
        stages.append(Stage(f"{arm}:join", WORK, None, {"left": f"{arm}:copy"}))
    return stages[::-1]


def chosen(until=None, start=None, force=()) -> tuple[list[str], set[str]]:
    ordered, forced = choose(graph(), until, start, set(force))
    return [stage.name for stage in ordered], forced


def test_a_stage_is_of_an_arm_or_of_all():
    of_one, of_all = Stage("mire:embed-untrained", WORK, None), Stage("curate", WORK, None)
    assert (of_one.arm, of_one.step) == ("mire", "embed-untrained")
    assert (of_all.arm, of_all.step) == ("", "curate")


def test_each_stage_comes_after_its_inputs():
    assert chosen() == (["load", "text:copy", "text:join", "pair:copy", "pair:join"], set())


def test_until_leaves_out_what_the_stage_does_not_need():
    assert chosen(until="text:copy")[0] == ["load", "text:copy"]
    assert chosen(until="copy")[0] == ["load", "text:copy", "pair:copy"]


def test_what_a_stage_requires_is_chosen_with_it_and_comes_before_it_but_what_requires_a_stage_does_not_depend_on_its_result():
    stages = [Stage("train", WORK, None, {"loaded": "load"}, requires=("check",)), Stage("check", WORK, None, {"loaded": "load"})]
    ordered, _ = choose([*stages, Stage("load", WORK, None)], "train", None, set())
    assert [stage.name for stage in ordered] == ["load", "check", "train"]
    assert downstream(ordered, ["check"]) == {"check"}


def test_what_two_equal_arms_require_is_required_under_the_name_of_the_first():
    checks = [Stage(f"{arm}:check", WORK, None) for arm in "ab"]
    both = [*checks, *(Stage(f"{arm}:train", WORK, arm, requires=(f"{arm}:check",)) for arm in "ab")]
    kept, _ = merge_shared(both, lambda stage: (stage.step, stage.config))
    assert [(stage.name, stage.requires) for stage in kept] == [
        ("a:check", ()),
        ("a:train", ("a:check",)),
        ("b:train", ("a:check",)),
    ]


def test_from_forces_the_stage_and_all_that_depend_on_it():
    names, forced = chosen(start="pair:copy")
    assert names == ["load", "pair:copy", "pair:join"] and forced == {"pair:copy", "pair:join"}
    assert chosen(start="copy", until="text:join") == (["load", "text:copy", "text:join"], {"text:copy", "text:join"})


def test_from_and_until_that_do_not_meet_are_refused():
    with pytest.raises(Refused, match="--from pair:copy --until text:join leaves nothing to run: text:join does not depend on pair:copy"):
        chosen(start="pair:copy", until="text:join")


def test_a_forced_stage_is_forced_alone():
    assert chosen(force=("load", "text:copy"))[1] == {"load", "text:copy"}


def test_a_whole_name_comes_before_a_step_of_that_name():
    stages = [Stage("copy", WORK, None), Stage("pair:copy", WORK, None)]
    assert matching_names(stages, "copy") == ["copy"] and matching_names(stages, "pair:copy") == ["pair:copy"]


def test_what_depends_on_a_stage_is_found_through_others():
    ordered, _ = choose(graph(), None, None, set())
    assert downstream(ordered, ["text:copy"]) == {"text:copy", "text:join"}
    assert downstream(ordered, ["load"]) == {stage.name for stage in ordered}
    assert downstream(ordered, ["not chosen"]) == set()


def test_a_path_is_resolved_to_its_function():
    assert import_named("collections:OrderedDict") is collections.OrderedDict
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_named(WORK)


def test_circles_and_unknown_inputs_are_assertions():
    with pytest.raises(AssertionError, match="in a circle: a -> b -> a"):
        choose([Stage("a", WORK, None, {"x": "b"}), Stage("b", WORK, None, {"x": "a"})], None, None, set())
    with pytest.raises(AssertionError, match="stage a takes the result of b, which is no stage"):
        choose([Stage("a", WORK, None, {"x": "b"})], None, None, set())
    with pytest.raises(AssertionError, match="two stages have one name"):
        choose([Stage("a", WORK, None), Stage("a", WORK, None)], None, None, set())


def test_stages_that_do_the_same_with_the_same_are_joined_and_others_hang_on_the_first():
    same = {"loaded": "load"}
    stages = [
        Stage("load", WORK, "water"),
        Stage("a:copy", WORK, "letter", same),
        Stage("a:join", WORK, "pair", {"left": "a:copy"}),
        Stage("b:copy", WORK, "letter", same),
        Stage("b:join", WORK, "text", {"left": "b:copy"}, after=("b:copy",)),
    ]
    kept, names = merge_shared(stages, lambda stage: (stage.step, stage.config))
    assert [stage.name for stage in kept] == ["load", "a:copy", "a:join", "b:join"]
    assert kept[-1].inputs == {"left": "a:copy"} and kept[-1].after == ("a:copy",)
    assert names == {"load": "load", "a:copy": "a:copy", "a:join": "a:join", "b:copy": "a:copy", "b:join": "b:join"}
