"""The latest release of a storage is found by the reports of its runs; an endpoint that would end with its run is not started again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.run import RunRequest, _commands, _endpoint, latest_release, plan_config
from mirepoix.workflows.runner.execute import Report, StageReport, execute
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY, STILL_THERE, StubConfig


@pytest.fixture
def storage(tmp_path):
    """A storage with three releases."""
    for key in ("a", "b", "c"):
        (tmp_path / f"draft-{key}").mkdir()
        (tmp_path / f"draft-{key}" / "release.json").write_text("{}")
        publish(tmp_path / f"draft-{key}", tmp_path / "storage" / "artefacts" / "release" / key, {})
    return tmp_path / "storage"


def ran(storage: Path, name: str, *releases: str) -> None:
    """The folder of a run that made these releases."""
    stages = [{"name": "embed", "digest": "d", "target": f"{storage}/artefacts/embed/e"}]
    for number, key in enumerate(releases):
        step = f"{'ab'[number]}:release" if len(releases) > 1 else "release"
        stages.append({"name": step, "digest": "d", "target": f"{storage}/artefacts/release/{key}"})
    (storage / "runs" / name).mkdir(parents=True)
    (storage / "runs" / name / "report.json").write_text(json.dumps({"stages": stages}))


def test_it_is_that_of_the_latest_run_that_made_one(storage):
    ran(storage, "search-20260101-120000-aaaa", "a")
    ran(storage, "finetune-20260301-120000-aaaa", "b")
    ran(storage, "zebra-20260201-120000-aaaa", "c")
    ran(storage, "search-20260401-120000-aaaa")
    (storage / "runs" / "search-20260501-120000-aaaa").mkdir()  # killed before its report
    assert latest_release(str(storage)) == f"{storage}/artefacts/release/b"


@pytest.mark.parametrize(("after", "offered"), [(0.1, True), (0.2, True), (0.3, False)])
def test_where_a_training_did_not_help_the_run_without_it_is_offered(after, offered, monkeypatch):
    monkeypatch.delenv("MIREPOIX_STORAGE", raising=False)
    headline = {"untrained": {"average": 0.2}, "trained": {"average": after}}
    given = RunRequest("quickstart", storage="/my disk/s")
    found = _commands(given, given.resolved(), Report({}), "/my disk/s/runs/q", headline)
    command = "mirepoix run '/my disk/s/runs/q/config.yaml' adapt=null instruct=null --storage '/my disk/s'"
    assert found == ({"untrained": command} if offered else {})
    unnamed = RunRequest("mine", given=given.resolved())
    assert _commands(unnamed, given.resolved(), Report({}), "/s/runs/q", headline) == {}, "a config of no recipe is not run by its file"


def test_a_release_that_is_gone_is_passed_over(storage):
    ran(storage, "search-20260101-120000-aaaa", "a")
    ran(storage, "search-20260201-120000-aaaa", "b")
    shutil.rmtree(storage / "artefacts" / "release" / "b")
    assert latest_release(str(storage)) == f"{storage}/artefacts/release/a"


def test_a_storage_may_have_been_moved(storage, tmp_path):
    key, releases = "b" * 16, storage / "artefacts" / "release"
    (releases / "b").rename(releases / key)
    ran(storage, "search-20260101-120000-aaaa", key)
    storage.rename(tmp_path / "moved")
    assert latest_release(str(tmp_path / "moved")) == f"{tmp_path}/moved/artefacts/release/{key}"


def test_of_a_run_with_several_one_is_to_be_named(storage):
    ran(storage, "quickstart_all-20260101-120000-aaaa", "a", "b")
    with pytest.raises(Refused, match=r"made 2 releases; give the folder of one: a .*/release/a, b .*/release/b"):
        latest_release(str(storage))


def test_without_a_run_the_only_release_is_taken_and_of_several_none(storage):
    with pytest.raises(Refused, match=r"which of its 3 releases is the latest; give one: .*/release/a, "):
        latest_release(str(storage))
    for key in "ab":
        shutil.rmtree(storage / "artefacts" / "release" / key)
    assert latest_release(str(storage)) == f"{storage}/artefacts/release/c"


def test_a_storage_without_a_release_is_refused_with_what_to_do(tmp_path, capsys):
    assert main(["serve", "--storage", str(tmp_path / "none")]) == 2
    words = "make one with `mirepoix run`, or give the folder of one, or --storage"
    assert capsys.readouterr().err == f"mirepoix: there is no release in the storage {tmp_path}/none; {words}\n"
    assert not (tmp_path / "none").exists()


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
