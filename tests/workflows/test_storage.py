"""How a storage is recognised, where a result is found after it was moved, and which release is the latest."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.execute import execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.storage import (
    bases_of,
    is_storage,
    latest_release,
    opened_storage,
    present,
    release_of,
    revised_before,
    revised_since,
    run_names,
)
from mirepoix.workflows.upkeep.gc import Limits, collect
from mirepoix.workflows.upkeep.runs import read_runs
from tests.components.ingestion.formats.format_cases import write_files
from tests.workflows.runner.stub_stages import COPY, StubConfig, run
from tests.workflows.upkeep.storages import DAY, make_result, make_run, run_name, target

REVISED = ("1" * 16, "2" * 16, "3" * 16)


@pytest.mark.parametrize(
    ("path", "recognised"),
    [
        ("runs/search-20260102-030405-00ff/config.yaml", True),
        ("artefacts/embed/0123456789abcdef/manifest.json", True),
        ("leases/driver-host-1-abc.json", True),
        ("leases/.lock", True),
        ("runs/monday/track.gpx", False),
        ("artefacts/pottery/vase/photo.jpg", False),
        ("photo.jpg", False),
    ],
)
def test_a_storage_is_recognised_by_the_names_that_only_runs_give(tmp_path, path, recognised):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    assert is_storage(str(tmp_path)) == recognised


def test_the_runs_of_a_storage_are_in_the_order_in_which_they_began_whatever_their_recipe(tmp_path):
    names = ["b-20260102-030405-00ff", "a-b-20260102-030405-01ff", "c-20251231-235959-ffff", "a-b-c-d", "notes.txt"]
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert run_names(str(tmp_path)) == [names[1], names[0], names[2]]


def test_a_storage_in_the_folder_of_pictures_is_no_part_of_the_source(tmp_path, monkeypatch, capsys):
    """`cd pictures; mirepoix init .; mirepoix run mirepoix.yaml`, twice."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Image.effect_noise((40, 30), 50 + 40 * number).save(f"p{number}.png")
    assert main(["init", "."]) == 0
    for status in ("done", "skipped"):
        stages = [stage for stage in resolve("mirepoix.yaml").stages() if stage.name in ("sources", "curate")]
        report = execute(stages, "storage", local=True)
        assert [stage.status for stage in report.stages.values()] == [status, status]
    write_files(Path("storage"), {"runs/search-20260102-030405-00ff/report.json": "{}", "mlflow.db": b"x", "mlflow/1/meta.yaml": "a: b"})
    assert main(["init", ".", "--force"]) == 0
    assert "3 pictures" in capsys.readouterr().out
    assert SourceFiles(".").files() == ["mirepoix.yaml", "p0.png", "p1.png", "p2.png"]


def test_a_file_and_a_missing_folder_are_no_storage(tmp_path):
    (tmp_path / "file").touch()
    assert not is_storage(str(tmp_path / "file")) and not is_storage(str(tmp_path / "none"))


def test_the_storage_is_that_given_else_the_default_one(monkeypatch, tmp_path):
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path))
    assert opened_storage(None) == str(tmp_path)
    assert opened_storage("mine") == str(Path("mine").absolute())
    assert opened_storage("s3://bucket/a?region=x") == "s3://bucket/a?region=x"


def test_the_release_of_a_run_is_found_after_its_storage_was_moved(tmp_path):
    make_result(str(tmp_path / "here"), "a", "release")
    make_run(str(tmp_path / "here"), 1, {"a": "release"})
    os.rename(tmp_path / "here", tmp_path / "there")
    assert release_of(str(tmp_path / "there" / "runs" / run_name(1))) == target(str(tmp_path / "there"), "a", "release")


def test_a_result_that_is_nowhere_keeps_the_name_that_the_report_gives(tmp_path):
    gone = target(str(tmp_path / "here"), "a", "release")
    assert present(gone, str(tmp_path / "there" / "runs" / run_name(1))) == gone
    assert present("/exported/release", str(tmp_path)) == "/exported/release"


