"""The runner with arms: as many run at once as there is room for, each fails by itself, and equal stages of two arms run once."""

from dataclasses import replace

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.store import list_names
from mirepoix.workflows.runner.execute import execute
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY, FAIL, WAIT_FOR_ANOTHER, StubConfig, logged, run


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


def arms_of(log: str, *arms: str) -> list[Stage]:
    """load -> ARM:copy -> ARM:join"""
    stages = [Stage("load", COPY, StubConfig(log, "load"))]
    for arm in arms:
        stages.append(Stage(f"{arm}:copy", COPY, StubConfig(log, f"{arm} copy"), {"loaded": "load"}))
        stages.append(Stage(f"{arm}:join", COPY, StubConfig(log, f"{arm} join"), {"left": f"{arm}:copy"}))
    return stages


def statuses(report) -> dict[str, str]:
    return {name: stage.status for name, stage in report.stages.items()}


def changed(stages: list[Stage], name: str, **fields) -> list[Stage]:
    return [replace(stage, **fields) if stage.name == name else stage for stage in stages]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A storage in which pair and text were made, the log of it, and the report."""
    home = tmp_path_factory.mktemp("arms")
    report, _ = run(arms_of(str(home / "log"), "pair", "text"), home / "storage")
    assert report.ok
    return home / "storage", str(home / "log"), report


def test_where_there_is_room_for_one_an_arm_begins_when_the_one_before_it_is_done(ran):
    text = ["load", "pair copy", "pair join", "text copy", "text join"]
    assert logged(ran[1])[: 2 * len(text)] == [f"{what} {text}" for text in text for what in ("begin", "end")]


def test_where_there_is_room_for_two_they_are_at_work_together(ray_cluster, storage, log):
    both = [
        Stage("pair:copy", WAIT_FOR_ANOTHER, StubConfig(log, "pair", seconds=30)),
        Stage("text:copy", WAIT_FOR_ANOTHER, StubConfig(log, "text", seconds=30)),
    ]
    assert run(both, storage, parallel_arms=lambda: 2, local=False)[0].ok, "each was still at work when the other came"


def test_an_arm_that_fails_stops_itself_alone(ran):
    storage, log, _ = ran
    failing = changed(arms_of(log, "pair", "text"), "pair:copy", work=FAIL)
    report, shown = run(failing, storage)
    assert statuses(report) == {"load": "skipped", "pair:copy": "failed", "pair:join": "not run"} | dict.fromkeys(
        ("text:copy", "text:join"), "skipped"
    )
    assert "pair:join    not run: no result of pair:copy" in shown


def test_a_result_lies_under_its_step_and_serves_whoever_asks_for_the_same(ran):
    storage, log, _ = ran
    assert list_names(storage / "artefacts") == ["copy", "join", "load"]
    plain = [
        replace(stage, name=stage.step, inputs={each: name.rpartition(":")[2] for each, name in stage.inputs.items()})
        for stage in arms_of(log, "text")
    ]
    assert statuses(run(plain, storage, plan=True)[0]) == dict.fromkeys(("load", "copy", "join"), "skipped")


def test_the_reason_of_an_arm_compares_with_its_own_last_result(ran):
    storage, log, _ = ran
    again = changed(arms_of(log, "pair", "text", "new"), "pair:copy", config=StubConfig(log, "pair copy", salt=1))
    report, _ = run(again, storage, plan=True)
    assert report.stages["pair:copy"].reason == "config changed: salt 0 -> 1"
    assert report.stages["new:copy"].reason == "never ran"


def test_how_long_a_result_took_is_known_when_its_stage_is_skipped(ran):
    storage, log, first = ran
    again, _ = run(arms_of(log, "pair", "text"), storage, plan=True)
    for name, stage in again.stages.items():
        assert stage.status == "skipped" and stage.seconds == 0
        assert stage.took == first.stages[name].took > 0


def test_forcing_a_step_forces_it_in_every_arm(ran):
    storage, log, _ = ran

    def forced(**options):
        report, _ = run(arms_of(log, "pair", "text"), storage, plan=True, **options)
        return {name for name, stage in report.stages.items() if stage.reason == "forced"}

    assert forced(force=("join",)) == {"pair:join", "text:join"}
    assert forced(force=("text:join",)) == {"text:join"}
    assert forced(start="copy") == {"pair:copy", "text:copy"}, "stages that depend on them wait"


def test_two_arms_that_come_to_the_same_by_other_ways_do_it_once(ray_cluster, storage, log):
    """Their inputs are other stages with the same bytes, which only shows when these are done."""
    stages = [Stage(f"{arm}:load", COPY, StubConfig(log, "load", salt=salt)) for salt, arm in enumerate(("pair", "text"))]
    stages += [Stage(f"{arm}:copy", COPY, StubConfig(log, "copy", seconds=1.0), {"loaded": f"{arm}:load"}) for arm in ("pair", "text")]
    report, _ = run(stages, storage, parallel_arms=lambda: 2, local=False)
    assert sorted((report.stages["pair:copy"].status, report.stages["text:copy"].status)) == ["done", "skipped"]
    assert logged(log).count("begin copy") == 1


def test_a_step_alone_means_that_step_of_every_arm(storage, log):
    stages = arms_of(log, "pair", "text")

    def planned(**options):
        return set(execute(stages, str(storage), plan=True, **options).stages)

    assert planned(until="copy") == {"load", "pair:copy", "text:copy"}
    assert planned(until="text:copy") == {"load", "text:copy"}
    with pytest.raises(Refused, match=r"--from join needs the result of load"):
        planned(start="join")
    with pytest.raises(Refused, match=r"there is no stage text:copyp; did you mean text:copy"):
        planned(force=("text:copyp",))
