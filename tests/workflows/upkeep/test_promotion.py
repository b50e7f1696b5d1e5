"""`releases promote`, `rollback`, `unalias`: what they change and refuse, and that between them and `gc` no release is lost."""

import json
import shutil
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.store import join, list_names, read_manifest
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.upkeep import gc, promotion
from mirepoix.workflows.upkeep.aliases import aliased_release, read_aliases
from mirepoix.workflows.upkeep.gc import Limits, collect
from tests.workflows.upkeep.storages import DAY, key_of, make_release, make_result, make_run, place, run_name, target

NAMES = "abc"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Three releases of one name, each of a run of its own; MLflow is left out."""
    monkeypatch.setattr(promotion, "follow", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    home = str(tmp_path / "storage")
    for number, name in enumerate(NAMES, start=1):
        make_release(home, name, age=(10 - number) * DAY)
        make_run(home, number, {name: "release"}, age=(10 - number) * DAY)
    return home


@pytest.fixture
def versions(storage):
    """The versions of the releases by their names in the tests."""
    return {name: json.loads(Path(target(storage, name, "release"), "release.json").read_text())["version"] for name in NAMES}


@pytest.fixture
def releases(cli, storage):
    """Runs `releases ...` on the storage; returns its status, and what it printed."""

    def run(*words):
        status, out, err = cli("releases", *words, "--storage", storage)
        return status, out + err

    return run


def champion(storage: str) -> str:
    return aliased_release("@champion", storage)


@pytest.mark.parametrize(
    "given", ["version", "beginning of the version", "run", "beginning of the run", "folder", "folder of the run", "alias"]
)
def test_a_release_is_promoted_by_any_of_its_names(releases, storage, versions, given):
    assert releases("promote", versions["b"], "--alias", "trial")[0] == 0
    names = {
        "version": versions["b"],
        "beginning of the version": versions["b"][:5],
        "run": run_name(2),
        "beginning of the run": run_name(2)[:-2],
        "folder": target(storage, "b", "release"),
        "folder of the run": f"storage/runs/{run_name(2)}",
        "alias": "@trial",
    }
    assert releases("promote", names[given]) == (0, f"mirepoix@champion is now {versions['b']}\n")
    assert champion(storage) == target(storage, "b", "release")


def test_the_latest_release_is_promoted_and_the_way_back_is_said(releases, storage, versions):
    releases("promote", versions["a"])
    changed = f"mirepoix@champion was {versions['a']} and is now {versions['c']} (back: mirepoix releases rollback)\n"
    assert releases("promote", "latest") == (0, changed)
    assert releases("promote", "latest") == (0, f"mirepoix@champion is {versions['c']} already\n")
    assert len(read_aliases(storage)["mirepoix", "champion"].releases) == 2


def test_roll_backs_go_back_release_by_release_and_the_last_is_refused(releases, storage, versions):
    for name in NAMES:
        releases("promote", versions[name])
    assert releases("rollback") == (0, f"mirepoix@champion was {versions['c']} and is {versions['b']} again\n")
    assert releases("rollback") == (0, f"mirepoix@champion was {versions['b']} and is {versions['a']} again\n")
    status, said = releases("rollback")
    assert status == 2 and said == (
        f"mirepoix: mirepoix@champion names {versions['a']}, and named no release before; let it name another one: mirepoix releases "
        "promote RELEASE --alias champion\n"
    )
    assert champion(storage) == target(storage, "a", "release")
    releases("promote", versions["c"])
    assert releases("rollback")[1].endswith(f"is {versions['a']} again\n"), "what it was before, not what it once was"


def test_an_alias_is_removed_and_may_be_given_again(releases, storage, versions):
    releases("promote", versions["a"])
    status, said = releases("unalias", "@champion")
    assert (status, said.startswith(f"mirepoix@champion is removed; it was {versions['a']} (again: ")) == (0, True)
    assert releases("rollback")[0] == releases("unalias", "champion")[0] == 2
    with pytest.raises(Refused):
        champion(storage)
    assert releases("promote", versions["b"])[1] == f"mirepoix@champion is now {versions['b']}\n"
    assert releases("rollback")[0] == 2, "what an alias named before it was removed is not gone back to"


def test_releases_of_several_names_have_aliases_of_their_own(releases, storage, versions):
    make_release(storage, "shop", "shop")
    make_run(storage, 9, {"shop": "release"})
    for given in (versions["a"], versions["b"], run_name(9)):
        assert releases("promote", given)[0] == 0
    status, said = releases("rollback")
    assert status == 2 and "give mirepoix@champion or shop@champion" in said
    assert releases("rollback", "--alias", "mirepoix@champion")[1].endswith(f"is {versions['a']} again\n")
    assert releases("promote", versions["c"])[1].endswith("(back: mirepoix releases rollback --alias mirepoix@champion)\n")
    assert releases("unalias", "shop@champion")[0] == 0
    assert releases("rollback")[0] == 0, "one name alone has it now"


@pytest.mark.parametrize("harm", ["file gone", "file cut", "manifest gone"])
def test_a_release_that_is_not_whole_gets_no_alias(releases, storage, versions, harm):
    folder = Path(target(storage, "a", "release"))
    if harm == "file cut":
        (folder / "content.bin").write_bytes(b"")
    else:
        (folder / {"file gone": "content.bin", "manifest gone": "manifest.json"}[harm]).unlink()
    status, said = releases("promote", run_name(1))
    assert status == 2 and len(said.splitlines()) == 1
    assert read_aliases(storage) == {}


def test_a_roll_back_to_a_release_that_is_gone_is_refused_and_changes_nothing(releases, storage, versions):
    for name in "ab":
        releases("promote", versions[name])
    shutil.rmtree(target(storage, "a", "release"))
    status, said = releases("rollback")
    assert (
        status == 2
        and f"mirepoix@champion would go back to {versions['a']}, which cannot be served" in said
        and len(said.splitlines()) == 1
    )
    assert champion(storage) == target(storage, "b", "release")


def test_a_release_that_was_made_again_in_its_place_is_another_one(releases, storage, versions):
    for name in "ab":
        releases("promote", versions[name])
    before = {name: read_manifest(target(storage, name, "release")) for name in "ab"}
    for name in "ab":
        shutil.rmtree(target(storage, name, "release"))
        make_release(storage, name, size=2000)
    status, said = releases("rollback")
    assert status == 2 and f"{place('a', 'release')} was made again since, and is {versions['a']} now" in said
    assert releases("promote", run_name(2))[0] == 0
    now = read_aliases(storage)["mirepoix", "champion"]
    assert [each.version for each in now.releases] == [versions["a"], versions["b"]]
    assert before["b"] is not None and now.releases[-1].digest != before["b"].digest
    assert releases("promote", run_name(2))[1] == f"mirepoix@champion is {versions['b']} already\n"


def test_what_is_no_release_of_the_storage_is_refused(releases, storage, tmp_path, cli):
    make_release(str(tmp_path / "other"), "z")
    elsewhere = target(str(tmp_path / "other"), "z", "release")
    status, said = releases("promote", elsewhere)
    assert status == 2 and f"{elsewhere} is no release of the storage {storage}" in said
    vectors = make_result(storage, "v", "embed")
    assert releases("promote", vectors)[0] == 2, "a result that is no release"
    assert cli("releases", "promote", "latest", "--storage", str(tmp_path / "none"))[0] == 2
    assert not (tmp_path / "none").exists() and read_aliases(storage) == {}


def test_a_beginning_of_several_versions_or_of_a_version_and_a_run_is_refused(releases, storage, versions):
    Path(storage, "runs", run_name(1)).rename(Path(storage, "runs", f"{versions['a']}-20270101-000000-0000"))
    status, said = releases("promote", versions["a"][:6])
    assert status == 2 and f"{versions['a'][:6]!r} may be release {versions['a']}, run {versions['a']}-2027" in said


# Beside gc


def test_gc_keeps_what_an_alias_names_and_what_a_roll_back_goes_to_and_lets_the_rest_go(releases, storage, versions, capsys):
    for name in NAMES:
        releases("promote", versions[name])
    assert main(["gc", "--keep-last", "0", "--dry-run", "--storage", storage]) == 0
    said = capsys.readouterr().out
    assert f"runs/{run_name(3)}: @champion\n" in said and f"runs/{run_name(2)}: roll back of @champion\n" in said
    assert f"would go    1.0 kB  artefacts/release/{key_of('a')[:16]}" in said
    collect(storage, Limits(keep_last=0, older_than=0))
    assert [Path(target(storage, name, "release")).exists() for name in NAMES] == [False, True, True]
    assert releases("rollback")[0] == 0
    releases("unalias", "champion")
    collect(storage, Limits(keep_last=0, older_than=0))
    assert [Path(target(storage, name, "release")).exists() for name in NAMES] == [False, False, False]


def test_gc_keeps_a_release_with_an_alias_whose_run_is_gone(releases, storage, versions):
    releases("promote", versions["a"])
    shutil.rmtree(Path(storage, "runs", run_name(1)))
    nodes = {node.name: node for node in collect(storage, Limits(keep_last=0, older_than=0))}
    node = nodes[f"artefacts/release/{key_of('a')[:16]}"]
    assert (node.goes, node.needed_by) == (False, ["@champion"]) and Path(target(storage, "a", "release")).exists()


def test_gc_that_began_before_a_promotion_sees_it_before_each_deletion(storage, versions):
    def delete(place: str) -> None:
        """At the first deletion of a release another one is promoted."""
        if not read_aliases(storage):
            promotion.promote_command(storage, "other", "champion")
        shutil.rmtree(place)

    order = sorted(NAMES, key=lambda name: key_of(name))
    make_run(storage, 9, {order[-1]: "release"}, recipe="other")
    promoted = Path(target(storage, order[-1], "release"))
    collect(storage, Limits(keep_last=0, older_than=0), delete)
    assert promoted.exists() and champion(storage) == str(promoted)
    assert not Path(target(storage, order[0], "release")).exists()


def test_a_run_that_gc_has_just_chosen_stays_if_its_release_is_promoted_before_anything_is_deleted(storage, versions, monkeypatch):
    write = gc.store.write

    def promoted(place: str, content: bytes) -> None:
        write(place, content)
        if place.endswith(f"{run_name(1)}/removal.json"):
            promotion.promote_command(storage, versions["a"], "champion")

    monkeypatch.setattr(gc.store, "write", promoted)
    collect(storage, Limits(keep_last=0, older_than=0))
    assert list_names(join(storage, "runs")) == [run_name(1)]
    assert not Path(storage, "runs", run_name(1), "removal.json").exists() and champion(storage) == target(storage, "a", "release")


def test_a_release_that_gc_deletes_at_this_moment_gets_no_alias(releases, storage, versions):
    releases("promote", versions["b"])
    with Driver(storage, work="gc") as driver:
        assert driver.acquire(key_of("a")[:16], "") is None
        for given in (["promote", versions["a"]], ["promote", versions["a"], "--alias", "trial"]):
            status, said = releases(*given)
            assert status == 2 and f"{versions['a']} is being removed by `mirepoix gc`; " in said
    assert champion(storage) == target(storage, "b", "release")
    assert not read_aliases(storage)["mirepoix", "trial"].releases
    assert releases("promote", versions["a"])[0] == 0, "that gc is gone"


def test_a_release_that_went_while_it_was_promoted_gets_no_alias(releases, storage, versions, monkeypatch):
    change = promotion.change

    def late(storage: str, step):
        shutil.rmtree(target(storage, "a", "release"), ignore_errors=True)
        return change(storage, step)

    monkeypatch.setattr(promotion, "change", late)
    assert releases("promote", versions["a"])[0] == 2
    assert not read_aliases(storage)["mirepoix", "champion"].releases


# MLflow


def test_where_mlflow_does_not_follow_the_alias_is_changed_all_the_same_and_sync_says_it_failed(cli, storage, versions, monkeypatch):
    monkeypatch.setattr(promotion, "follow", lambda *_: "MLflow does not follow")
    assert cli("releases", "promote", versions["a"], "--storage", storage) == (
        0,
        f"mirepoix@champion is now {versions['a']}\n",
        "MLflow does not follow\n",
    )
    assert champion(storage) == target(storage, "a", "release")
    assert cli("releases", "sync", "--storage", storage) == (1, "", "MLflow does not follow\n")
    monkeypatch.setattr(promotion, "follow", lambda *_: "")
    assert cli("releases", "sync", "--storage", storage)[:2] == (0, f"the model registry of MLflow has the 1 alias of {storage}\n")


def test_on_an_object_store_a_release_is_promoted_and_rolled_back(cli, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(promotion, "follow", lambda *_: "")
    monkeypatch.setattr("mirepoix.workflows.upkeep.aliases.time.sleep", lambda seconds: None)
    home = bucket(tmp_path.name)
    one, other = (make_release(home, name) for name in "ab")
    for version in (one, other):
        assert cli("releases", "promote", version[:8], "--storage", home)[0] == 0
    assert cli("releases", "rollback", "--storage", home)[0] == 0
    assert aliased_release("@champion", home) == target(home, "a", "release") == join(home, "artefacts", "release", key_of("a")[:16])