def test_a_backup_that_was_made_while_a_run_ended_is_whole_and_is_restored_elsewhere(tmp_path):
    """As docs/storage.md says: first the runs, then the results; back in the other order, to another path."""
    storage, backup, restored = (tmp_path / name for name in ("storage", "backup", "elsewhere"))
    log = str(tmp_path / "log")
    stages = [Stage("load", COPY, StubConfig(log, "load")), Stage("index", COPY, StubConfig(log, "index"), {"before": "load"})]
    first, _ = run(stages, storage)
    make_result(str(storage), "a", "release")
    make_run(str(storage), 1, {"a": "release"})
    shutil.copytree(storage / "runs", backup / "runs")
    make_result(str(storage), "b", "release")  # a run that ends between the two copies
    make_run(str(storage), 2, {"b": "release"})
    shutil.copytree(storage / "artefacts", backup / "artefacts")
    shutil.rmtree(storage)
    shutil.copytree(backup / "artefacts", restored / "artefacts")
    shutil.copytree(backup / "runs", restored / "runs")
    (found,) = read_runs(str(restored))
    assert (found.name, found.state) == (run_name(1), "done")
    assert release_of(found.folder) == target(str(restored), "a", "release")
    again, _ = run(stages, restored)
    assert [stage.status for stage in again.stages.values()] == ["skipped", "skipped"]
    assert [stage.digest for stage in again.stages.values()] == [stage.digest for stage in first.stages.values()]
    collect(str(restored), Limits(older_than=100 * DAY))
    assert release_of(found.folder) == target(str(restored), "a", "release")


@pytest.fixture
def released(tmp_path):
    """A storage with releases."""
    for key in ("a", "b", "c", *REVISED):
        (tmp_path / f"draft-{key}").mkdir()
        (tmp_path / f"draft-{key}" / "release.json").write_text("{}")
        publish(tmp_path / f"draft-{key}", tmp_path / "storage" / "artefacts" / "release" / key, {})
    return tmp_path / "storage"


def ran(storage: Path, name: str, *releases: str, status: str = "done", base: str | None = None) -> None:
    """The folder of a run that made these releases, or with the status `skipped` found them; by `add` or `remove` if it has a base."""
    stages = [{"name": "embed", "digest": "d", "target": f"{storage}/artefacts/embed/e"}]
    for number, key in enumerate(releases):
        step = f"{'ab'[number]}:release" if len(releases) > 1 else "release"
        stages.append({"name": step, "digest": "d", "status": status, "target": f"{storage}/artefacts/release/{key}"})
    bases = [] if base is None else bases_of(f"{storage}/artefacts/release/{base}")
    recipe, settings = name.rpartition("-2026")[0], {"sources": {"path": ["mine"]}}
    (storage / "runs" / name).mkdir(parents=True)
    report = {"recipe": recipe, "stages": stages, "settings": settings, "bases": bases}
    (storage / "runs" / name / "report.json").write_text(json.dumps(report))


def test_it_is_that_of_the_latest_run_that_made_one(released):
    ran(released, "search-20260101-120000-aaaa", "a")
    ran(released, "finetune-20260301-120000-aaaa", "b")
    ran(released, "zebra-20260201-120000-aaaa", "c")
    ran(released, "search-20260401-120000-aaaa")
    (released / "runs" / "search-20260501-120000-aaaa").mkdir()  # killed before its report
    assert latest_release(str(released)) == f"{released}/artefacts/release/b"


def test_a_release_that_is_gone_is_passed_over(released):
    ran(released, "search-20260101-120000-aaaa", "a")
    ran(released, "search-20260201-120000-aaaa", "b")
    shutil.rmtree(released / "artefacts" / "release" / "b")
    assert latest_release(str(released)) == f"{released}/artefacts/release/a"


def test_a_storage_may_have_been_moved(released, tmp_path):
    key, releases = "b" * 16, released / "artefacts" / "release"
    (releases / "b").rename(releases / key)
    ran(released, "search-20260101-120000-aaaa", key)
    released.rename(tmp_path / "moved")
    assert latest_release(str(tmp_path / "moved")) == f"{tmp_path}/moved/artefacts/release/{key}"


def test_of_a_run_with_several_one_is_to_be_named(released):
    ran(released, "quickstart_all-20260101-120000-aaaa", "a", "b")
    with pytest.raises(Refused, match=r"made 2 releases; give the folder of one: a .*/release/a, b .*/release/b"):
        latest_release(str(released))


