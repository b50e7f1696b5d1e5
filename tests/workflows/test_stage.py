"""The runner runs what does not stand, and only that."""

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
from moto.server import ThreadedMotoServer
from pyarrow import fs

from mirepoix.models.errors import Refused
from mirepoix.serving.store import join, list_names, read_manifest, verify
from mirepoix.workflows.stage import Stage, execute

sys.path.insert(0, str(Path(__file__).parent))
import kitchen
from kitchen import Dish, burn, choke, chop, cold, faint_once, forget, meet, miscount, refuse, run, simmer, worked


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "storage"


def stew(log: str, **dishes: Dish) -> list[Stage]:
    """wash -> (chop, peel) -> cook"""
    dish = {name: dishes.get(name, Dish(log, name)) for name in ("wash", "chop", "peel", "cook")}
    return [
        Stage("cook", chop, dish["cook"], {"left": "chop", "right": "peel"}),
        Stage("wash", chop, dish["wash"]),
        Stage("chop", chop, dish["chop"], {"washed": "wash"}),
        Stage("peel", chop, dish["peel"], {"washed": "wash"}),
    ]


def statuses(report) -> dict[str, str]:
    return {name: stage.status for name, stage in report.stages.items()}


def reasons(report) -> dict[str, str]:
    return {name: stage.reason for name, stage in report.stages.items()}


def leases(storage: Path) -> list[str]:
    return [name for name in list_names(storage / "leases") if name != ".lock"]


def begun(log: str) -> list[str]:
    return sorted(line.removeprefix("begin ") for line in worked(log) if line.startswith("begin "))


# What runs and what stands


def test_a_run_makes_everything_once_and_a_second_run_nothing_and_without_ray(ray_cluster, storage, log):
    first, shown = run(stew(log), storage)
    assert statuses(first) == dict.fromkeys(("wash", "chop", "peel", "cook"), "done")
    assert (Path(first.stages["cook"].target) / "dish.txt").read_text() == "washchopwashpeelcook"
    assert first.stages["cook"].metrics == {"recall@10": 0.5}
    assert first.stages["cook"].rows == {"read": 10, "written": 7, "rejected": 2, "merged": 1}
    assert "cook         done in" in shown

    def no_ray():
        raise AssertionError("nothing has to run, so nobody needs Ray")

    again, shown = run(stew(log), storage, ensure_ray=no_ray)
    assert statuses(again) == dict.fromkeys(("wash", "chop", "peel", "cook"), "skipped")
    assert [stage.digest for stage in again.stages.values()] == [stage.digest for stage in first.stages.values()]
    assert again.ok and "cook         stands" in shown
    assert begun(log) == ["chop", "cook", "peel", "wash"]
    assert list_names(storage) == ["artefacts", "leases", "tmp", "work"]
    assert list_names(storage / "tmp") == list_names(storage / "work") == leases(storage) == []


def test_ten_stages_that_stand_are_skipped_within_a_second(ray_cluster, storage, log):
    chain = [Stage(f"s{n}", chop, Dish(log, f"{n}"), {"before": f"s{n - 1}"} if n else {}) for n in range(10)]
    run(chain, storage)
    began = time.monotonic()
    report, _ = run(chain, storage)
    assert time.monotonic() - began < 1.0
    assert set(statuses(report).values()) == {"skipped"}


def test_a_changed_config_runs_its_stage_and_what_hangs_on_it(ray_cluster, storage, log):
    run(stew(log), storage)
    report, _ = run(stew(log, chop=Dish(log, "dice")), storage)
    assert statuses(report) == {"wash": "skipped", "chop": "done", "peel": "skipped", "cook": "done"}
    back, _ = run(stew(log), storage)
    assert set(statuses(back).values()) == {"skipped"}, "the old results still stand under their own keys"


def test_a_stage_that_makes_the_same_bytes_again_wakes_nobody(ray_cluster, storage, log):
    run(stew(log), storage)
    report, _ = run(stew(log, wash=Dish(log, "wash", salt=1)), storage)
    assert statuses(report) == {"wash": "done", "chop": "skipped", "peel": "skipped", "cook": "skipped"}


def test_a_comment_wakes_nobody_and_a_changed_line_does(ray_cluster, storage, log, tmp_path, monkeypatch):
    module = tmp_path / "broth_of_a_test.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    stages = [Stage("wash", chop, Dish(log), modules=("broth_of_a_test",))]
    module.write_text("def boil(water):\n    return water + 1\n")
    run(stages, storage)
    module.write_text('"""How to boil."""\n\ndef boil( water ):  # slowly\n    """Boil."""\n    return (water\n        + 1)\n')
    assert statuses(run(stages, storage)[0]) == {"wash": "skipped"}
    module.write_text("def boil(water):\n    return water + 2\n")
    report, shown = run(stages, storage)
    assert statuses(report) == {"wash": "done"}
    assert "wash         runs: source changed: broth_of_a_test" in shown


