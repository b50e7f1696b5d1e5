"""An endpoint that would end with its run is not started again, and is said to be up only where it is."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.serving.store import publish
from mirepoix.workflows.run import RunRequest, _commands, _endpoint, plan_config
from mirepoix.workflows.runner.execute import Report, StageReport, execute
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY, STILL_THERE, StubConfig

ROOT = Path(__file__).parents[2]
RIGHTS = "-dac_override,-dac_read_search"  # of root, for whom permissions do not count


@pytest.mark.parametrize(("after", "offered"), [(0.1, True), (0.2, True), (0.3, False)])
def test_where_a_training_did_not_help_the_run_without_it_is_offered(after, offered, monkeypatch):
    monkeypatch.delenv("MIREPOIX_STORAGE", raising=False)
    figures = {name: {"average": average, "low": 0.0, "high": 1.0} for name, average in (("untrained", 0.2), ("trained", after))}
    headline = {"measure": "R@5", **figures}
    given = RunRequest("quickstart", storage="/my disk/s")
    found = _commands(given, given.resolved(), Report({}), "/my disk/s/runs/q", headline)
    command = "mirepoix run '/my disk/s/runs/q/config.yaml' adapt=null instruct=null --storage '/my disk/s'"
    assert found == ({"untrained": command} if offered else {})
    unnamed = RunRequest("mine", given=given.resolved())
    assert _commands(unnamed, given.resolved(), Report({}), "/s/runs/q", headline) == {}, "a config of no recipe is not run by its file"


def test_an_endpoint_that_has_answered_is_started_again_only_where_it_stays_up_or_is_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.run._joins", lambda request: request.address is not None)
    monkeypatch.setattr("mirepoix.workflows.run._problems", lambda *_: [])
    stages = [Stage("deploy", COPY, StubConfig(str(tmp_path / "log")), valid=STILL_THERE)]
    config, storage = SimpleNamespace(stages=lambda: stages), str(tmp_path / "storage")

    def reason(**request) -> str:
        return plan_config(RunRequest("any", storage=storage, **request), config)[0].stages["deploy"].reason

    assert reason() == "never ran"
    assert execute(stages, storage, local=True).ok
    assert reason() == "up to date"
    assert reason(address="HEAD:6379") == reason(private=True) == "its result no longer holds"
    assert reason(force=("deploy",)) == "forced"


def test_an_endpoint_is_said_to_be_up_only_where_it_answers_or_was_just_started_on_a_cluster_that_stays(tmp_path):
    (tmp_path / "draft").mkdir()
    Receipt("http://127.0.0.1:9", "abc", "mirepoix").write(tmp_path / "draft")
    publish(tmp_path / "draft", tmp_path / "deploy", {})

    def url(status: str, joined: bool) -> str | None:
        return _endpoint(Report({"deploy": StageReport(status, target=str(tmp_path / "deploy"))}), joined)

    assert url("done", joined=True) == "http://127.0.0.1:9"
    assert url("done", joined=False) is url("skipped", joined=False) is url("failed", joined=True) is None


def test_a_folder_of_the_corpus_that_may_not_be_read_is_named_before_the_first_stage(tmp_path):
    closed = tmp_path / "pictures" / "own"
    closed.mkdir(parents=True)
    Image.effect_noise((40, 30), 50).save(tmp_path / "pictures" / "p.png")
    closed.chmod(0)
    unprivileged = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"] if os.geteuid() == 0 else []
    words = ["run", "search", f"sources.path={tmp_path / 'pictures'}", "--storage", str(tmp_path / "storage")]
    ended = subprocess.run([*unprivileged, sys.executable, "-m", "mirepoix.workflows", *words], cwd=ROOT, capture_output=True, text=True)
    closed.chmod(0o755)
    assert ended.returncode == 2 and ended.stdout == "" and not (tmp_path / "storage").exists()
    assert ended.stderr == (
        f"mirepoix: corpus '{tmp_path}/pictures' cannot be read whole: {closed} is closed to this user; make it readable, move it "
        "elsewhere, or give the folders that can be read as sources.path\n"
    )
