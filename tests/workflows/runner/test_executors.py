"""Both executors run the same stages to the same results; they differ in the process that runs the work."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import process_start
from mirepoix.serving.store import list_names
from mirepoix.workflows.cluster.shipped_code import code_root
from mirepoix.workflows.runner import execute as execute_module
from mirepoix.workflows.runner.execute import execute
from mirepoix.workflows.runner.executors import LocalExecutor, LocalReporter
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.runner.progress import Display
from mirepoix.workflows.runner.tracking import Tracker
from tests.workflows.runner.stub_stages import (
    COPY,
    FAIL,
    INTERRUPT,
    NOTE_PROCESS,
    REPEAT,
    WRITE_ARGUMENT,
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


class RecordingTracker(Tracker):
    """Records the runner's calls."""

    def __init__(self, events: list[str]):
        super().__init__()
        self.events = events

    def start(self, stage, parts, sources):
        self.events.append(f"start {stage}")

    def end(self, status):
        self.events.append(status)


def chain(log: str, work: str, count: int, **fields) -> list[Stage]:
    """s0 -> s1 -> ..., each with a key of its own."""
    return [Stage(f"s{n}", work, StubConfig(log, salt=n), {"before": f"s{n - 1}"} if n else {}, **fields) for n in range(count)]


# The same results


def test_both_give_the_same_keys_and_digests(ray_cluster, tmp_path, log):
    stages = [
        Stage("load", COPY, StubConfig(log, "load"), seed=3),
        Stage("copy", COPY, StubConfig(log, "copy"), {"loaded": "load"}),
        Stage("bad", FAIL, StubConfig(log, "bad"), {"loaded": "load"}),
        Stage("lost", COPY, StubConfig(log, "lost"), {"left": "bad"}),
        Stage("word", WRITE_ARGUMENT, StubConfig(log), arguments={"word": "salt"}),
    ]
    here, _ = run(stages, tmp_path / "here", local=True)
    there, _ = run(stages, tmp_path / "there", local=False)

    def seen(report):
        return {name: (stage.status, stage.key, stage.digest, stage.error, stage.rows) for name, stage in report.stages.items()}

    assert seen(here) == seen(there)
    assert [stage.status for stage in here.stages.values()] == ["done", "done", "failed", "not run", "done"]
    assert (Path(here.stages["word"].target) / "text.txt").read_text() == "salt"
    for name in ("here", "there"):
        assert list_names(tmp_path / name / "tmp") == [], "no draft is left, not even that of the stage that failed"


def test_what_one_has_made_is_up_to_date_for_the_other(ray_cluster, storage, log):
    run(chain(log, COPY, 2), storage, local=False)
    report, _ = run(chain(log, COPY, 2), storage)
    assert {stage.status for stage in report.stages.values()} == {"skipped"}


# Local