def test_branches_run_at_the_same_time(ray_cluster, storage, log):
    stages = [Stage("left", meet, Dish(log, "left", seconds=30)), Stage("right", meet, Dish(log, "right", seconds=30))]
    assert run(stages, storage)[0].ok, "each was still at work when the other came"


# Failures


def test_a_failed_branch_stops_its_dependants_and_no_others(ray_cluster, storage, log):
    stages = [stage if stage.name != "chop" else replace(stage, work=burn) for stage in stew(log)]
    stages.append(Stage("serve", chop, Dish(log, "serve"), {"peeled": "peel"}))
    report, shown = run(stages, storage)
    assert statuses(report) == {"wash": "done", "chop": "failed", "peel": "done", "cook": "not run", "serve": "done"}
    assert not report.ok
    assert report.stages["cook"].reason == "no result of chop"
    assert report.stages["chop"].error == "KeyError: 'salt'", "the root cause, in one line"
    (path,) = (storage / "logs").iterdir()
    assert "RuntimeError: the soup is burnt" in path.read_text() and str(path) in shown
    assert list_names(storage / "tmp") == [] and list_names(storage / "artefacts" / "chop") == []
    healed, _ = run(stew(log), storage)
    assert statuses(healed) == {"wash": "skipped", "chop": "done", "peel": "skipped", "cook": "done"}


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (refuse, "no carrots in the pantry; buy some"),
        (choke, "Unpicklable: bones and scales"),
        (forget, "TypeError: the work of stage wash returned NoneType and not an Outcome"),
        (miscount, "10 rows were read but 9 are accounted for (7 written + 2 rejected + 0 merged)"),
    ],
)
def test_every_kind_of_failure_is_one_clear_line(ray_cluster, storage, log, work, error):
    report, shown = run([Stage("wash", work, Dish(log))], storage)
    assert statuses(report) == {"wash": "failed"}
    assert report.stages["wash"].error.removeprefix("AssertionError: ") == error
    assert f"{error} (log: " in shown
    assert list_names(storage / "artefacts" / "wash") == []


def test_what_cannot_be_sent_to_a_worker_fails_its_stage_only(ray_cluster, storage, log):
    holder = Stage("wash", chop, Dish(log), stands=threading.Lock().__eq__)
    report, _ = run([holder, Stage("peel", chop, Dish(log))], storage)
    assert statuses(report) == {"wash": "failed", "peel": "done"}
    assert report.stages["wash"].error.startswith("it cannot be sent to a worker")


def test_a_killed_worker_is_retried_where_the_stage_says_so(ray_cluster, storage, log):
    report, _ = run([Stage("wash", faint_once, Dish(log), retries=1), Stage("peel", faint_once, Dish(log), retries=0)], storage)
    assert statuses(report) == {"wash": "done", "peel": "failed"}
    assert report.stages["peel"].error.startswith("WorkerCrashedError")
    assert list_names(report.stages["wash"].target) == ["dish.txt", "manifest.json"], "the first attempt left nothing in the result"


def test_a_damaged_result_is_made_again(ray_cluster, storage, log):
    first, _ = run(stew(log), storage)
    path = Path(first.stages["peel"].target) / "dish.txt"
    path.write_text("pee")
    planned, _ = run(stew(log), storage, plan=True)
    assert "file dish.txt has 3 bytes, its manifest says 8" in planned.stages["peel"].reason
    report, _ = run(stew(log), storage)
    assert statuses(report) == {"wash": "skipped", "chop": "skipped", "peel": "done", "cook": "skipped"}
    (path.parent / "manifest.json").unlink()
    assert statuses(run(stew(log), storage)[0])["peel"] == "done"
    verify(path.parent)


def test_a_flipped_bit_in_an_input_fails_the_stage_that_reads_it(ray_cluster, storage, log):
    first, _ = run(stew(log), storage)
    path = Path(first.stages["peel"].target) / "dish.txt"
    path.write_bytes(b"W" + path.read_bytes()[1:])
    report, _ = run(stew(log, cook=Dish(log, "fry")), storage)
    assert statuses(report)["cook"] == "failed"
    assert "file dish.txt has changed" in report.stages["cook"].error and "--force" in report.stages["cook"].error
    report, _ = run(stew(log, cook=Dish(log, "fry")), storage, force=("peel",))
    assert report.ok


