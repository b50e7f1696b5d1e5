"""One driver works on a key at a time, and the lease of a dead driver is free."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import machine, process_start
from mirepoix.serving.store import join, list_names, publish, read_manifest, write
from mirepoix.workflows.runner import lease
from mirepoix.workflows.runner.lease import Driver, draft, drafts_folder


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "storage")


def leases(storage: str) -> list[str]:
    return [name for name in list_names(f"{storage}/leases") if name != ".lock"]


def tamper(storage: str, driver: Driver, **changes) -> None:
    """Rewrites the record of a driver to one of another process or host."""
    path = Path(storage) / "leases" / f"driver-{driver.id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_lease_is_held_by_one_living_driver(storage):
    with Driver(storage) as first, Driver(storage) as second:
        assert first.acquire("k", f"{storage}/artefacts/a/k") is None
        assert first.acquire("k", f"{storage}/artefacts/a/k") is None, "our own lease is ours"
        holder = second.acquire("k", f"{storage}/artefacts/a/k")
        assert holder["driver"] == first.id and holder["pid"] == os.getpid() and holder["host"] == os.uname().nodename
        assert second.acquire("other", f"{storage}/artefacts/a/other") is None
        second.release("k")
        assert second.acquire("k", "") is not None, "who does not hold a lease cannot give it back"
        first.release("k")
        assert second.acquire("k", f"{storage}/artefacts/a/k") is None
    assert leases(storage) == []


def test_of_many_that_ask_at_once_for_a_dead_drivers_lease_one_gets_it(storage):
    with Driver(storage) as dead:
        dead.acquire("k", "t")
        tamper(storage, dead, pid=ended_process())
        drivers = [Driver(storage).__enter__() for _ in range(8)]
        answers = {}
        threads = [threading.Thread(target=lambda d=driver: answers.update({d.id: d.acquire("k", "t")})) for driver in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [driver for driver, holder in answers.items() if holder is None]
        assert len(winners) == 1
        assert {holder["driver"] for holder in answers.values() if holder} == set(winners)
        for driver in drivers:
            driver.__exit__()
        dead.release("k")


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"beat": 0.0}, True),  # a stopped process of this machine is not dead
        ({"start": "1"}, False),  # the process id was given to another process
        ({"machine": "elsewhere", "start": "1", "pid": 1}, True),
        ({"machine": "elsewhere", "beat": time.time() - 3600}, False),
    ],
)
def test_a_driver_is_dead_when_its_process_is_gone_or_its_heart_has_stopped_elsewhere(storage, changes, alive):
    with Driver(storage) as other, Driver(storage) as ours:
        other.acquire("k", "t")
        tamper(storage, other, **changes)
        assert (other.id in ours.live()) == alive
        assert (ours.acquire("k", "t") is None) == (not alive)


def test_the_process_that_ended_and_the_zombie_are_both_gone():
    assert process_start(os.getpid()) is not None
    assert process_start(ended_process()) is None
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 20
    while process_start(zombie.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert Path(f"/proc/{zombie.pid}").exists(), "its exit status has not been read yet"
    zombie.wait()
    assert machine() == machine()


def test_heartbeats_are_written_while_the_driver_is_entered(storage):
    with Driver(storage, beat_s=0.05) as driver:
        path = Path(storage) / "leases" / f"driver-{driver.id}.json"
        first = json.loads(path.read_text())["beat"]
        time.sleep(0.3)
        assert json.loads(path.read_text())["beat"] > first
    assert not path.exists()
    time.sleep(0.1)
    assert not path.exists(), "a stopped heartbeat writes nothing more"


def test_the_record_in_the_folder_of_a_run_is_written_again_while_a_long_stage_goes_on(storage, monkeypatch):
    monkeypatch.setattr(lease, "NOTE_SECONDS", 0.1)
    folder = join(storage, "runs", "mine")
    with Driver(storage, beat_s=0.05, folder=folder) as driver:
        driver.rely(f"{storage}/artefacts/a/k")
        first = json.loads((Path(folder) / "run.json").read_text())["noted"]
        time.sleep(0.5)
        record = json.loads((Path(folder) / "run.json").read_text())
        assert record["noted"] > first and record["targets"] == [f"{storage}/artefacts/a/k"]


def test_cleaning_removes_what_the_dead_left_half_done_and_nothing_else(storage):
    home = Path(storage)
    with Driver(storage) as dead, Driver(storage) as living, Driver(storage) as cleaner:
        for driver in (dead, living):
            (draft(storage, driver.id, "k") / "half.txt").write_text("half")
            driver.acquire(driver.id[-4:], f"{storage}/artefacts/cook/{driver.id[-4:]}")
            (home / "artefacts" / "cook" / driver.id[-4:]).mkdir(parents=True)
            write(join(storage, "work", driver.id[-4:], "checkpoint"), b"1")
        (home / "artefacts" / "cook" / ".removed-x").mkdir()
        finished = draft(storage, cleaner.id, "done")
        publish(finished, f"{storage}/artefacts/cook/done", {})
        tamper(storage, dead, pid=ended_process())
        assert cleaner.clean() == {living.id, cleaner.id}
        assert [path.name.rsplit(".", 2)[0] for path in drafts_folder(storage).iterdir()] == [living.id]
        assert leases(storage) == sorted([f"driver-{cleaner.id}.json", f"driver-{living.id}.json", f"key-{living.id[-4:]}.json"])
        assert list_names(f"{storage}/artefacts/cook") == sorted([living.id[-4:], "done"])
        assert list_names(f"{storage}/work") == sorted([dead.id[-4:], living.id[-4:]]), "the next attempt resumes from the scratch"
        assert read_manifest(f"{storage}/artefacts/cook/done") is not None


def test_cleaning_takes_nothing_from_a_driver_that_enters_meanwhile(storage, monkeypatch):
    live, entered = Driver.live, []

    def look(driver):
        found = live(driver)
        if not entered:
            entered.append(Driver(storage).__enter__())
            (draft(storage, entered[0].id, "k") / "half.txt").write_text("half")
        return found

    with Driver(storage) as cleaner:
        monkeypatch.setattr(Driver, "live", look)
        for clean in (cleaner.clean, cleaner.leftovers):
            clean()
            assert [path.name.rsplit(".", 2)[0] for path in drafts_folder(storage).iterdir()] == [entered[0].id]
            assert f"driver-{entered[0].id}.json" in leases(storage)
            entered.pop().__exit__()
            for path in drafts_folder(storage).iterdir():
                shutil.rmtree(path)


def test_a_new_attempt_of_the_same_driver_starts_with_an_empty_folder(storage):
    first = draft(storage, "host.of.mine-1-abc", "key")
    (first / "half.txt").write_text("half")
    second = draft(storage, "host.of.mine-1-abc", "key")
    assert list(second.iterdir()) == [] and not first.exists()
    assert second.name.rsplit(".", 2)[0] == "host.of.mine-1-abc"


def test_drafts_for_an_object_store_lie_in_the_nodes_cache_apart_for_each_storage(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = drafts_folder("s3://bucket/one"), drafts_folder("s3://bucket/two")
    assert one != two and one.is_relative_to(tmp_path) and two.is_relative_to(tmp_path)
