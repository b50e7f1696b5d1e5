"""A release is meant by `latest`, by the name of its run, or by the beginning of that name; a path is as given."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.upkeep.named import named_release, origin
from tests.workflows.upkeep.storages import make_release, make_result, make_run, run_name, target


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A storage of two runs, each with a release."""
    monkeypatch.chdir(tmp_path)
    home = str(tmp_path / "storage")
    for number, name in enumerate(("a", "b")):
        make_result(home, name, "release")
        make_run(home, number, {name: "release"}, recipe=("search", "finetune")[number])
    return home


def test_latest_is_the_latest_release_and_other_names_are_of_runs(storage):
    assert named_release("latest", storage) == target(storage, "b", "release")
    assert named_release(run_name(0), storage) == f"{storage}/runs/{run_name(0)}"
    assert named_release("finetune-", storage) == f"{storage}/runs/{run_name(1, 'finetune')}"


def test_an_alias_is_followed_and_read_from_its_file_alone(storage, monkeypatch, capsys):
    monkeypatch.setattr("mirepoix.workflows.upkeep.promotion.follow", lambda *_: "")
    make_release(storage, "c")
    make_run(storage, 3, {"c": "release"}, recipe="add")
    assert main(["releases", "--storage", storage, "promote", run_name(3, "add"), "--alias", "trial"]) == 0
    monkeypatch.setattr("mirepoix.workflows.upkeep.named.read_runs", None)
    for given in ("@trial", "mirepoix@trial"):
        assert named_release(given, storage) == target(storage, "c", "release")
    assert main(["releases", "unalias", "trial", "--storage", storage]) == 0
    with pytest.raises(Refused, match=r"^there is no alias @trial in "):
        named_release("@trial", storage)


def test_a_version_is_given_whole_or_by_its_beginning_and_what_only_looks_like_one_is_a_run(storage):
    version = make_release(storage, "c")
    for given in (version, version[:4]):
        assert named_release(given, storage) == target(storage, "c", "release")
    make_run(storage, 3, {"c": "release"}, recipe="deadbeef")
    assert named_release("deadbeef", storage) == f"{storage}/runs/{run_name(3, 'deadbeef')}"
    with pytest.raises(Refused, match=f"there is no run '{'0' * 12}'"):
        named_release("0" * 12, storage)


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        ("latest", "the latest release"),
        ("@champion", "the release that @champion names"),
        ("20737bf0ae9f", "release 20737bf0ae9f"),
        ("search-2027", "the release of run search-2027"),
    ],
)
def test_what_a_name_means_is_said_in_words(given, meaning):
    assert origin(given) == meaning


def test_a_path_and_what_is_in_the_working_directory_are_as_given(storage, tmp_path):
    (tmp_path / "latest").mkdir()
    for given in ("latest", "storage/runs/x", "/nowhere", "s3://bucket/release"):
        assert named_release(given, storage) == given


def test_a_name_of_no_run_and_one_of_several_are_refused_with_those_there_are(storage):
    make_run(storage, 2, {"b": "release"})
    with pytest.raises(Refused, match=rf"there is no run 'gone' in {storage}; the newest are search-"):
        named_release("gone", storage)
    with pytest.raises(Refused, match=r"2 runs begin with 'search-'"):
        named_release("search-", storage)


def test_a_name_like_latest_is_refused_with_latest_among_what_to_give(storage, capsys, monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", storage)
    for words in (["show", "latst"], ["serve", "latst"]):
        assert main(words) == 2
        assert "; give one, or latest; `mirepoix runs` lists all\n" in capsys.readouterr().err
    with pytest.raises(
        Refused, match=r"there is no run 'latst' in .*, and no other; give --storage the folder or URI that runs were given"
    ):
        named_release("latst", f"{storage}/none")


def test_a_folder_that_is_given_to_add_alone_is_what_to_add(storage, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    assert main(["add", "new", "--storage", storage]) == 2
    assert capsys.readouterr().err == (
        "mirepoix: new is neither a release nor a run, so it is taken as what to add, and RELEASE is missing; to add it to the latest "
        "release: mirepoix add latest new\n"
    )
    for given in ("latest", f"{storage}/runs/{run_name(0)}"):
        assert main(["add", given, "--storage", storage]) == 2
        assert "there is nothing to add; give a folder, file or URI: mirepoix add RELEASE PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["serve"], ["add", "/pictures"], ["remove", "id"], ["export", "--to", "hf", "/tmp/none/x"]], ids=lambda words: words[0]
)
def test_the_commands_that_take_a_release_take_the_name_of_a_run(storage, words, capsys, monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", storage)
    assert main([words[0], "gone", *words[1:]]) == 2
    assert capsys.readouterr().err.startswith(f"mirepoix: there is no run 'gone' in {storage}; the newest are ")
