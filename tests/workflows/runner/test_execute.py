"""The runner runs the stages whose results are not up to date, and no others; in this process, or on Ray where a test is about Ray."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.store import join, list_names, read_manifest, verify
from mirepoix.workflows.cluster.shipped_code import code_root
from mirepoix.workflows.runner.execute import execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.task import BEGUN
from tests.workflows.runner import stub_stages
from tests.workflows.runner.stub_stages import (
    COPY,
    DIE_ONCE,
    FAIL,
    FAIL_UNPICKLABLY,
    INTERRUPT,
    MISCOUNT,
    REFUSE,
    REPEAT,
    RETURN_NOTHING,
    STILL_THERE,
    WAIT_FOR_ANOTHER,
    StubConfig,
    logged,
    run,
)


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


def pair(log: str, **text: StubConfig) -> list[Stage]:
    """load -> (copy, trim) -> join"""
    text = {name: text.get(name, StubConfig(log, name)) for name in ("load", "copy", "trim", "join")}
    return [
        Stage("join", COPY, text["join"], {"left": "copy", "right": "trim"}),
        Stage("load", COPY, text["load"]),
        Stage("copy", COPY, text["copy"], {"loaded": "load"}),
        Stage("trim", COPY, text["trim"], {"loaded": "load"}),
    ]


def statuses(report) -> dict[str, str]:
    return {name: stage.status for name, stage in report.stages.items()}


def reasons(report) -> dict[str, str]:
    return {name: stage.reason for name, stage in report.stages.items()}


def leases(storage: Path) -> list[str]:
    return [name for name in list_names(storage / "leases") if name != ".lock"]


def begun(log: str) -> list[str]:
    return sorted(line.removeprefix("begin ") for line in logged(log) if line.startswith("begin "))


# What runs and what is up to date


def test_a_run_makes_everything_once_and_a_second_run_nothing_and_without_ray(storage, log):
    first, shown = run(pair(log), storage)
    assert statuses(first) == dict.fromkeys(("load", "copy", "trim", "join"), "done")
    assert (Path(first.stages["join"].target) / "text.txt").read_text() == "loadcopyloadtrimjoin"
    assert first.stages["join"].metrics == {"R@10": 0.5}
    assert first.stages["join"].rows == {"read": 10, "written": 7, "rejected": 2, "merged": 1}
    assert "join         done in" in shown

    def no_ray():
        raise AssertionError("nothing has to run, so no cluster is needed")

    again, shown = run(pair(log), storage, ensure_ray=no_ray)
    assert statuses(again) == dict.fromkeys(("load", "copy", "trim", "join"), "skipped")
    assert [stage.digest for stage in again.stages.values()] == [stage.digest for stage in first.stages.values()]
    assert again.ok and "join         up to date" in shown
    assert begun(log) == ["copy", "join", "load", "trim"]
    assert list_names(storage) == ["artefacts", "leases", "tmp", "work"]
    assert list_names(storage / "tmp") == list_names(storage / "work") == leases(storage) == []


def checked(log: str, work: str, text: str = "check") -> list[Stage]:
    """load -> train -> measure, where the training requires a check of what is loaded."""
    return [
        Stage("load", COPY, StubConfig(log, "load")),
        Stage("train", COPY, StubConfig(log, "train"), {"loaded": "load"}, requires=("check",)),
        Stage("check", work, StubConfig(log, text), {"loaded": "load"}),
        Stage("measure", COPY, StubConfig(log, "measure"), {"trained": "train"}),
    ]


def test_a_stage_starts_once_what_it_requires_has_succeeded_and_is_not_made_anew_when_that_changes(storage, log):
    assert run(checked(log, COPY), storage)[0].ok
    assert [line for line in logged(log) if line.startswith("begin ")] == ["begin load", "begin check", "begin train", "begin measure"]
    again, _ = run(checked(log, COPY, "another check"), storage)
    assert statuses(again) == {"load": "skipped", "check": "done", "train": "skipped", "measure": "skipped"}


def test_what_requires_a_stage_that_fails_does_not_run_and_is_not_called_up_to_date(storage, log):
    report, _ = run(checked(log, REFUSE), storage)
    assert statuses(report) == {"load": "done", "check": "failed", "train": "not run", "measure": "not run"}
    assert reasons(report)["train"] == "no result of check" and begun(log) == ["load"]
    run(checked(log, COPY), storage)
    again, _ = run(checked(log, REFUSE), storage)
    assert statuses(again) == {"load": "skipped", "check": "failed", "train": "not run", "measure": "not run"}


def test_a_start_at_a_stage_runs_a_check_that_it_requires_and_that_is_not_up_to_date(storage, log):
    run(checked(log, COPY), storage)
    again, _ = run(checked(log, COPY, "another check"), storage, start="train")
    assert statuses(again) == {"load": "skipped", "check": "done", "train": "done", "measure": "done"}


def test_ten_stages_that_are_up_to_date_are_skipped_within_a_second(storage, log):
    chain = [Stage(f"s{n}", COPY, StubConfig(log, f"{n}"), {"before": f"s{n - 1}"} if n else {}) for n in range(10)]
    run(chain, storage)
    began = time.monotonic()
    report, _ = run(chain, storage)
    assert time.monotonic() - began < 1.0
    assert set(statuses(report).values()) == {"skipped"}


def test_a_changed_config_runs_its_stage_and_what_depends_on_it(storage, log):
    run(pair(log), storage)
    report, _ = run(pair(log, copy=StubConfig(log, "dice")), storage)
    assert statuses(report) == {"load": "skipped", "copy": "done", "trim": "skipped", "join": "done"}
    back, _ = run(pair(log), storage)
    assert set(statuses(back).values()) == {"skipped"}, "the old results are still there under their own keys"


def test_what_does_not_decide_the_result_runs_nothing_again(storage, log):
    run(pair(log), storage)
    report, _ = run(pair(log, **{name: StubConfig(log, name, workers=8) for name in ("load", "copy", "trim", "join")}), storage)
    assert set(statuses(report).values()) == {"skipped"}


def test_tracking_is_told_the_whole_config_with_what_is_not_in_the_key(storage, log, monkeypatch):
    from mirepoix.workflows.runner.tracking import Tracker

    told = []
    monkeypatch.setattr(Tracker, "start", lambda self, stage, parts, sources: told.append(parts["config"]))
    run([Stage("load", COPY, StubConfig(log, "load", workers=8))], storage)
    assert [(config["text"], config["workers"]) for config in told] == [("load", 8)]


def test_a_stage_that_was_stopped_goes_on_from_its_scratch_with_another_number_of_workers(storage, log):
    with pytest.raises(KeyboardInterrupt):
        run([Stage("count", INTERRUPT, StubConfig(log, "count"))], storage)
    (kept,) = (storage / "work").iterdir()
    with pytest.raises(KeyboardInterrupt):
        run([Stage("count", INTERRUPT, StubConfig(log, "count", workers=8))], storage)
    assert [*(storage / "work").iterdir()] == [kept]
    with pytest.raises(KeyboardInterrupt):
        run([Stage("count", INTERRUPT, StubConfig(log, "count", salt=1))], storage)
    assert len([*(storage / "work").iterdir()]) == 2


def test_the_scratch_of_an_unfinished_stage_names_it_and_its_inputs(storage, log):
    stages = [Stage("load", COPY, StubConfig(log, "load")), Stage("mine:count", INTERRUPT, StubConfig(log, "count"), {"before": "load"})]
    with pytest.raises(KeyboardInterrupt):
        run(stages, storage)
    (begun,) = (storage / "work").glob(f"*/{BEGUN}")
    (loaded,) = (storage / "artefacts" / "load").iterdir()
    assert json.loads(begun.read_text()) == {"stage": "mine:count", "inputs": {"before": str(loaded)}}


def test_a_stage_that_makes_the_same_bytes_again_causes_no_other_to_run(storage, log):
    run(pair(log), storage)
    report, _ = run(pair(log, load=StubConfig(log, "load", salt=1)), storage)
    assert statuses(report) == {"load": "done", "copy": "skipped", "trim": "skipped", "join": "skipped"}


def test_a_comment_runs_nothing_and_a_changed_line_runs_the_stage(storage, log, tmp_path, monkeypatch):
    module = tmp_path / "module_of_a_test.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    stages = [Stage("load", COPY, StubConfig(log), modules=("module_of_a_test",))]
    module.write_text("def twice(water):\n    return water + 1\n")
    run(stages, storage)
    module.write_text('"""How to twice."""\n\ndef twice( water ):  # slowly\n    """Twice."""\n    return (water\n        + 1)\n')
    assert statuses(run(stages, storage)[0]) == {"load": "skipped"}
    module.write_text("def twice(water):\n    return water + 2\n")
    report, shown = run(stages, storage)
    assert statuses(report) == {"load": "done"}
    assert "load         runs: source changed: module_of_a_test" in shown


def test_branches_run_at_the_same_time(ray_cluster, storage, log):
    stages = [
        Stage("left", WAIT_FOR_ANOTHER, StubConfig(log, "left", seconds=30)),
        Stage("right", WAIT_FOR_ANOTHER, StubConfig(log, "right", seconds=30)),
    ]
    assert run(stages, storage, local=False)[0].ok, "each was still at work when the other came"


# Failures


def test_a_failed_branch_stops_its_dependants_and_no_others(storage, log):
    stages = [stage if stage.name != "copy" else replace(stage, work=FAIL) for stage in pair(log)]
    stages.append(Stage("store", COPY, StubConfig(log, "store"), {"trimed": "trim"}))
    report, shown = run(stages, storage)
    assert statuses(report) == {"load": "done", "copy": "failed", "trim": "done", "join": "not run", "store": "done"}
    assert not report.ok
    assert report.stages["join"].reason == "no result of copy"
    assert report.stages["copy"].error == "KeyError: 'salt'", "the root cause, in one line"
    (path,) = (storage / "logs").iterdir()
    assert "RuntimeError: the text is lost" in path.read_text() and f"logs/{path.name}" in shown
    assert list_names(storage / "tmp") == [] and list_names(storage / "artefacts" / "copy") == []
    healed, _ = run(pair(log), storage)
    assert statuses(healed) == {"load": "skipped", "copy": "done", "trim": "skipped", "join": "done"}


FAILURES = {
    REFUSE: "no text was given; give some",
    FAIL_UNPICKLABLY: "Unpicklable: bones and scales",
    RETURN_NOTHING: "TypeError: the work of stage load returned NoneType and not an Outcome",
    MISCOUNT: "AssertionError: 10 rows were read but 9 are accounted for (7 written + 2 rejected + 0 merged)",
}
"""Works that fail, and the line of each."""


def in_one_line(shown: str) -> str:
    """What was shown, as if no line were too long."""
    return " ".join(shown.replace(" (log: ", " log: ").split())


@pytest.mark.parametrize(("work", "error"), FAILURES.items())
def test_every_kind_of_failure_is_one_clear_line(storage, log, work, error):
    report, shown = run([Stage("load", work, StubConfig(log))], storage)
    assert statuses(report) == {"load": "failed"}
    assert report.stages["load"].error == error
    assert f"{error} log: " in in_one_line(shown) and "logs/load-" in shown
    assert list_names(storage / "artefacts" / "load") == []


def test_every_kind_of_failure_is_the_same_line_from_a_ray_worker(ray_cluster, storage, log):
    stages = [Stage(f"{number}:load", work, StubConfig(log), light=True) for number, work in enumerate(FAILURES)]
    report, shown = run(stages, storage, local=False)
    errors = [error.replace("stage load", f"stage {number}:load") for number, error in enumerate(FAILURES.values())]
    assert [stage.error for stage in report.stages.values()] == errors
    assert all(f"{error} log: " in in_one_line(shown) for error in errors) and shown.count("/logs/") + shown.count(" logs/") == len(errors)
    assert list_names(storage / "artefacts" / "load") == []


def test_what_cannot_be_sent_to_a_worker_fails_its_stage_only(ray_cluster, storage, log):
    holder = Stage("load", COPY, StubConfig(log), arguments={"lock": threading.Lock()})
    report, _ = run([holder, Stage("trim", COPY, StubConfig(log))], storage, local=False)
    assert statuses(report) == {"load": "failed", "trim": "done"}
    assert report.stages["load"].error.startswith("its config or its arguments cannot be sent to a Ray worker: TypeError: cannot pickle")


def test_a_killed_worker_is_retried_where_the_stage_allows_it(ray_cluster, storage, log):
    report, _ = run(
        [Stage("load", DIE_ONCE, StubConfig(log), retries=1), Stage("trim", DIE_ONCE, StubConfig(log), retries=0)], storage, local=False
    )
    assert statuses(report) == {"load": "done", "trim": "failed"}
    assert report.stages["trim"].error.startswith("WorkerCrashedError")
    assert list_names(report.stages["load"].target) == ["manifest.json", "text.txt"], "the first attempt left nothing in the result"


def test_a_damaged_result_is_made_again(storage, log):
    first, _ = run(pair(log), storage)
    path = Path(first.stages["trim"].target) / "text.txt"
    path.write_text("pee")
    planned, _ = run(pair(log), storage, plan=True)
    assert "file text.txt has 3 bytes, its manifest says 8" in planned.stages["trim"].reason
    report, _ = run(pair(log), storage)
    assert statuses(report) == {"load": "skipped", "copy": "skipped", "trim": "done", "join": "skipped"}
    (path.parent / "manifest.json").unlink()
    assert statuses(run(pair(log), storage)[0])["trim"] == "done"
    verify(path.parent)


def test_a_flipped_bit_in_an_input_fails_the_stage_that_reads_it(storage, log):
    first, _ = run(pair(log), storage)
    path = Path(first.stages["trim"].target) / "text.txt"
    path.write_bytes(b"W" + path.read_bytes()[1:])
    report, _ = run(pair(log, join=StubConfig(log, "bad")), storage)
    assert statuses(report)["join"] == "failed"
    assert "file text.txt has changed" in report.stages["join"].error and "--force" in report.stages["join"].error
    report, _ = run(pair(log, join=StubConfig(log, "bad")), storage, force=("trim",))
    assert report.ok


# Choosing


def test_until_runs_a_stage_and_what_it_needs(storage, log):
    assert statuses(run(pair(log), storage, until="trim")[0]) == {"load": "done", "trim": "done"}


def test_from_runs_a_stage_and_all_beneath_it_again(storage, log):
    run(pair(log), storage)
    report, _ = run(pair(log), storage, start="copy")
    assert statuses(report) == {"load": "skipped", "copy": "done", "trim": "skipped", "join": "done"}
    assert reasons(report)["copy"] == "forced"


def test_from_refuses_when_a_stage_before_it_is_not_up_to_date(storage, log):
    with pytest.raises(Refused, match=r"--from copy needs the result of load, which is not up to date \(never ran\); use --from load"):
        run(pair(log), storage, start="copy")
    assert not (storage / "artefacts").exists()


def test_force_runs_one_stage_again_and_those_beneath_only_if_its_bytes_change(storage, log):
    run(pair(log), storage)
    report, _ = run(pair(log), storage, force=("copy",))
    assert statuses(report) == {"load": "skipped", "copy": "done", "trim": "skipped", "join": "skipped"}


def test_names_that_do_not_exist_are_refused_with_the_nearest(storage, log):
    for option in ({"until": "copyp"}, {"start": "copyp"}, {"force": ("copyp",)}):
        with pytest.raises(Refused, match="there is no stage copyp; did you mean copy"):
            run(pair(log), storage, **option)
    with pytest.raises(Refused, match="there are join, load, copy, trim"):
        run(pair(log), storage, until="zzz")


def test_a_choice_that_leaves_nothing_is_refused(storage, log):
    with pytest.raises(Refused, match="copy does not depend on trim"):
        run(pair(log), storage, start="trim", until="copy")


def test_a_stage_may_run_every_time_or_ask_whether_its_result_still_holds(storage, log, tmp_path):
    stages = [
        Stage("watch", COPY, StubConfig(log, "watch"), cached=False),
        Stage("store", COPY, StubConfig(log, "store"), valid=STILL_THERE),
    ]
    run(stages, storage)
    assert reasons(run(stages, storage, plan=True)[0]) == {"watch": "runs every time", "store": "its result no longer holds"}
    (tmp_path / "held").touch()
    assert statuses(run(stages, storage)[0]) == {"watch": "done", "store": "skipped"}


# Plans


def test_a_plan_lists_what_would_run_and_why_and_runs_nothing(storage, log):
    fresh, _ = run(pair(log), storage, plan=True)
    assert reasons(fresh) == {
        "load": "never ran",
        "copy": "may run: waits for load",
        "trim": "may run: waits for load",
        "join": "may run: waits for copy, trim",
    }
    assert not storage.exists()
    run(pair(log), storage)
    changed, _ = run(pair(log, copy=StubConfig(log, "dice", seconds=0.5)), storage, plan=True)
    assert statuses(changed) == {"load": "skipped", "copy": "not run", "trim": "skipped", "join": "not run"}
    assert reasons(changed) == {
        "load": "up to date",
        "copy": "config changed: seconds 0.0 -> 0.5; config changed: text copy -> dice",
        "trim": "up to date",
        "join": "may run: waits for copy",
    }
    run(pair(log, copy=StubConfig(log, "dice", seconds=0.5)), storage, until="copy")
    assert reasons(run(pair(log, copy=StubConfig(log, "dice", seconds=0.5)), storage, plan=True)[0])["join"] == "input copy changed"


# Drivers that die, and drivers at once


def driver(storage, log, seconds) -> subprocess.Popen:
    code = f"from tests.workflows.runner.stub_stages import drive; drive({str(storage)!r}, {log!r}, {seconds})"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=code_root(), stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def long_run(log: str, seconds: float) -> list[Stage]:
    return [Stage("copy", COPY, StubConfig(log, "copy")), Stage("repeat", REPEAT, StubConfig(log, "repeat", seconds), {"before": "copy"})]


def test_a_killed_driver_leaves_no_half_artefact_and_the_next_one_resumes(ray_cluster, storage, log):
    first = driver(storage, log, 2.0)
    wait_for(lambda: "repeat 3" in logged(log))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(list_names(storage / "tmp")) == 1, "half a folder is there, but not where results are"
    assert not (storage / "artefacts" / "repeat").exists()
    report, _ = run(long_run(log, 2.0), storage, local=False)
    assert statuses(report) == {"copy": "skipped", "repeat": "done"}
    counts = [int(line.split()[1]) for line in logged(log) if line.startswith("repeat")]
    assert set(counts) == set(range(10)) and len(counts) <= 12 and counts.count(0) == 1, "the second driver went on where the first stopped"
    assert list_names(storage / "tmp") == list_names(storage / "work") == leases(storage) == []


def test_two_drivers_at_once_do_the_work_once(ray_cluster, storage, log):
    other = driver(storage, log, 2.0)
    wait_for(lambda: "repeat 1" in logged(log))
    report, shown = run(long_run(log, 2.0), storage, local=False)
    assert other.wait(30) == 0
    assert statuses(report) == {"copy": "skipped", "repeat": "skipped"}
    assert f"repeat       waits for another driver that runs it: {os.uname().nodename}, pid {other.pid}" in shown
    assert logged(log).count("begin repeat") == 1
    other.communicate()


def test_a_lease_of_a_driver_that_dies_while_another_waits_is_taken_over(ray_cluster, storage, log):
    other = driver(storage, log, 2.0)
    wait_for(lambda: "repeat 1" in logged(log))
    killer = threading.Timer(0.7, other.kill)
    killer.start()
    report, shown = run(long_run(log, 2.0), storage, local=False)
    other.communicate()
    assert "waits for another driver" in shown
    assert statuses(report) == {"copy": "skipped", "repeat": "done"}
    assert logged(log).count("begin repeat") == 1


def test_an_interrupted_run_gives_its_leases_back(ray_cluster, storage, log):
    class Interrupting(stub_stages.Display):
        def update(self, note):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute([Stage("load", COPY, StubConfig(log, seconds=0.5))], str(storage), display=Interrupting())
    assert leases(storage) == []


# Object stores


def test_the_same_run_on_an_object_store(ray_cluster, log, bucket, tmp_path):
    root = bucket(tmp_path.name)
    report, _ = run(pair(log), root, local=False)
    assert report.ok, report
    assert read_manifest(report.stages["join"].target).digest == report.stages["join"].digest
    assert statuses(run(pair(log), root, local=False)[0]) == dict.fromkeys(("load", "copy", "trim", "join"), "skipped")
    assert sorted(begun(log)) == ["copy", "join", "load", "trim"]
    assert list_names(join(root, "leases")) == []


def test_the_manifest_holds_what_decided_the_result_and_what_came_of_it(storage, log):
    report, _ = run([Stage("load", COPY, StubConfig(log, "load"), libraries=("pyarrow",), seed=7)], storage)
    fields = json.loads((Path(report.stages["load"].target) / "manifest.json").read_text())["fields"]
    assert fields["stage"] == "load" and fields["key"] == report.stages["load"].key and fields["seed"] == 7
    assert fields["config"] == {"class": "StubConfig", "log": log, "text": "load", "seconds": 0.0, "salt": 0}
    assert set(fields["libraries"]) == {"pyarrow"} and fields["inputs"] == {}
    assert fields["rows"]["read"] == 10 and fields["metrics"] == {"R@10": 0.5}
    assert abs(fields["created"] - time.time()) < 60


def test_a_stage_runs_after_those_that_after_names_even_if_they_fail(storage, log):
    stages = [
        Stage("second", COPY, StubConfig(log, "second"), after=("first",)),
        Stage("first", COPY, StubConfig(log, "first")),
        Stage("last", COPY, StubConfig(log, "last"), after=("lost",)),
        Stage("lost", FAIL, StubConfig(log, "lost")),
    ]
    report, _ = run(stages, storage)
    assert {name: stage.status for name, stage in report.stages.items()} == {
        "second": "done",
        "first": "done",
        "last": "done",
        "lost": "failed",
    }
    lines = [" ".join(line.split()[:2]) for line in Path(log).read_text().splitlines()]
    assert lines.index("end first") < lines.index("begin second")