# Choosing


def test_until_runs_a_stage_and_what_it_needs(ray_cluster, storage, log):
    assert statuses(run(stew(log), storage, until="peel")[0]) == {"wash": "done", "peel": "done"}


def test_from_runs_a_stage_and_all_beneath_it_again(ray_cluster, storage, log):
    run(stew(log), storage)
    report, _ = run(stew(log), storage, start="chop")
    assert statuses(report) == {"wash": "skipped", "chop": "done", "peel": "skipped", "cook": "done"}
    assert reasons(report)["chop"] == "forced"


def test_from_refuses_when_what_is_above_does_not_stand(storage, log):
    with pytest.raises(Refused, match=r"--from chop needs the result of wash, which does not stand \(never ran\); use --from wash"):
        run(stew(log), storage, start="chop")
    assert not (storage / "artefacts").exists()


def test_force_runs_one_stage_again_and_those_beneath_only_if_its_bytes_change(ray_cluster, storage, log):
    run(stew(log), storage)
    report, _ = run(stew(log), storage, force=("chop",))
    assert statuses(report) == {"wash": "skipped", "chop": "done", "peel": "skipped", "cook": "skipped"}


def test_names_that_do_not_exist_are_refused_with_the_nearest(storage, log):
    for option in ({"until": "chopp"}, {"start": "chopp"}, {"force": ("chopp",)}):
        with pytest.raises(Refused, match="there is no stage chopp; did you mean chop"):
            run(stew(log), storage, **option)
    with pytest.raises(Refused, match="there are cook, wash, chop, peel"):
        run(stew(log), storage, until="zzz")


def test_a_choice_that_leaves_nothing_is_refused(storage, log):
    with pytest.raises(Refused, match="chop does not depend on peel"):
        run(stew(log), storage, start="peel", until="chop")


def test_circles_and_unknown_inputs_are_our_own_mistakes(storage, log):
    with pytest.raises(AssertionError, match="in a circle: a -> b -> a"):
        run([Stage("a", chop, Dish(log), {"x": "b"}), Stage("b", chop, Dish(log), {"x": "a"})], storage)
    with pytest.raises(AssertionError, match="stage a takes the result of b, which is no stage"):
        run([Stage("a", chop, Dish(log), {"x": "b"})], storage)
    with pytest.raises(AssertionError, match="two stages have one name"):
        run([Stage("a", chop, Dish(log)), Stage("a", chop, Dish(log))], storage)


def test_a_stage_may_run_every_time_or_ask_whether_its_result_still_holds(ray_cluster, storage, log, tmp_path):
    stages = [Stage("watch", chop, Dish(log, "watch"), cached=False), Stage("serve", chop, Dish(log, "serve"), stands=cold)]
    run(stages, storage)
    assert reasons(run(stages, storage, plan=True)[0]) == {"watch": "runs every time", "serve": "its result no longer holds"}
    (tmp_path / "table").touch()
    assert statuses(run(stages, storage)[0]) == {"watch": "done", "serve": "skipped"}


# Plans


def test_a_plan_says_what_would_run_and_why_and_does_nothing(ray_cluster, storage, log):
    fresh, _ = run(stew(log), storage, plan=True)
    assert reasons(fresh) == {
        "wash": "never ran",
        "chop": "may run: waits for wash",
        "peel": "may run: waits for wash",
        "cook": "may run: waits for chop, peel",
    }
    assert not storage.exists()
    run(stew(log), storage)
    changed, _ = run(stew(log, chop=Dish(log, "dice", seconds=0.5)), storage, plan=True)
    assert statuses(changed) == {"wash": "skipped", "chop": "not run", "peel": "skipped", "cook": "not run"}
    assert reasons(changed) == {
        "wash": "stands",
        "chop": "config changed: seconds 0.0 -> 0.5; config changed: text chop -> dice",
        "peel": "stands",
        "cook": "may run: waits for chop",
    }
    run(stew(log, chop=Dish(log, "dice", seconds=0.5)), storage, until="chop")
    assert reasons(run(stew(log, chop=Dish(log, "dice", seconds=0.5)), storage, plan=True)[0])["cook"] == "input chop changed"


# Drivers that die, and drivers at once


def driver(storage, log, seconds) -> subprocess.Popen:
    code = f"import kitchen; kitchen.drive({str(storage)!r}, {log!r}, {seconds})"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def long_stew(log: str, seconds: float) -> list[Stage]:
    return [Stage("chop", chop, Dish(log, "chop")), Stage("simmer", simmer, Dish(log, "simmer", seconds), {"vegetables": "chop"})]