def test_without_a_run_the_only_release_is_taken_and_of_several_none(released):
    with pytest.raises(Refused, match=r"which of its 6 releases is the latest; give one: .*/release/a, "):
        latest_release(str(released))
    for key in ("a", "b", *REVISED):
        shutil.rmtree(released / "artefacts" / "release" / key)
    assert latest_release(str(released)) == f"{released}/artefacts/release/c"


def revised(storage: Path) -> list[str]:
    """A release, one with items added to it, and one with some of these removed; their targets."""
    first, second, third = REVISED
    ran(storage, "search-20260101-120000-aaaa", first)
    ran(storage, "add-20260102-120000-aaaa", second, base=first)
    ran(storage, "remove-20260103-120000-aaaa", third, base=second)
    return [f"{storage}/artefacts/release/{key}" for key in REVISED]


def test_a_run_that_finds_its_release_up_to_date_does_not_undo_what_add_and_remove_made_of_it(released):
    first, second, third = revised(released)
    ran(released, "search-20260104-120000-aaaa", REVISED[0], status="skipped")
    assert latest_release(str(released)) == third
    shutil.rmtree(third)
    assert latest_release(str(released)) == second
    shutil.rmtree(second)
    assert latest_release(str(released)) == first


def test_a_run_that_makes_its_release_has_the_latest(released):
    revised(released)
    ran(released, "search-20260104-120000-aaaa", "b")
    assert latest_release(str(released)) == f"{released}/artefacts/release/b"
    ran(released, "search-20260105-120000-aaaa", "c", status="skipped")
    assert latest_release(str(released)) == f"{released}/artefacts/release/c", "nothing was made of it"


def test_what_was_made_of_a_release_is_found_over_several_steps_of_which_a_run_may_be_gone(released):
    first, second, third = revised(released)
    home, last = str(released), f"{released}/runs/remove-20260103-120000-aaaa"
    assert revised_since(home, first) == revised_since(home, second) == (last, third)
    assert revised_since(home, third) is None
    assert bases_of(third) == [third, second, first]
    shutil.rmtree(released / "runs" / "add-20260102-120000-aaaa")  # as gc leaves it, which takes the release too
    shutil.rmtree(second)
    assert revised_since(home, first) == (last, third)
    ran(released, "search-20260104-120000-aaaa", REVISED[0], status="skipped")
    assert latest_release(home) == third


def test_what_was_made_of_the_release_before_is_that_of_the_run_with_the_same_recipe_and_sources(released):
    third = revised(released)[-1]
    changed, home, runs = (f"{released}/runs/remove-20260103-120000-aaaa", third), str(released), f"{released}/runs"
    ran(released, "search-20260105-120000-aaaa", "a")
    ran(released, "search-20260106-120000-aaaa", "b")
    assert revised_before(home, "search", ["mine"], f"{runs}/search-20260105-120000-aaaa") == changed
    assert revised_before(home, "search", ["mine"], f"{runs}/search-20260106-120000-aaaa") is None, "that was said of the run before"
    assert revised_before(home, "search", ["mine"]) is None
    for name in ("search-20260105-120000-aaaa", "search-20260106-120000-aaaa"):
        shutil.rmtree(released / "runs" / name)
    assert revised_before(home, "search", ["mine"]) == changed
    assert revised_before(home, "search", ["other"]) is revised_before(home, "finetune", ["mine"]) is None


@pytest.mark.parametrize("damaged", ["{", "[]", '{"stages": 1}', '{"stages": [], "settings": null, "bases": null}'])
def test_a_damaged_report_is_passed_over(released, damaged):
    ran(released, "search-20260101-120000-aaaa", "a")
    ran(released, "search-20260102-120000-aaaa", "b")
    (released / "runs" / "search-20260102-120000-aaaa" / "report.json").write_text(damaged)
    assert latest_release(str(released)) == f"{released}/artefacts/release/a"


def test_a_storage_without_a_release_is_refused_with_what_to_do(tmp_path, capsys):
    assert main(["serve", "--storage", str(tmp_path / "none")]) == 2
    words = "make one with `mirepoix run`, or give the folder of one, or --storage"
    assert capsys.readouterr().err == f"mirepoix: there is no release in the storage {tmp_path}/none; {words}\n"
    assert not (tmp_path / "none").exists()
