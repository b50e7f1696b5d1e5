"""What is read of a run's folder."""

import time

import pytest

from mirepoix.serving.store import delete, join, write
from mirepoix.workflows.upkeep.runs import as_bytes, read_runs, sizes
from tests.workflows.upkeep.storages import make_result, make_run, place, run_name, target


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "storage")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (34_000_000, "34 MB"), (999_600_000, "1.0 GB"), (5e15, "5000 TB")]
)
def test_bytes_are_printed_in_three_digits(count, text):
    assert as_bytes(count) == text


def test_a_run_names_what_it_made_relied_on_and_read(storage):
    made = {"a": "embed", "lost": "release"}
    make_result(storage, "a")
    make_run(storage, 1, made, failed=("lost",), settings={"mine": {"release": target(storage, "other", "release")}})
    (run,) = read_runs(storage)
    assert run.places == (place("a"), place("lost", "release"), place("other", "release"))


def test_a_run_that_was_killed_names_what_its_driver_relied_on_and_its_config(storage):
    make_run(storage, 1, {"a": "embed"}, report=False)
    write(join(storage, "runs", run_name(1), "config.yaml"), f"backbone:\n  name: {target(storage, 'b', 'instruct')}\n".encode())
    (run,) = read_runs(storage)
    assert (run.state, run.places) == ("killed", (place("a"), place("b", "instruct")))


def test_a_run_of_an_earlier_version_is_read_by_its_report_or_its_name(storage):
    report = '{"recipe": "mine", "run": "2026-01-02 03:04:05", "settings": {}, "stages": []}'
    write(join(storage, "runs", "mine-20260102-030405-00ff", "report.json"), report.encode())
    write(join(storage, "runs", "lost-20260102-030406-00ff", "config.yaml"), b"")
    lost, mine = read_runs(storage)
    assert (lost.recipe, lost.state, time.localtime(lost.began)[:6]) == ("lost", "killed", (2026, 1, 2, 3, 4, 6))
    assert (mine.recipe, mine.state, time.localtime(mine.began)[:6]) == ("mine", "done", (2026, 1, 2, 3, 4, 5))


def test_a_folder_without_a_record_is_a_run_that_begins_while_it_is_young(storage):
    name = time.strftime("mine-%Y%m%d-%H%M%S-00ff")
    write(join(storage, "runs", name, "config.yaml"), b"")
    assert read_runs(storage)[0].state == "running"


def test_the_size_of_a_result_is_that_of_its_files_and_of_one_that_is_gone_none(storage):
    make_result(storage, "a", size=1234)
    make_result(storage, "b")
    delete(target(storage, "b"))
    assert sizes(storage, [place("a"), place("b")]) == {place("a"): 1234, place("b"): None}
