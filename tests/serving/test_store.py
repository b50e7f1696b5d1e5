"""A published folder is complete, or not there at all."""

import json
import os
import pickle
import threading
from pathlib import Path

import pytest

from mirepoix.components.stage import Rows
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.store import Damaged, Missing, delete, fetch, join, list_names, publish, read, read_manifest, verify, write

CONTENT = {"shards/part-00000.bin": b"\x00\x01" * 5000, "shards/part-00001.bin": b"second", "note.txt": "carrot ✓".encode(), "empty": b""}


def folder_of(home: Path, content: dict[str, bytes] = CONTENT) -> Path:
    for name, data in content.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(params=["local", "objects"])
def place(request, tmp_path, bucket):
    """A function from a name to a target, on the local disk and on an object store."""
    if request.param == "local":
        return lambda name: str(tmp_path / "storage" / name)
    return lambda name: bucket(f"{tmp_path.name}/{name}")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != store.MANIFEST
    }


# Rows


def test_rows_that_do_not_add_up_are_an_error_that_shows_the_sum():
    Rows(read=10, written=7, rejected=2, merged=1)
    with pytest.raises(AssertionError, match=r"10 rows were read but 9 are accounted for \(7 written \+ 2 rejected \+ 0 merged\)"):
        Rows(read=10, written=7, rejected=2)


# Targets


def test_a_name_is_joined_before_the_query_of_a_uri():
    assert join("s3://bucket/a/?region=x&scheme=http", "b", "c") == "s3://bucket/a/b/c?region=x&scheme=http"
    assert join("/bucket/", "b") == "/bucket/b"
    assert join("/bucket/what?", "b") == "/bucket/what?/b"


def test_paths_and_file_uris_are_local_and_object_stores_are_not(tmp_path, monkeypatch):
    assert store.is_local("/a/b") and store.is_local(Path("a")) and store.is_local("file:///a%20b")
    assert store.local_path("file:///a%20b") == Path("/a b")
    assert store.absolute("file:///a%20b") == "/a b" and store.absolute("s3://bucket/a?region=x") == "s3://bucket/a?region=x"
    monkeypatch.chdir(tmp_path)
    assert store.absolute("storage") == f"{tmp_path}/storage"
    assert not store.is_local("s3://bucket/a")


@pytest.mark.parametrize("target", ["ftp://bucket/x", "s3://bucket/x?colour=red"])
def test_a_storage_that_cannot_be_opened_is_refused_with_what_to_give(target):
    with pytest.raises(Refused, match="give a local path or a URI"):
        read(target)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://name:hidden@bucket/x?region=x",
        "s3://hidden@bucket/x",
        "S3://name:hid/den@bucket/x",
        "s3://name:hid@den@bucket",
        "abfs://bucket:hidden@account.dfs.core.windows.net/x",
        "abfs://bucket@account.dfs.core.windows.net/x?tenant_id=t&client_secret=hidden",
        "abfs://bucket@account.dfs.core.windows.net/x?sas_token=hidden",
    ],
)
def test_a_uri_with_a_key_in_it_is_refused_with_where_the_key_belongs_and_is_not_printed(uri, tmp_path):
    for use in (read, read_manifest, list_names, verify, lambda target: write(target, b""), lambda target: fetch(target, tmp_path)):
        with pytest.raises(Refused, match=r"AWS_ACCESS_KEY_ID .*role") as refusal:
            use(uri)
        assert not any(part in str(refusal.value) for part in ("hid", "den@", "name:", "\n"))


@pytest.mark.parametrize(
    "target",
    [
        "s3://bucket/by@someone/x?endpoint_override=127.0.0.1:9000",
        "hdfs://someone@host:8020/x",
        "hdfs://host:8020/by@someone",
        "gs://anonymous@bucket/x",
        "abfs://bucket@account.dfs.core.windows.net/x",
        "file:///by@someone/x",
        "/by:someone@x",
    ],
)
def test_an_at_sign_alone_is_no_key(target):
    store.refuse_credentials(target)


