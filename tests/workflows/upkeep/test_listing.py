"""`runs`, `show` and `keep`."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import served_mark
from mirepoix.serving.store import delete, join
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.runner.lease import Driver
from tests.workflows.upkeep.storages import DAY, make_release, make_result, make_run, run_name, target

HEADLINE = {
    "split": "test",
    "pool": "target",
    "measure": "R@5",
    "called": "R@5",
    "mean": "tasks",
    "below": {},
    "encoder": {"average": 0.625, "low": 0.5, "high": 0.75},
}

MEASURED = {"average": 0.625, "low": 0.5, "high": 0.75, "tasks": {"t->i": 0.625}}
RESULTS = [
    {"split": "test", "pool": pool, "system": "encoder", "R@5": MEASURED, "queries": {"t->i": 8}} for pool in ("target", "universal")
]


@pytest.fixture
def storage(tmp_path):
    """Two runs that share their vectors: the older one made a release, the newer one failed."""
    home = str(tmp_path / "storage")
    make_result(home, "vectors", "embed", 1000)
    make_result(home, "first", "release", 3_000_000)
    make_run(home, 1, {"vectors": "embed", "first": "release"}, age=3 * DAY, headline=HEADLINE, results=RESULTS)
    make_run(home, 2, {"vectors": "embed", "second": "release"}, age=2 * DAY, failed=("second",))
    return home


def test_runs_are_listed_newest_first_with_state_score_and_size(cli, storage):
    status, out, _ = cli("runs", "--storage", storage)
    head, newer, older = out.splitlines()
    assert status == 0
    assert head.split() == ["run", "recipe", "state", "score", "size", "when"]
    assert newer.split()[:6] == [run_name(2), "search", "failed", "-", "1.0", "kB"]
    assert older.split()[:7] == [run_name(1), "search", "done", "R@5", "0.625", "3.0", "MB"]
    assert older.endswith("  latest") and not newer.endswith("latest")


def test_runs_as_json_say_how_much_is_a_runs_own(cli, storage):
    newer, older = json.loads(cli("runs", "--json", "--storage", storage)[1])
    assert (older["bytes"], older["bytes_alone"]) == (3_001_000, 3_000_000)
    assert (newer["bytes"], newer["bytes_alone"], newer["state"]) == (1000, 0, "failed")
    assert older["score"] == {"arm": "", "measure": "R@5", "average": 0.625}
    assert older["releases"] == {"release": target(storage, "first", "release")}


def test_a_file_that_results_share_is_counted_once_and_as_freed_where_all_its_names_go(cli, storage, tmp_path):
    one, other = (Path(make_result(storage, "third", stage, 3_000_000), "content.bin") for stage in ("backbone", "release"))
    other.unlink()
    os.link(one, other)
    make_run(storage, 3, {"vectors": "embed"}, age=DAY)
    make_run(storage, 4, {"third": "backbone"}, age=DAY / 2)
    make_run(storage, 5, {"vectors": "embed", "third": "release"}, age=DAY / 4)

    def sized() -> dict[str, tuple[int, int]]:
        rows = json.loads(cli("runs", "--json", "--storage", storage)[1])
        return {row["name"]: (row["bytes"], row["bytes_alone"]) for row in rows}

    assert sized()[run_name(5)] == (3_001_000, 0), "the other name of the file is of run 4"
    shutil.rmtree(Path(storage, "runs", run_name(4)))
    os.unlink(one)
    assert sized()[run_name(5)] == (3_001_000, 3_000_000)
    make_result(storage, "fourth", "index", 3_000_000)
    whole = Path(target(storage, "fourth", "index"), "content.bin")
    whole.unlink()
    os.link(other, whole)
    make_run(storage, 6, {"third": "release", "fourth": "index"}, age=DAY / 8)
    assert sized()[run_name(6)] == (3_000_000, 0)


def test_a_storage_without_a_run_is_said_to_have_none_in_one_line(cli, tmp_path):
    assert cli("runs", "--storage", str(tmp_path / "none"))[:2] == (0, f"there is no run in {tmp_path / 'none'} yet\n")
    assert cli("runs", "--json", "--storage", str(tmp_path / "none"))[:2] == (0, "[]\n")
    assert not (tmp_path / "none").exists()


def test_a_run_that_goes_on_and_one_that_was_killed_are_told_apart(cli, storage):
    name = run_name(3)
    make_run(storage, 3, {"vectors": "embed"}, report=False)
    with Driver(storage, folder=join(storage, "runs", name)) as driver:
        driver.rely(target(storage, "vectors"))
        assert json.loads(cli("runs", "--json", "--storage", storage)[1])[0]["state"] == "running"
        shown = cli("show", name, "--storage", storage)[1]
        assert f"{name}  running" in shown and "1 results were made or relied on so far" in shown
    assert json.loads(cli("runs", "--json", "--storage", storage)[1])[0]["state"] == "killed"


def test_the_best_arm_of_a_comparison_is_its_score(cli, storage):
    better = {**HEADLINE, "encoder": {"average": 0.75, "low": 0.5, "high": 0.8}}
    make_run(storage, 4, {"vectors": "embed"}, age=DAY, arms={"unite": {"headline": HEADLINE}, "mire": {"headline": better}, "jfe": {}})
    assert "R@5 0.750 (mire)" in cli("runs", "--storage", storage)[1]


def test_show_prints_stages_scores_release_who_else_needs_a_result_and_what_to_do_next(cli, storage):
    status, out, _ = cli("show", run_name(1), "--storage", storage)
    assert status == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["embed"] == ["embed", "done", "1:02", "1.0", "kB", run_name(2)]
    assert lines["t->i"] == ["t->i", "8", "0.625"]
    assert lines["release"][:2] == ["release", target(storage, "first", "release")]
    assert f"serve it   mirepoix serve {storage}/runs/{run_name(1)}" in out
    assert f"run again  mirepoix run search --config {storage}/runs/{run_name(1)}/config.yaml --storage {storage}" in out


def test_show_names_the_error_of_a_failed_stage_and_a_result_that_is_gone(cli, storage):
    delete(target(storage, "vectors"))
    out = cli("show", run_name(2), "--storage", storage)[1]
    assert "the disk is full" in out
    assert next(line for line in out.splitlines() if line.startswith("embed")).split()[:2] == ["embed", "gone"]


@pytest.mark.parametrize("given", ["latest", run_name(2), run_name(2)[:-3], "FOLDER", "FOLDER/"])
def test_a_run_is_named_by_its_folder_its_name_its_beginning_or_as_the_latest(cli, storage, given):
    given = given.replace("FOLDER", f"{storage}/runs/{run_name(2)}")
    assert cli("show", given, "--storage", storage)[1].startswith(run_name(2))


@pytest.mark.parametrize(("given", "message"), [("search", "2 runs begin with"), ("nope", "there is no run 'nope'")])
def test_a_name_that_means_no_run_or_several_is_refused(cli, storage, given, message):
    status, _, err = cli("show", given, "--storage", storage)
    assert status == 2 and message in err and run_name(2) in err


def test_a_run_of_another_storage_is_refused(cli, storage, tmp_path):
    status, _, err = cli("show", f"{tmp_path}/other/runs/{run_name(2)}", "--storage", storage)
    assert status == 2 and "is not in" in err


def test_a_run_is_pinned_and_the_pin_taken_away(cli, storage):
    assert cli("keep", "latest", "--storage", storage)[0] == 0
    assert cli("runs", "--storage", storage)[1].splitlines()[1].endswith("kept")
    assert "is not kept any longer" in cli("keep", "latest", "--undo", "--storage", storage)[1]
    assert "was not kept" in cli("keep", "latest", "--undo", "--storage", storage)[1]
    assert not cli("runs", "--storage", storage)[1].splitlines()[1].endswith("kept")


def test_a_run_whose_release_is_served_is_listed_as_served(cli, storage):
    with served_mark(target(storage, "first", "release"), "http://127.0.0.1:8000"):
        assert cli("runs", "--storage", storage)[1].splitlines()[2].endswith("served at http://127.0.0.1:8000")
    assert "served" not in cli("runs", "--storage", storage)[1]


def test_a_run_that_only_adds_to_a_served_release_is_not_listed_as_served(cli, storage):
    make_run(storage, 3, {"third": "release"}, age=DAY, settings={"release": target(storage, "first", "release")})
    with served_mark(target(storage, "first", "release"), "http://127.0.0.1:8000"):
        assert ["served at" in line for line in cli("runs", "--storage", storage)[1].splitlines()[1:]] == [False, False, True]


def test_a_run_that_made_a_release_with_an_alias_is_listed_with_it(cli, storage, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.upkeep.promotion.follow", lambda *_: "")
    make_release(storage, "third")
    make_run(storage, 3, {"third": "release"}, age=DAY)
    make_run(storage, 4, {"first": "release"}, age=DAY, settings={"release": target(storage, "third", "release")})
    assert cli("releases", "promote", run_name(3), "--storage", storage)[0] == 0
    rows = {row["name"]: row["aliases"] for row in json.loads(cli("runs", "--json", "--storage", storage)[1])}
    assert rows == {run_name(number): ["@champion"] if number == 3 else [] for number in (1, 2, 3, 4)}
    assert f"{run_name(3)}  " in cli("runs", "--storage", storage)[1]
    assert [line.split()[0] for line in cli("runs", "--storage", storage)[1].splitlines() if "@champion" in line] == [run_name(3)]
    assert "  kept     @champion\n" in cli("show", run_name(3), "--storage", storage)[1]


def test_nothing_is_kept_in_a_folder_that_is_no_storage(cli, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    status, _, err = cli("keep", "latest", "--storage", str(tmp_path))
    assert status == 2 and "is no storage" in err


def test_a_run_that_a_file_began_and_ctrl_c_ended_goes_on_by_the_command_that_show_prints(cli, tmp_path, monkeypatch):
    """The folder has what `run` writes before its first stage; a plan by the printed command is that of the file."""
    file, storage = tmp_path / "mirepoix.yaml", tmp_path / "storage"
    file.write_text("recipe: quickstart\nseed: 3\ninstruct:\n  max_steps: 7\n")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    words = ["--storage", str(storage)]
    planned = cli("run", str(file), "--plan", *words)[:2]
    with monkeypatch.context() as patched:
        patched.setattr("mirepoix.workflows.run.Driver", interrupt)
        patched.setattr("mirepoix.workflows.run.open_tracker", lambda *_: None)
        assert main(["run", str(file), *words]) == 130
    (line,) = [line for line in cli("show", "latest", *words)[1].splitlines() if line.startswith("run again  mirepoix ")]
    again = shlex.split(line)[3:]
    assert cli(*again, "--plan")[:2] == planned
    assert cli("describe", *again[1 : again.index("--storage")])[1] == cli("describe", str(file))[1]
