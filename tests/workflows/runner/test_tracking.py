"""Tracking is complete when MLflow is there, and costs nothing when it is not."""

import json
import math
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mirepoix.serving.store import Manifest
from mirepoix.workflows.runner import tracking
from mirepoix.workflows.runner.execute import StageReport
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.progress import ProgressReport
from mirepoix.workflows.runner.tracking import Tracker, open_tracker
from tests.workflows.runner.stub_stages import COPY, FAIL, StubConfig, run

MANIFEST = Manifest("d" * 64, {}, {"key": "k" * 64, "metrics": {"R@10": 0.5}, "rows": {"read": 10, "written": 10}, "run_id": None})
DONE = StageReport("done", target="/bucket/artefacts/load/k", digest="d" * 64)
PARTS = {"config": {"class": "StubConfig", "salt": 1}, "seed": 3}


@dataclass(frozen=True)
class Recipe:
    name: str = "pair"
    text: StubConfig = field(default_factory=lambda: StubConfig("log"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A storage whose SQLite store is set up once: its tables take seconds."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def tracker(home, request):
    return Tracker(f"sqlite:///{home}/mlflow.db", request.node.name, "pair", {"text.salt": 1}, str(home / "mlflow"))


def runs_of(tracker) -> dict[str, list]:
    """All runs of the tracker's experiment by stage, newest first; the parent under "whole"."""
    client = tracker._client()
    experiment = client.get_experiment_by_name(tracker.experiment)
    runs: dict[str, list] = {}
    for entry in client.search_runs([experiment.experiment_id]):
        runs.setdefault(entry.data.tags.get("stage", "whole"), []).append(entry)
    return runs


@pytest.fixture
def silent_server():
    """A server that takes every connection and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection in held:
        connection.close()


@pytest.fixture
def dead_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def a_whole_run(tracker: Tracker) -> str | None:
    tracker.begin("driver-1", "/bucket", {"driver-1"})
    run_id = tracker.start("load", PARTS, {})
    tracker.curve(ProgressReport("load", time.time(), {"step": 1.0, "loss": 2.0}))
    tracker.finish("load", DONE, MANIFEST)
    tracker.end("FINISHED")
    return run_id


# What is recorded


def test_a_run_and_its_stages_are_recorded_with_all_that_belongs_to_them(home, tmp_path):
    storage, log = tmp_path / "storage", str(tmp_path / "log")
    clean = {"clean": "load"}
    stages = [Stage("load", COPY, StubConfig(log)), Stage("join", COPY, StubConfig(log), clean), Stage("bad", FAIL, StubConfig(log), clean)]

    def tracked() -> Tracker:
        return open_tracker(str(storage), "pair", Recipe(), uri=f"sqlite:///{home}/mlflow.db", experiment="whole run")

    report, _ = run(stages, storage, tracker=tracked())
    again, _ = run(stages[:2], storage, tracker=tracked())
    runs = runs_of(tracked())
    whole, first = runs["whole"]
    assert (first.info.status, whole.info.status) == ("FAILED", "FINISHED")
    assert first.info.run_name == "pair" and first.data.tags["recipe"] == "pair"
    text = {"class": "StubConfig", "log": "log", "text": "letter", "seconds": "0.0", "salt": "0", "workers": "1"}
    assert first.data.params == {"class": "Recipe", "name": "pair"} | {f"text.{name}": value for name, value in text.items()}
    assert {"version.python", "version.ray", "version.torch"} <= set(first.data.tags)
    assert {"mlflow.source.git.commit", "source"} & set(first.data.tags), "the version of the code"
    cached, join = runs["join"]
    assert join.data.tags["mlflow.parentRunId"] == first.info.run_id and cached.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert join.info.status == "FINISHED" and join.data.tags["cached"] == "false"
    rows = {"rows.read": 10, "rows.written": 7, "rows.rejected": 2, "rows.merged": 1}
    assert join.data.metrics == {"R_at_10": 0.5, "loss": 1 / 3} | rows
    assert join.data.params["text"] == "letter" and join.data.params["seed"] == "0"
    assert join.data.params["workers"] == "1", "though it is not in the key"
    assert join.data.tags["digest"] == report.stages["join"].digest and join.data.tags["artefact"] == report.stages["join"].target
    (dataset,) = join.inputs.dataset_inputs
    assert dataset.dataset.name == "clean" and dataset.dataset.source == report.stages["load"].target
    assert report.stages["load"].digest.startswith(dataset.dataset.digest)
    assert {tag.key: tag.value for tag in dataset.tags}["digest"] == report.stages["load"].digest
    client = tracked()._client()
    curve = client.get_metric_history(join.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    logged = json.loads(Path(client.download_artifacts(join.info.run_id, "manifest.json")).read_text())
    assert logged["digest"] == report.stages["join"].digest and logged["fields"]["run_id"] == join.info.run_id
    assert cached.data.tags["cached"] == "true" and cached.data.tags["source_run"] == join.info.run_id
    assert cached.data.metrics["R_at_10"] == 0.5 and again.ok
    (bad,) = runs["bad"]
    assert bad.info.status == "FAILED" and bad.data.tags["error"] == "KeyError: 'salt'"


def test_runs_of_dead_drivers_are_marked_as_killed_and_those_of_others_are_not(tracker):
    for driver, storage in (("dead", "/bucket"), ("alive", "/bucket"), ("dead", "/other")):
        left = Tracker(tracker.uri, tracker.experiment, f"{driver} in {storage}", {}, tracker.artifacts)
        left.begin(driver, storage, {"dead", "alive"})
        left.start("load", PARTS, {})
    tracker.begin("ours", "/bucket", {"ours", "alive"})
    tracker.end("FINISHED")
    runs = runs_of(tracker)
    assert {entry.info.run_name: entry.info.status for entry in runs["whole"]} == {
        "dead in /bucket": "KILLED",
        "alive in /bucket": "RUNNING",
        "dead in /other": "RUNNING",
        "pair": "FINISHED",
    }
    assert sorted(entry.info.status for entry in runs["load"]) == ["KILLED", "RUNNING", "RUNNING"]


def test_a_stage_of_a_comparison_is_tagged_with_its_arm_whether_it_ran_or_was_cached(tracker):
    tracker.begin("driver-1", "/bucket", {"driver-1"})
    tracker.start("mire:load", PARTS, {})
    tracker.finish("mire:load", DONE, MANIFEST)
    tracker.cached("unite:load", MANIFEST, DONE.target)
    tracker.cached("load", MANIFEST, DONE.target)
    tracker.end("FINISHED")
    tracker.attach({}, {"mire R@5": 0.5})
    runs = runs_of(tracker)
    found = {run.info.run_name: (run.data.tags["stage"], run.data.tags.get("arm")) for run in runs["load"]}
    assert found == {"mire:load": ("load", "mire"), "unite:load": ("load", "unite"), "load": ("load", None)}
    assert runs["whole"][0].data.metrics == {"mire R_at_5": 0.5}


def test_what_is_still_open_at_the_end_was_killed(tracker):
    tracker.begin("ours", "/bucket", {"ours"})
    tracker.start("load", PARTS, {})
    tracker.end("KILLED")
    assert [entry[0].info.status for entry in runs_of(tracker).values()] == ["KILLED", "KILLED"]


def test_what_a_stage_counted_is_a_table_and_a_plot_also_when_it_was_cached(tracker):
    rows = [{"reason": "damaged", "count": 3}, {"reason": "too thin", "count": 1}]
    counted = replace(MANIFEST, fields={**MANIFEST.fields, "tables": {"rejects": rows, "notes": [{"note": "x"}], "empty": []}})
    tracker.begin("ours", "/bucket", {"ours"})
    run_id = tracker.start("load", PARTS, {})
    tracker.finish("load", DONE, counted)
    tracker.cached("reset", counted, "/bucket/artefacts/reset/k")
    tracker.end("FINISHED")
    (cached,) = runs_of(tracker)["reset"]
    client = tracker._client()
    for recorded in (run_id, cached.info.run_id):
        names = {entry.path for entry in client.list_artifacts(recorded)}
        assert {"rejects.json", "rejects.svg", "notes.json"} <= names and not names & {"notes.svg", "empty.json"}
        kept = json.loads(Path(client.download_artifacts(recorded, "rejects.json")).read_text())
        assert kept == {"columns": ["reason", "count"], "data": [["damaged", 3], ["too thin", 1]]}
        assert "damaged" in Path(client.download_artifacts(recorded, "rejects.svg")).read_text()


def test_values_that_mlflow_would_refuse_are_made_to_fit(tracker):
    tracker.params = {"long": "x" * 7000, "at@10": None} | {f"p{number}": number for number in range(150)}
    tracker.begin("ours", "/bucket", {"ours"})
    tracker.start("load", PARTS, {})
    tracker.curve(ProgressReport("load", time.time(), {"step": 1.0, "R@10 (%)": 1.0, "grad": math.nan, "loss": math.inf}))
    tracker.finish("load", StageReport("failed", error="e" * 9000), None)
    tracker.end("FAILED")
    runs = runs_of(tracker)
    (whole,), (load,) = runs["whole"], runs["load"]
    assert len(whole.data.params) == 152 and whole.data.params["at_at_10"] == "None"
    assert len(whole.data.params["long"]) == 6000 and len(load.data.tags["error"]) == 8000
    assert load.data.metrics["R_at_10 ___"] == 1.0 and math.isnan(load.data.metrics["grad"])


def test_a_long_curve_is_sent_in_batches_and_none_of_it_is_lost(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "CURVE_SECONDS", 3600.0)
    tracker.begin("ours", "/bucket", {"ours"})
    run_id = tracker.start("load", PARTS, {})
    for step in range(2500):
        tracker.curve(ProgressReport("load", time.time(), {"step": float(step), "loss": 1.0}))
    tracker.end("FINISHED")
    assert [point.step for point in tracker._client().get_metric_history(run_id, "loss")] == list(range(2500))


def test_steps_that_are_repeated_after_a_workers_restart_are_in_the_curve_once(tracker):
    tracker.begin("ours", "/bucket", {"ours"})
    run_id = tracker.start("load", PARTS, {})
    for step in (10, 20, 10, 20, 30):
        tracker.curve(ProgressReport("load", time.time(), {"step": float(step), "total": 40.0, "loss": 1 / step}))
    tracker.end("FINISHED")
    assert [(point.step, point.value) for point in tracker._client().get_metric_history(run_id, "loss")] == [
        (step, 1 / step) for step in (10, 20, 30)
    ]


def test_notes_of_a_stage_are_the_description_of_its_run(tracker):
    tracker.begin("ours", "/bucket", {"ours"})
    run_id = tracker.start("load", PARTS, {})
    for step, notes in ((10, ("the loss is 0",)), (2000, ("slow",)), (10, ("the loss is 0",)), (2010, ())):
        tracker.curve(ProgressReport("load", time.time(), {"step": float(step), "total": 4000.0}, notes))
    tracker.end("FINISHED")
    assert tracker._client().get_run(run_id).data.tags["mlflow.note.content"] == "- Step 10: the loss is 0\n- Step 2,000: slow"


# Where it is kept


def test_the_default_is_a_file_in_the_storage_and_the_variable_comes_first(tmp_path, monkeypatch):
    assert open_tracker(str(tmp_path / "a"), "r", Recipe()).uri == f"sqlite:///{tmp_path}/a/mlflow.db"
    assert open_tracker(str(tmp_path / "a"), "r", Recipe()).artifacts == f"{tmp_path}/a/mlflow"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_tracker("s3://bucket/a", "r", Recipe()).uri == f"sqlite:///{tmp_path}/.mirepoix/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert open_tracker(str(tmp_path), "r", Recipe()).uri == "http://tracking:5000"
    assert open_tracker(str(tmp_path), "r", Recipe()).artifacts is None, "a server stores artifacts where it is configured to"
    assert open_tracker(str(tmp_path), "r", Recipe(), uri="http://other:5000").uri == "http://other:5000"


def test_a_new_store_prints_nothing(tmp_path):
    code = (
        "from mirepoix.workflows.runner.tracking import open_tracker\n"
        f"tracker = open_tracker({str(tmp_path)!r}, 'pair', {{}})\n"
        "tracker.begin('d', '/bucket', {'d'}); tracker.end('FINISHED')\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "" and finished.stderr == ""


def test_only_the_tracker_imports_mlflow_and_not_before_it_writes():
    code = (
        "import sys, mirepoix.workflows.runner.execute\n"
        "from mirepoix.workflows.runner.tracking import Tracker\n"
        "Tracker().begin('d', '/', ())\n"
        "print('mlflow' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# MLflow is away


def test_without_a_uri_nothing_is_recorded():
    assert a_whole_run(Tracker()) is None


@pytest.mark.parametrize("server", ["dead_server", "silent_server"])
def test_a_server_that_is_away_costs_seconds_and_one_warning(server, request, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    import mlflow  # noqa: F401 its import is not what is timed

    tracker = Tracker(request.getfixturevalue(server))
    began = time.monotonic()
    assert a_whole_run(tracker) is None
    assert time.monotonic() - began < 5.0
    first, last = capfd.readouterr().err.strip().splitlines()
    assert first.startswith(f"MLflow at {tracker.uri} does not answer") and first.endswith("tracking is tried again later")
    assert last.startswith(f"MLflow at {tracker.uri} did not answer until the end:")


def test_while_it_does_not_answer_no_call_waits_for_it(silent_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(silent_server)
    tracker.begin("driver", "/bucket", ())
    began = time.monotonic()
    for stage in range(200):
        tracker.start(f"s{stage}", PARTS, {})
        tracker.finish(f"s{stage}", DONE, MANIFEST)
    assert time.monotonic() - began < 10.0, "600 calls, of which each would have waited a second"


def test_when_it_comes_back_all_reports_are_written_with_their_own_times(tracker, monkeypatch, capfd):
    reachable = tracker.uri
    tracker.uri = "http://127.0.0.1:9"
    tracker.begin("driver", "/bucket", {"driver"})
    reported_at = time.time()
    assert tracker.start("load", PARTS, {}) is None
    tracker.curve(ProgressReport("load", reported_at, {"step": 7.0, "loss": 2.0}))
    time.sleep(0.2)
    tracker.uri = reachable
    tracker.finish("load", DONE, MANIFEST)
    tracker.end("FINISHED")
    runs = runs_of(tracker)
    (whole,), (load,) = runs["whole"], runs["load"]
    assert (whole.info.status, load.info.status) == ("FINISHED", "FINISHED")
    assert load.data.metrics["loss"] == 2.0 and load.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert abs(load.info.start_time / 1000 - reported_at) < 0.15
    assert "lost" not in capfd.readouterr().err


def test_a_call_that_is_refused_is_skipped_with_a_warning_and_the_rest_goes_on(tracker, capfd):
    tracker.begin("driver", "/bucket", {"driver"})
    tracker.start("load", PARTS, {})
    tracker._params("load", {"seed": 4})
    tracker.finish("load", DONE, MANIFEST)
    tracker.end("FINISHED")
    assert "MLflow refused a call, which is skipped" in capfd.readouterr().err
    assert runs_of(tracker)["load"][0].info.status == "FINISHED"


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", None])
def test_a_call_on_which_the_server_fails_is_made_again_and_nothing_is_skipped(tracker, monkeypatch, capfd, code):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    errors = [MlflowException("busy", getattr(databricks_pb2, code)) if code else ConnectionResetError("busy")]
    log_batch = MlflowClient.log_batch

    def failing_once(*arguments, **named):
        if errors:
            raise errors.pop()
        return log_batch(*arguments, **named)

    tracker.begin("driver", "/bucket", {"driver"})
    tracker.start("load", PARTS, {})
    monkeypatch.setattr(MlflowClient, "log_batch", failing_once)
    tracker.curve(ProgressReport("load", time.time(), {"step": 7.0, "loss": 2.0}))
    tracker.finish("load", DONE, MANIFEST)
    tracker.end("FINISHED")
    shown = capfd.readouterr().err
    assert not errors and "does not answer (busy)" in shown and "skipped" not in shown
    assert runs_of(tracker)["load"][0].data.metrics["loss"] == 2.0


def test_a_run_is_not_stopped_by_a_tracking_server_that_is_away(dead_server, tmp_path):
    stages = [
        Stage("load", COPY, StubConfig(str(tmp_path / "log"))),
        Stage("join", COPY, StubConfig(str(tmp_path / "log")), {"clean": "load"}),
    ]
    report, _ = run(stages, tmp_path / "storage", tracker=Tracker(dead_server))
    assert report.ok