def test_single_files_are_written_read_listed_and_deleted(place):
    target = place("leases/one.json")
    assert read(target) is None
    write(target, b"1")
    write(target, b"22")
    assert read(target) == b"22"
    assert list_names(place("leases")) == ["one.json"]
    delete(target)
    delete(target)
    assert read(target) is None
    assert list_names(place("leases")) == []
    assert list_names(place("nowhere")) == []


# Publishing


def test_a_published_folder_reads_back_equal(place, tmp_path):
    manifest = publish(folder_of(tmp_path / "draft"), place("a/b/one"), {"stage": "curate", "metrics": {"kept": 0.5}})
    assert read_manifest(place("a/b/one")) == manifest == verify(place("a/b/one"))
    assert manifest.fields == {"stage": "curate", "metrics": {"kept": 0.5}}
    assert {name: entry["size"] for name, entry in manifest.files.items()} == {name: len(data) for name, data in CONTENT.items()}
    assert files_of(fetch(place("a/b/one"), tmp_path / "cache")) == CONTENT
    assert not (tmp_path / "draft").exists()


def test_an_empty_folder_is_a_result_too(place, tmp_path):
    publish(folder_of(tmp_path / "draft", {}), place("nothing"), {})
    assert files_of(fetch(place("nothing"), tmp_path / "cache")) == {}


def test_the_digest_depends_on_names_and_bytes_and_on_nothing_else(tmp_path):
    first = publish(folder_of(tmp_path / "1"), tmp_path / "one", {"created": 1})
    for path in folder_of(tmp_path / "2").rglob("*"):
        os.utime(path, (0, 0))
    again = publish(tmp_path / "2", tmp_path / "two", {"created": 2})
    renamed = publish(folder_of(tmp_path / "3", {f"x{name}": data for name, data in CONTENT.items()}), tmp_path / "three", {})
    changed = publish(folder_of(tmp_path / "4", CONTENT | {"empty": b"."}), tmp_path / "four", {})
    assert first.digest == again.digest
    assert len({first.digest, renamed.digest, changed.digest}) == 3


def test_a_second_publisher_keeps_the_published_artefact_and_discards_its_own(place, tmp_path):
    first = publish(folder_of(tmp_path / "1"), place("one"), {"by": 1})
    second = publish(folder_of(tmp_path / "2", {"other": b"bytes"}), place("one"), {"by": 2})
    assert second == first == verify(place("one"))
    assert not (tmp_path / "2").exists()


def test_a_replacement_takes_the_place_of_the_published_artefact(place, tmp_path):
    publish(folder_of(tmp_path / "1"), place("one"), {"by": 1})
    second = publish(folder_of(tmp_path / "2", {"other": b"bytes"}), place("one"), {"by": 2}, replace=True)
    assert verify(place("one")) == second
    assert files_of(fetch(place("one"), tmp_path / "cache")) == {"other": b"bytes"}


