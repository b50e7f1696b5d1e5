"""The file of aliases: who names what, for which name of releases, and what becomes of it when several write at once."""

import json
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.upkeep import aliases
from mirepoix.workflows.upkeep.aliases import Alias, Named, alias_name, aliased_release, change, find_alias, named_places, read_aliases


def named(version: str) -> Named:
    return Named(version, f"artefacts/release/{version * 16}", version * 64, 1.0)


def promote(storage: str, version: str, alias: str = "champion", model: str = "mirepoix") -> None:
    def step(known):
        was = known.get((model, alias), Alias(model, alias))
        return was.changed("promoted", (*was.releases, named(version)))

    change(storage, step)


def versions(storage: str, alias: str = "champion", model: str = "mirepoix") -> str:
    return "".join(release.version for release in read_aliases(storage)[model, alias].releases)


def test_an_alias_names_the_last_release_that_it_was_given_and_knows_those_before(tmp_path):
    storage = str(tmp_path)
    assert read_aliases(storage) == {} and named_places(storage) == {}
    promote(storage, "a")
    promote(storage, "b")
    assert aliased_release("@champion", storage) == f"{storage}/artefacts/release/{'b' * 16}"
    alias = read_aliases(storage)["mirepoix", "champion"]
    assert (alias.now, alias.before) == (named("b"), named("a"))
    assert [(entry["how"], entry["from"], entry["to"]) for entry in alias.log] == [("promoted", None, "a"), ("promoted", "a", "b")]
    assert time.time() - 60 < alias.log[0]["at"] <= alias.log[1]["at"] <= time.time()


def test_an_alias_without_a_name_is_taken_where_one_name_of_releases_has_it_and_asked_for_otherwise(tmp_path):
    storage = str(tmp_path)
    promote(storage, "a")
    promote(storage, "b", "trial", "shop")
    assert find_alias(read_aliases(storage), "@trial", storage).model == "shop"
    promote(storage, "c", "champion", "shop")
    with pytest.raises(Refused) as refusal:
        aliased_release("@champion", storage)
    expected = f"releases of 2 names have the alias @champion in {storage}; give mirepoix@champion or shop@champion"
    assert str(refusal.value) == expected
    assert aliased_release("shop@champion", storage).endswith("c" * 16)
    assert aliased_release("mirepoix@champion", storage).endswith("a" * 16)


def test_an_alias_that_is_not_there_or_was_removed_is_refused_in_one_line_with_those_there_are(tmp_path):
    storage = str(tmp_path)
    with pytest.raises(Refused, match=r"^there is no alias @champion in .* \(there are: none\); give one to a release: mirepoix releases"):
        aliased_release("@champion", storage)
    promote(storage, "a", "trial")
    promote(storage, "a")
    change(storage, lambda known: known["mirepoix", "champion"].changed("removed", ()))
    with pytest.raises(Refused, match=r"^there is no alias mirepoix@champion in .* \(there are: mirepoix@trial\); .*--alias champion$"):
        aliased_release("mirepoix@champion", storage)


@pytest.mark.parametrize("given", ["latest", "v2", "V11", "", "@", "a b", "a/b", "a@b", "a" * 101])
def test_an_alias_that_could_be_taken_for_something_else_is_refused(given):
    with pytest.raises(Refused, match=r"alias is .*; give letters"):
        alias_name(given)
    assert alias_name("@blue-2_x") == "blue-2_x"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 1}', '{"format": 1, "changes": [], "aliases": {"m": {"a": {"releases": [{}], "log": []}}}}']
)
def test_a_file_that_cannot_be_read_is_refused_and_never_written_over(tmp_path, text):
    file = tmp_path / "releases" / "aliases.json"
    file.parent.mkdir()
    file.write_text(text)
    for attempt in (lambda: read_aliases(str(tmp_path)), lambda: promote(str(tmp_path), "a"), lambda: named_places(str(tmp_path))):
        with pytest.raises(Refused, match=r"aliases.json cannot be read \(.*\); restore it"):
            attempt()
    assert file.read_text() == text


