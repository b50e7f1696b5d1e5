"""The latest release of a storage is found by the reports of its runs."""

import json
import shutil
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.run import latest_release


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
    ran(storage, "search-20260101-120000-aaaa", "b")
    storage.rename(tmp_path / "moved")
    assert latest_release(str(tmp_path / "moved")) == f"{tmp_path}/moved/artefacts/release/b"


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