def test_many_publishers_at_once_leave_one_whole_artefact(place, tmp_path):
    drafts = [folder_of(tmp_path / f"draft{number}", {"who": str(number).encode() * 1000}) for number in range(6)]
    answers = []
    threads = [threading.Thread(target=lambda draft=draft: answers.append(publish(draft, place("one"), {}))) for draft in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert verify(place("one")).digest in {answer.digest for answer in answers}


def test_a_folder_in_the_way_that_was_never_committed_gives_way(tmp_path):
    folder_of(tmp_path / "storage" / "one", {"half": b"written"})
    manifest = publish(folder_of(tmp_path / "draft"), tmp_path / "storage" / "one", {})
    assert verify(tmp_path / "storage" / "one") == manifest
    assert list_names(tmp_path / "storage") == ["one"]


def test_links_and_the_stores_own_name_may_not_be_published(tmp_path):
    linked = folder_of(tmp_path / "linked")
    (linked / "link").symlink_to(tmp_path)
    with pytest.raises(AssertionError, match="is a link"):
        publish(linked, tmp_path / "one", {})
    with pytest.raises(AssertionError, match=r"holds a manifest\.json"):
        publish(folder_of(tmp_path / "named", {"manifest.json": b"{}"}), tmp_path / "one", {})


class Crash(BaseException):
    """A simulated power failure."""


def crash_at(monkeypatch, step: int) -> list[str]:
    """Let the n-th call that touches the disk's order fail, and every later one too: the process is gone."""
    calls: list[str] = []

    def guarded(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            calls.append(name)
            if len(calls) >= step:
                raise Crash(name)
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "replace"):
        guarded(name)
    return calls


@pytest.mark.parametrize("replace", [False, True])
def test_a_crash_at_any_step_of_publishing_leaves_the_whole_artefact_or_none(tmp_path, monkeypatch, replace):
    step, finished = 0, False
    while not finished:
        step += 1
        home = tmp_path / str(step)
        home.mkdir()
        if replace:
            publish(folder_of(home / "old", {"old": b"1"}), home / "storage" / "one", {})
        folder_of(home / "draft")
        with monkeypatch.context() as patch:
            calls = crash_at(patch, step)
            try:
                publish(home / "draft", home / "storage" / "one", {}, replace=replace)
                finished = True
            except Crash:
                assert len(calls) == step
        if read_manifest(home / "storage" / "one") is not None:
            assert files_of(home / "storage" / "one") in ([CONTENT, {"old": b"1"}] if replace else [CONTENT])
            verify(home / "storage" / "one")
        else:
            assert not (home / "storage" / "one").exists()
    assert step > 8, "every file, every folder and the parent are synced, and one rename commits"


def test_every_file_is_on_the_disk_before_the_manifest_and_that_before_the_rename(tmp_path, monkeypatch):
    order = []
    sync, rename = store._sync, os.rename
    monkeypatch.setattr(store, "_sync", lambda path: (order.append(path.name), sync(path)))
    monkeypatch.setattr(os, "rename", lambda *paths: (order.append("RENAME"), rename(*paths)))
    publish(folder_of(tmp_path / "draft"), tmp_path / "storage" / "one", {})
    files = [Path(name).name for name in CONTENT]
    assert max(order.index(name) for name in files) < order.index("manifest.json") < order.index("shards") < order.index("RENAME")
    assert order[-1] == "storage"


def test_an_upload_that_dies_before_its_manifest_is_not_there(bucket, tmp_path, monkeypatch):
    def die(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", die)
        with pytest.raises(Crash):
            publish(folder_of(tmp_path / "draft"), bucket("dying"), {})
    assert len(list_names(bucket("dying"))) == 1
    assert read_manifest(bucket("dying")) is None
    with pytest.raises(Missing):
        fetch(bucket("dying"), tmp_path / "cache")
    manifest = publish(folder_of(tmp_path / "again"), bucket("dying"), {})
    assert verify(bucket("dying")) == manifest


# Damage


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda home: (home / "note.txt").write_bytes(flip(CONTENT["note.txt"])), "file note.txt has changed"),
        (lambda home: (home / "note.txt").write_bytes(b"car"), "file note.txt has 3 bytes, its manifest says 10"),
        (lambda home: (home / "shards" / "part-00001.bin").unlink(), "file shards/part-00001.bin is missing"),
        (lambda home: (home / "shards" / "extra").write_bytes(b""), "file shards/extra is not in its manifest"),
        (lambda home: (home / "manifest.json").unlink(), "has no manifest.json"),
        (lambda home: (home / "manifest.json").write_bytes(b'{"digest'), "cannot be read"),
        (lambda home: (home / "manifest.json").write_bytes(b'{"more": 1}'), "cannot be read"),
    ],
)
def test_damage_is_found_and_the_file_is_named(tmp_path, damage, words):
    publish(folder_of(tmp_path / "draft"), tmp_path / "one", {})
    damage(tmp_path / "one")
    with pytest.raises(Damaged, match=words):
        verify(tmp_path / "one")
    with pytest.raises(Damaged, match=words):
        fetch(tmp_path / "one", tmp_path / "cache")


