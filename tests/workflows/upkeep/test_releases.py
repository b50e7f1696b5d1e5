"""`mirepoix releases`: what lies in a storage, what made it, what it measured, and who names and serves it."""

import json
import shutil
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import served_mark
from mirepoix.serving.store import join
from mirepoix.workflows.upkeep.releases import of_version, stored_releases
from tests.workflows.upkeep.storages import DAY, make_release, make_result, make_run, place, run_name, stage_of, target


def headline(average: float) -> dict:
    return {"split": "test", "pool": "target", "measure": "R@5", "encoder": {"average": average, "low": 0.5, "high": 0.75}}


@pytest.fixture
def storage(tmp_path):
    """A release that was measured, one that `add` made of it, and two arms of a comparison of which one was not measured."""
    home = str(tmp_path / "storage")
    make_release(home, "a", size=3_000_000, age=4 * DAY)
    make_run(home, 1, {"a": "release"}, age=4 * DAY, headline=headline(0.625))
    make_release(home, "b", age=3 * DAY)
    make_run(home, 2, {"b": "release"}, age=3 * DAY, recipe="add", bases=[target(home, "a", "release")])
    for name in ("unite", "mire"):
        make_release(home, name, "compared", age=2 * DAY)
    stages = [{**stage_of(home, name, "release"), "name": f"{name}:release"} for name in ("unite", "mire")]
    make_run(home, 3, {}, age=2 * DAY, recipe="both", stages=stages, arms={"unite": {"headline": headline(0.5)}, "mire": {}})
    return home


def listed(cli, storage: str) -> dict[str, dict]:
    """The rows of `releases --json` by the name of the result."""
    rows = json.loads(cli("releases", "--json", "--storage", storage)[1])
    return {name: row for row in rows for name in ("a", "b", "c", "unite", "mire") if row["folder"] == target(storage, name, "release")}


def test_releases_are_listed_newest_first_with_what_made_them_and_what_they_measured(cli, storage):
    status, out, _ = cli("releases", "--storage", storage)
    head, *lines = out.splitlines()
    version = {name: row["version"] for name, row in listed(cli, storage).items()}
    assert status == 0 and head.split() == ["version", "name", "score", "size", "when", "made", "by"]
    assert {line.split()[0] for line in lines[:2]} == {version["unite"], version["mire"]}
    assert [line.split()[0] for line in lines[2:]] == [version["b"], version["a"]]
    a, b = lines[3], lines[2]
    assert a.split()[1:6] == ["mirepoix", "R@5", "0.625", "3.0", "MB"] and a.endswith(run_name(1))
    assert b.split()[2] == "-" and b.endswith(f"  {run_name(2, 'add')} from {version['a']}")
    (unite,) = (line for line in lines if line.startswith(version["unite"]))
    assert "R@5 0.500" in unite and f"{run_name(3, 'both')} (unite)  latest" not in unite and f"{run_name(3, 'both')} (unite)" in unite


def test_releases_as_json_have_arms_parents_scores_and_digests(cli, storage):
    rows = listed(cli, storage)
    assert rows["unite"]["score"] == {"measure": "R@5", "average": 0.5} and rows["mire"]["score"] is None
    assert (rows["unite"]["arm"], rows["unite"]["recipe"], rows["unite"]["name"]) == ("unite", "both", "compared")
    assert rows["b"]["parent"] == {"folder": target(storage, "a", "release"), "version": rows["a"]["version"]}
    assert rows["a"]["bytes"] > 3_000_000 and len(rows["a"]["digest"]) == 64 and rows["a"]["parent"] is None
    shutil.rmtree(target(storage, "a", "release"))
    assert listed(cli, storage)["b"]["parent"] == {"folder": target(storage, "a", "release"), "version": None}
    assert "from a release that is gone" in cli("releases", "--storage", storage)[1]


def test_the_run_that_made_a_release_is_named_and_not_those_that_found_it_made(cli, storage):
    for number in (0, 5):
        make_run(storage, number, {}, age=DAY, stages=[{**stage_of(storage, "a", "release"), "status": "skipped"}])
    assert listed(cli, storage)["a"]["run"] == run_name(1)
    shutil.rmtree(Path(storage, "runs", run_name(1)))
    assert listed(cli, storage)["a"]["run"] == run_name(0), "the first of those that are left"
    for number in (0, 5):
        shutil.rmtree(Path(storage, "runs", run_name(number)))
    assert listed(cli, storage)["a"]["run"] is None and "no run that is left" in cli("releases", "--storage", storage)[1]


def test_a_run_that_was_renamed_is_named_with_its_recipe(cli, storage):
    Path(storage, "runs", run_name(1)).rename(Path(storage, "runs", "the-good-one"))
    assert "the-good-one, search" in cli("releases", "--storage", storage)[1]


def test_a_release_that_is_gone_is_not_listed_and_one_that_is_damaged_is_marked(cli, storage):
    shutil.rmtree(target(storage, "b", "release"))
    Path(target(storage, "mire", "release"), "release.json").unlink()
    Path(target(storage, "a", "release"), "content.bin").write_bytes(b"x")
    make_result(storage, "vectors", "embed")
    rows = listed(cli, storage)
    assert set(rows) == {"a", "unite"}
    assert rows["a"]["damage"].startswith("file content.bin has 1 bytes") and rows["unite"]["damage"] == ""
    assert "damaged: file content.bin has 1 bytes" in cli("releases", "--storage", storage)[1]


def test_who_serves_a_release_and_which_aliases_name_it_is_said(cli, storage, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.upkeep.promotion.follow", lambda *_: "")
    version = listed(cli, storage)["a"]["version"]
    assert cli("releases", "promote", version, "--storage", storage)[0] == 0
    with served_mark(target(storage, "a", "release"), "http://127.0.0.1:8123"):
        row = listed(cli, storage)["a"]
        assert (row["aliases"], row["served"]) == (["@champion"], ["http://127.0.0.1:8123"])
        assert cli("releases", "--storage", storage)[1].splitlines()[-1].endswith("  @champion, served at http://127.0.0.1:8123")
    assert listed(cli, storage)["a"]["served"] == []


def test_a_storage_without_a_release_says_so(cli, tmp_path):
    status, out, _ = cli("releases", "--storage", str(tmp_path / "none"))
    assert status == 0 and out.startswith(f"there is no release in {tmp_path / 'none'} yet; one is made by mirepoix run")
    assert cli("releases", "--json", "--storage", str(tmp_path / "none"))[:2] == (0, "[]\n")
    assert not (tmp_path / "none").exists()


def test_on_an_object_store_releases_are_listed_and_damage_is_found(cli, bucket, tmp_path):
    home = bucket(tmp_path.name)
    version = make_release(home, "a")
    make_run(home, 1, {"a": "release"}, headline=headline(0.625))
    (row,) = json.loads(cli("releases", "--json", "--storage", home)[1])
    assert (row["version"], row["run"], row["folder"], row["damage"]) == (
        version,
        run_name(1),
        join(home, *place("a", "release").split("/")),
        "",
    )


def test_of_two_results_with_one_version_the_newest_is_meant(tmp_path):
    home = str(tmp_path)
    make_release(home, "a", age=DAY)
    other = Path(target(home, "a", "release")).parent / ("0" * 16)
    shutil.copytree(target(home, "a", "release"), other)
    (found,) = of_version(home, stored_releases(home)[0].version[:6])
    assert found.place.endswith(max("0" * 16, place("a", "release")[-16:]))
