"""The latest release of a storage is found by the reports of its runs; an endpoint that would end with its run is not started again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.run import RunRequest, _endpoint, latest_release, plan_config
from mirepoix.workflows.runner.execute import Report, StageReport, execute
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY, STILL_THERE, StubConfig

ROOT = Path(__file__).parents[2]
RIGHTS = "-dac_override,-dac_read_search"  # of root, for whom permissions do not count


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