def test_a_file_of_a_later_version_is_refused(tmp_path):
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "aliases.json").write_text('{"format": 2}')
    with pytest.raises(Refused, match="was written by a later version"):
        promote(str(tmp_path), "a")


def test_what_gc_keeps_is_what_an_alias_names_and_the_one_before(tmp_path):
    storage = str(tmp_path)
    for version in "abc":
        promote(storage, version)
    promote(storage, "b", "trial")
    assert named_places(storage) == {named("c").place: ["@champion"], named("b").place: ["roll back of @champion", "@trial"]}


def test_a_step_that_refuses_or_changes_nothing_writes_nothing(tmp_path):
    storage = str(tmp_path)
    promote(storage, "a")
    before = (tmp_path / "releases" / "aliases.json").stat().st_mtime_ns

    def refuse(known):
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        change(storage, refuse)
    assert versions(storage) == "a" and change(storage, lambda known: None) == read_aliases(storage)
    assert (tmp_path / "releases" / "aliases.json").stat().st_mtime_ns == before


def writer(storage: str, alias: str, count: int) -> None:
    for number in range(count):
        promote(storage, f"{number % 10}", alias)


def test_on_a_local_storage_no_change_of_writers_at_once_is_lost(tmp_path):
    storage, count = str(tmp_path), 20
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=writer, args=(storage, alias, count)) for alias in ("one", "two", "champion", "champion")]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    lengths = {alias: len(versions(storage, alias)) for alias in ("one", "two", "champion")}
    assert lengths == {"one": count, "two": count, "champion": 2 * count}


def test_a_reader_beside_writers_sees_a_whole_file_each_time(tmp_path):
    storage, lengths = str(tmp_path), []
    promote(storage, "0")
    thread = threading.Thread(target=writer, args=(storage, "champion", 40))
    thread.start()
    while thread.is_alive():
        lengths.append(len(versions(storage)))
    thread.join()
    assert lengths == sorted(lengths) and len(versions(storage)) == 41


def test_on_an_object_store_a_change_that_another_writer_wrote_over_is_made_again(bucket, tmp_path, monkeypatch):
    """Another writer that had read before wrote after us: our change is gone, and his is there."""
    storage = bucket(tmp_path.name)
    promote(storage, "a")
    file = store.join(storage, "releases", "aliases.json")
    old = store.read(file)
    written: list[bytes] = []

    def pause(seconds: float) -> None:
        assert seconds >= 0.5
        written.append(store.read(file) or b"")
        if len(written) == 1:
            theirs = json.loads(old or b"")
            theirs["aliases"]["shop"] = {"trial": {"releases": [], "log": []}}
            store.write(file, json.dumps({**theirs, "changes": [*theirs["changes"], "theirs"]}).encode())

    monkeypatch.setattr(aliases.time, "sleep", pause)
    promote(storage, "b")
    assert len(written) == 2
    assert versions(storage) == "ab" and ("shop", "trial") in read_aliases(storage)


def test_on_an_object_store_a_change_that_is_written_over_each_time_is_refused(bucket, tmp_path, monkeypatch):
    storage = bucket(tmp_path.name)
    promote_alone = store.write
    monkeypatch.setattr(aliases.time, "sleep", lambda seconds: None)
    empty = b'{"format": 1, "aliases": {}, "changes": []}'
    monkeypatch.setattr(aliases.store, "write", lambda target, content: promote_alone(target, empty))
    with pytest.raises(Refused, match="other processes change the aliases of"):
        promote(storage, "a")


def test_to_ask_what_an_alias_names_takes_a_millisecond_or_two(tmp_path):
    storage = str(tmp_path)
    for version in "0123456789" * 5:
        promote(storage, version)
    began = time.process_time()
    for _ in range(50):
        aliased_release("@champion", storage)
    assert (time.process_time() - began) / 50 < 0.005
    assert [path.name for path in sorted(Path(storage, "releases").iterdir())] == [".lock", "aliases.json"]