def test_a_killed_driver_leaves_no_half_artefact_and_the_next_one_resumes(ray_cluster, storage, log):
    first = driver(storage, log, 2.0)
    wait_for(lambda: "simmer 3" in worked(log))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(list_names(storage / "tmp")) == 1, "half a folder is there, but not where results are"
    assert not (storage / "artefacts" / "simmer").exists()
    report, _ = run(long_stew(log, 2.0), storage)
    assert statuses(report) == {"chop": "skipped", "simmer": "done"}
    counts = [int(line.split()[1]) for line in worked(log) if line.startswith("simmer")]
    assert set(counts) == set(range(10)) and len(counts) <= 12 and counts.count(0) == 1, "the second driver went on where the first stopped"
    assert list_names(storage / "tmp") == list_names(storage / "work") == leases(storage) == []


def test_two_drivers_at_once_do_the_work_once(ray_cluster, storage, log):
    other = driver(storage, log, 2.0)
    wait_for(lambda: "simmer 1" in worked(log))
    report, shown = run(long_stew(log, 2.0), storage)
    assert other.wait(30) == 0
    assert statuses(report) == {"chop": "skipped", "simmer": "skipped"}
    assert f"simmer       waits for another driver at work on it: {os.uname().nodename}, pid {other.pid}" in shown
    assert worked(log).count("begin simmer") == 1
    other.communicate()


def test_a_lease_of_a_driver_that_dies_while_another_waits_is_taken_over(ray_cluster, storage, log):
    other = driver(storage, log, 2.0)
    wait_for(lambda: "simmer 1" in worked(log))
    killer = threading.Timer(0.7, other.kill)
    killer.start()
    report, shown = run(long_stew(log, 2.0), storage)
    other.communicate()
    assert "waits for another driver" in shown
    assert statuses(report) == {"chop": "skipped", "simmer": "done"}
    assert worked(log).count("begin simmer") == 1


def test_an_interrupted_run_gives_its_leases_back(ray_cluster, storage, log):
    class Interrupting(kitchen.Display):
        def show(self, note):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute([Stage("wash", chop, Dish(log, seconds=0.5))], str(storage), display=Interrupting())
    assert leases(storage) == []


# Object stores


def test_the_same_run_on_an_object_store(ray_cluster, log, tmp_path, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    filesystem, _ = fs.FileSystem.from_uri(f"s3://pantry?{query}&allow_bucket_creation=true")
    filesystem.create_dir("pantry")
    root = f"s3://pantry/{tmp_path.name}?{query}"
    try:
        report, _ = run(stew(log), root)
        assert report.ok, report
        assert read_manifest(report.stages["cook"].target).digest == report.stages["cook"].digest
        assert statuses(run(stew(log), root)[0]) == dict.fromkeys(("wash", "chop", "peel", "cook"), "skipped")
        assert sorted(begun(log)) == ["chop", "cook", "peel", "wash"]
        assert list_names(join(root, "leases")) == []
    finally:
        server.stop()


def test_the_manifest_holds_what_decided_the_result_and_what_came_of_it(ray_cluster, storage, log):
    report, _ = run([Stage("wash", chop, Dish(log, "wash"), libraries=("pyarrow",), seed=7)], storage)
    fields = json.loads((Path(report.stages["wash"].target) / "manifest.json").read_text())["fields"]
    assert fields["stage"] == "wash" and fields["key"] == report.stages["wash"].key and fields["seed"] == 7
    assert fields["config"] == {"class": "Dish", "log": log, "text": "wash", "seconds": 0.0, "salt": 0}
    assert set(fields["libraries"]) == {"pyarrow"} and fields["inputs"] == {}
    assert fields["rows"]["read"] == 10 and fields["metrics"] == {"recall@10": 0.5}
    assert abs(fields["created"] - time.time()) < 60


def test_a_stage_lets_those_before_it_go_first_and_runs_even_if_they_fail(ray_cluster, storage, log):
    stages = [
        Stage("roast", chop, Dish(log, "roast", seconds=0.5)),
        Stage("salad", chop, Dish(log, "salad"), after=("roast",)),
        Stage("burnt", burn, Dish(log, "burnt")),
        Stage("bread", chop, Dish(log, "bread"), after=("burnt",)),
    ]
    report, _ = run(stages, storage)
    assert {name: stage.status for name, stage in report.stages.items()} == {
        "roast": "done",
        "salad": "done",
        "burnt": "failed",
        "bread": "done",
    }
    lines = [" ".join(line.split()[:2]) for line in Path(log).read_text().splitlines()]
    assert lines.index("end roast") < lines.index("begin salad")