def test_a_local_run_needs_and_imports_no_ray(storage, log):
    code = (
        "import sys\n"
        "from tests.workflows.runner.stub_stages import COPY, StubConfig, run\n"
        "from mirepoix.workflows.runner.graph import Stage\n"
        f"report, _ = run([Stage('load', COPY, StubConfig({log!r}), uses_ray=False)], {str(storage)!r})\n"
        "print(report.ok, sorted({'ray', 'torch', 'mlflow'} & set(sys.modules)))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=code_root(), capture_output=True, text=True, check=True)
    assert finished.stdout == "True []\n"


def test_a_local_stage_runs_in_this_process(storage, log):
    run([Stage("load", NOTE_PROCESS, StubConfig(log))], storage)
    assert logged(log) == [f"pid {os.getpid()}"]


def test_a_local_stage_that_uses_ray_gets_the_cluster_first_and_once_and_another_never(storage, log):
    events: list[str] = []
    stages = [
        Stage("plain", COPY, StubConfig(log, "plain"), uses_ray=False),
        Stage("first", COPY, StubConfig(log, "first"), {"before": "plain"}),
        Stage("second", COPY, StubConfig(log, "second"), {"before": "first"}),
    ]
    run(stages[:1], storage, tracker=RecordingTracker(events), ensure_ray=lambda: events.append("ray"))
    assert events == ["start plain", "FINISHED"]
    events.clear()
    run(stages, storage, tracker=RecordingTracker(events), ensure_ray=lambda: events.append("ray"))
    assert events == ["ray", "start first", "start second", "FINISHED"], "a stage's time begins when the cluster is there"


def test_a_cluster_that_does_not_start_ends_the_run_and_leaves_nothing_open(storage, log):
    events: list[str] = []

    def no_cluster():
        raise TimeoutError("the cluster did not start")

    with pytest.raises(TimeoutError, match="did not start"):
        run([Stage("load", COPY, StubConfig(log))], storage, tracker=RecordingTracker(events), ensure_ray=no_cluster)
    assert events == ["KILLED"] and logged(log) == []
    assert [name for name in list_names(storage / "leases") if name != ".lock"] == []


def test_a_failed_local_stage_stops_what_depends_on_it_alone(storage, log):
    stages = [
        Stage("bad", FAIL, StubConfig(log)),
        Stage("lost", COPY, StubConfig(log), {"left": "bad"}),
        Stage("other", COPY, StubConfig(log)),
    ]
    report, shown = run(stages, storage)
    assert [stage.status for stage in report.stages.values()] == ["failed", "not run", "done"]
    assert report.stages["bad"].error == "KeyError: 'salt'" and "bad          failed after" in shown
    assert list_names(storage / "tmp") == []


def test_a_draft_that_cannot_be_made_fails_the_stage_and_is_not_raised(storage, log):
    storage.mkdir()
    (storage / "tmp").write_text("in the way")
    report, _ = run([Stage("load", COPY, StubConfig(log))], storage)
    assert report.stages["load"].status == "failed" and "FileExistsError" in report.stages["load"].error


def test_ctrl_c_in_a_local_stage_leaves_its_scratch_and_nothing_else(storage, log):
    events: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run([Stage("load", INTERRUPT, StubConfig(log))], storage, tracker=RecordingTracker(events))
    assert events == ["start load", "KILLED"]
    assert list_names(storage / "tmp") == [] and list_names(storage / "artefacts") == []
    assert [name for name in list_names(storage / "leases") if name != ".lock"] == []
    (scratch,) = (storage / "work").iterdir()
    assert list_names(scratch) == ["checkpoint", "stage.json"], "the next attempt resumes from it"


def test_local_reports_are_heard_at_once():
    heard = []
    executor = LocalExecutor(heard.extend, lambda: None)
    report = LocalReporter(executor.on_reports, "adapt")
    report({"step": 1, "loss": 2})
    assert [(note.stage, note.numbers) for note in heard] == [("adapt", {"step": 1.0, "loss": 2.0})]
    report.flush()
    assert list(executor.finished()) == []


def test_reports_of_a_ray_worker_that_a_local_stage_starts_are_passed_on_too(ray_cluster):
    import ray

    heard = []
    report = LocalReporter(heard.extend, "adapt")
    try:
        # A worker that ends without a flush may send its report after the last one was read.
        ray.get(ray.remote(num_cpus=0)(lambda report: (report({"step": 1}), report.flush())).remote(report))
        report({"step": 2})
    finally:
        report.flush()
    assert sorted(note.numbers["step"] for note in heard) == [1.0, 2.0] and {note.stage for note in heard} == {"adapt"}


# Ray


def test_light_stages_share_a_process_and_heavy_ones_end_with_theirs(ray_cluster, storage, log):
    def processes(light: bool) -> list[int]:
        Path(log).unlink(missing_ok=True)
        report, _ = run(chain(log, NOTE_PROCESS, 6, light=light), storage / str(light), local=False)
        assert report.ok
        return [int(line.split()[1]) for line in logged(log)]

    heavy = processes(light=False)
    assert len(set(heavy)) == 6
    deadline = time.monotonic() + 30
    while any(process_start(pid) for pid in heavy):
        assert time.monotonic() < deadline, "the process of a heavy stage is still there"
        time.sleep(0.1)
    light = processes(light=True)
    assert len(set(light)) < 6, "Ray ends a process that is idle for a second, so on a busy machine there may be more than one"
    assert os.getpid() not in {*heavy, *light}


def test_on_ray_the_cluster_is_asked_for_once_before_the_first_stage_and_not_where_none_runs(ray_cluster, storage, log):
    events: list[str] = []
    for _ in range(2):
        run(chain(log, COPY, 2), storage, tracker=RecordingTracker(events), ensure_ray=lambda: events.append("ray"), local=False)
    assert events == ["ray", "start s0", "start s1", "FINISHED", "FINISHED"]


def test_the_last_reports_of_a_stage_on_ray_are_seen_before_its_end(ray_cluster, storage, log):
    class Ends(Display):
        seen: dict[str, float]

        def update(self, note):
            self.seen[note.stage] = note.numbers["step"]

        def end(self, stage):
            self.seen[f"end of {stage}"] = self.seen[stage]

    display = Ends()
    display.seen = {}
    stages = [Stage(f"s{n}", COPY, StubConfig(log, seconds=0.3, salt=n)) for n in range(3)]
    assert execute(stages, str(storage), display=display).ok
    assert [display.seen[f"end of s{n}"] for n in range(3)] == [3.0, 3.0, 3.0]


def test_ctrl_c_on_ray_cancels_what_runs_and_leaves_no_draft(ray_cluster, storage, log):
    events: list[str] = []

    class Interrupting(Display):
        def refresh(self):
            if "repeat 1" in logged(log):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages = [Stage("slow", REPEAT, StubConfig(log, "slow", seconds=10))]
        execute(stages, str(storage), display=Interrupting(), tracker=RecordingTracker(events))
    assert events == ["start slow", "KILLED"], "though the display raised again while the run ended"
    deadline = time.monotonic() + 60  # the worker cleans up at its next line of Python, which a busy machine may delay
    while list_names(storage / "tmp") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list_names(storage / "tmp") == [] and "repeat 9" not in logged(log)


# Waiting


def test_a_run_that_waits_for_another_driver_looks_again_now_and_then(storage, log, monkeypatch):
    looks = []
    look_up = execute_module.look_up
    monkeypatch.setattr(execute_module, "look_up", lambda *given: (looks.append(given[0].name), look_up(*given))[1])
    stages = [Stage("load", COPY, StubConfig(log))]
    key = run(stages, storage, plan=True)[0].stages["load"].key
    with Driver(str(storage)) as other:
        assert other.acquire(key[:16], f"{storage}/artefacts/load/{key[:16]}") is None
        giving_back = threading.Timer(1.5, other.release, [key[:16]])
        giving_back.start()
        report, shown = run(stages, storage)
        giving_back.join()
    assert report.ok and shown.count("waits for another driver that runs it") == 1
    assert len(looks) <= 8, "one for the plan, one for the survey, and one or two a second after that"
