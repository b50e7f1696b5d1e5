"""A release is meant by `latest`, by the name of its run, or by the beginning of that name; a path is as given."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.upkeep.named import named_release
from tests.workflows.upkeep.storages import make_result, make_run, run_name, target


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


@pytest.mark.parametrize(
    "words", [["serve"], ["add", "/pictures"], ["remove", "id"], ["export", "--to", "hf", "/tmp/none/x"]], ids=lambda words: words[0]
)
def test_the_commands_that_take_a_release_take_the_name_of_a_run(storage, words, capsys, monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", storage)
    assert main([words[0], "gone", *words[1:]]) == 2
    assert capsys.readouterr().err.startswith(f"mirepoix: there is no run 'gone' in {storage}; the newest are ")