def test_any_flipped_bit_of_the_hashes_in_a_manifest_is_found(tmp_path):
    publish(folder_of(tmp_path / "draft"), tmp_path / "one", {})
    path = tmp_path / "one" / "manifest.json"
    whole = json.loads(path.read_text())
    for name in CONTENT:
        broken = json.loads(path.read_text())
        broken["files"][name]["sha256"] = "0" * 64
        path.write_text(json.dumps(broken))
        with pytest.raises(Damaged):
            verify(tmp_path / "one")
        path.write_text(json.dumps(whole))
    path.write_text(json.dumps(whole | {"digest": "0" * 64}))
    with pytest.raises(Damaged, match=r"file manifest\.json has changed"):
        verify(tmp_path / "one", hashes=False)


def test_sizes_are_compared_even_where_contents_are_not(tmp_path):
    publish(folder_of(tmp_path / "draft"), tmp_path / "one", {})
    (tmp_path / "one" / "note.txt").write_bytes(flip(CONTENT["note.txt"]))
    verify(tmp_path / "one", hashes=False)
    (tmp_path / "one" / "note.txt").write_bytes(b"")
    with pytest.raises(Damaged):
        verify(tmp_path / "one", hashes=False)


def test_an_object_that_changed_is_not_let_into_the_cache(bucket, tmp_path):
    manifest = publish(folder_of(tmp_path / "draft"), bucket("changed"), {})
    write(join(bucket("changed"), manifest.digest, "note.txt"), flip(CONTENT["note.txt"]))
    verify(bucket("changed"), hashes=False)
    for look in (verify, lambda target: fetch(target, tmp_path / "cache")):
        with pytest.raises(Damaged, match=r"file note\.txt has changed"):
            look(bucket("changed"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cached_copy_is_used_again_and_one_that_was_damaged_is_fetched_anew(bucket, tmp_path):
    publish(folder_of(tmp_path / "draft"), bucket("cached"), {})
    copy = fetch(bucket("cached"), tmp_path / "cache")
    made = (copy / "note.txt").stat().st_mtime_ns
    assert fetch(bucket("cached"), tmp_path / "cache") == copy
    assert (copy / "note.txt").stat().st_mtime_ns == made
    (copy / "note.txt").write_bytes(b"gone bad")
    assert files_of(fetch(bucket("cached"), tmp_path / "cache")) == CONTENT


@pytest.mark.parametrize("given", [None, "", "cache", "./cache", "~/cache"])
def test_the_cache_lies_in_the_home_where_its_variable_is_unset_empty_or_relative(monkeypatch, tmp_path, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert store.cache_folder() == tmp_path / ".cache" / "mirepoix"


def test_the_cache_lies_where_its_variable_says_by_an_absolute_path(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert store.cache_folder() == tmp_path / "mine" / "mirepoix"


def test_a_local_artefact_is_used_in_place(tmp_path):
    publish(folder_of(tmp_path / "draft"), tmp_path / "one", {})
    assert fetch(str(tmp_path / "one"), tmp_path / "cache") == tmp_path / "one"
    assert not (tmp_path / "cache").exists()


def test_a_deleted_artefact_is_gone(place, tmp_path):
    publish(folder_of(tmp_path / "draft"), place("box/one"), {})
    delete(place("box/one"))
    delete(place("box/one"))
    assert read_manifest(place("box/one")) is None
    assert list_names(place("box")) == []


def test_damage_pickles():
    again = pickle.loads(pickle.dumps(Missing("x has no manifest.json")))
    assert isinstance(again, Missing) and str(again) == "x has no manifest.json"
