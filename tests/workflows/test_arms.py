"""The runner with arms: as many at work as there is room for, each failing by itself, and what two of them do alike done once."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.store import list_names
from mirepoix.workflows.graph import Stage, joined
from mirepoix.workflows.stage import execute

sys.path.insert(0, str(Path(__file__).parent))
from kitchen import Dish, burn, chop, meet, run, worked


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


def menu(log: str, *arms: str) -> list[Stage]:
    """wash -> ARM:chop -> ARM:cook"""
    stages = [Stage("wash", chop, Dish(log, "wash"))]
    for arm in arms:
        stages.append(Stage(f"{arm}:chop", chop, Dish(log, f"{arm} chop"), {"washed": "wash"}))
        stages.append(Stage(f"{arm}:cook", chop, Dish(log, f"{arm} cook"), {"left": f"{arm}:chop"}))
    return stages


def statuses(report) -> dict[str, str]:
    return {name: stage.status for name, stage in report.stages.items()}


def changed(stages: list[Stage], name: str, **fields) -> list[Stage]:
    return [replace(stage, **fields) if stage.name == name else stage for stage in stages]


def test_a_stage_is_of_an_arm_or_of_all():
    of_one, of_all = Stage("mire:embed-untrained", chop, None), Stage("curate", chop, None)
    assert (of_one.arm, of_one.step) == ("mire", "embed-untrained")
    assert (of_all.arm, of_all.step) == ("", "curate")


@pytest.fixture(scope="module")
def ran(ray_cluster, tmp_path_factory):
    """A storage in which stew and soup were made, the log of it, and the report."""
    home = tmp_path_factory.mktemp("arms")
    report, _ = run(menu(str(home / "log"), "stew", "soup"), home / "storage")
    assert report.ok
    return home / "storage", str(home / "log"), report


def test_where_there_is_room_for_one_an_arm_begins_when_the_one_before_it_is_done(ran):
    dishes = ["wash", "stew chop", "stew cook", "soup chop", "soup cook"]
    assert worked(ran[1])[: 2 * len(dishes)] == [f"{what} {dish}" for dish in dishes for what in ("begin", "end")]


def test_where_there_is_room_for_two_they_are_at_work_together(ray_cluster, storage, log):
    both = [Stage("stew:chop", meet, Dish(log, "stew", seconds=30)), Stage("soup:chop", meet, Dish(log, "soup", seconds=30))]
    assert run(both, storage, room=lambda: 2)[0].ok, "each was still at work when the other came"


def test_an_arm_that_fails_takes_down_itself_alone(ran):
    storage, log, _ = ran
    failing = changed(menu(log, "stew", "soup"), "stew:chop", work=burn)
    report, shown = run(failing, storage)
    assert statuses(report) == {"wash": "skipped", "stew:chop": "failed", "stew:cook": "not run"} | dict.fromkeys(
        ("soup:chop", "soup:cook"), "skipped"
    )
    assert "stew:cook    not run: no result of stew:chop" in shown


def test_a_result_lies_under_its_step_and_serves_whoever_asks_for_the_same(ran):
    storage, log, _ = ran
    assert list_names(storage / "artefacts") == ["chop", "cook", "wash"]
    plain = [
        replace(stage, name=stage.step, inputs={each: name.rpartition(":")[2] for each, name in stage.inputs.items()})
        for stage in menu(log, "soup")
    ]
    assert statuses(run(plain, storage, plan=True)[0]) == dict.fromkeys(("wash", "chop", "cook"), "skipped")


def test_an_arm_is_told_what_changed_since_its_own_last_result(ran):
    storage, log, _ = ran
    again = changed(menu(log, "stew", "soup", "pie"), "stew:chop", config=Dish(log, "stew chop", salt=1))
    report, _ = run(again, storage, plan=True)
    assert report.stages["stew:chop"].reason == "config changed: salt 0 -> 1"
    assert report.stages["pie:chop"].reason == "never ran"


def test_how_long_a_result_took_is_known_when_it_stands(ran):
    storage, log, first = ran
    again, _ = run(menu(log, "stew", "soup"), storage, plan=True)
    for name, stage in again.stages.items():
        assert stage.status == "skipped" and stage.seconds == 0
        assert stage.took == first.stages[name].took > 0


def test_forcing_a_step_forces_it_in_every_arm(ran):
    storage, log, _ = ran

    def forced(**options):
        report, _ = run(menu(log, "stew", "soup"), storage, plan=True, **options)
        return {name for name, stage in report.stages.items() if stage.reason == "forced"}

    assert forced(force=("cook",)) == {"stew:cook", "soup:cook"}
    assert forced(force=("soup:cook",)) == {"soup:cook"}
    assert forced(start="chop") == {"stew:chop", "soup:chop"}, "what hangs on them waits for them"


def test_two_arms_that_come_to_the_same_by_other_ways_do_it_once(ray_cluster, storage, log):
    """Their inputs are other stages with the same bytes, which only shows when these are done."""
    stages = [Stage(f"{arm}:wash", chop, Dish(log, "wash", salt=salt)) for salt, arm in enumerate(("stew", "soup"))]
    stages += [Stage(f"{arm}:chop", chop, Dish(log, "chop", seconds=1.0), {"washed": f"{arm}:wash"}) for arm in ("stew", "soup")]
    report, _ = run(stages, storage, room=lambda: 2)
    assert sorted((report.stages["stew:chop"].status, report.stages["soup:chop"].status)) == ["done", "skipped"]
    assert worked(log).count("begin chop") == 1


def test_a_step_alone_means_that_step_of_every_arm(storage, log):
    stages = menu(log, "stew", "soup")

    def planned(**options):
        return set(execute(stages, str(storage), plan=True, **options).stages)

    assert planned(until="chop") == {"wash", "stew:chop", "soup:chop"}
    assert planned(until="soup:chop") == {"wash", "soup:chop"}
    with pytest.raises(Refused, match=r"--from cook needs the result of wash"):
        planned(start="cook")
    with pytest.raises(Refused, match=r"there is no stage soup:chopp; did you mean soup:chop"):
        planned(force=("soup:chopp",))


def test_stages_that_do_the_same_with_the_same_are_joined_and_others_hang_on_the_first():
    same = {"washed": "wash"}
    stages = [
        Stage("wash", chop, "water"),
        Stage("a:chop", chop, "carrot", same),
        Stage("a:cook", chop, "stew", {"left": "a:chop"}),
        Stage("b:chop", chop, "carrot", same),
        Stage("b:cook", chop, "soup", {"left": "b:chop"}, after=("b:chop",)),
    ]
    kept, names = joined(stages, lambda stage: (stage.step, stage.config))
    assert [stage.name for stage in kept] == ["wash", "a:chop", "a:cook", "b:cook"]
    assert kept[-1].inputs == {"left": "a:chop"} and kept[-1].after == ("a:chop",)
    assert names == {"wash": "wash", "a:chop": "a:chop", "a:cook": "a:cook", "b:chop": "a:chop", "b:cook": "b:cook"}
