"""`gc` over random storages, limits, kills and drivers, beside a model of what is needed that knows nothing of its code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirepoix.serving import store
from mirepoix.serving.heartbeat import served_mark
from mirepoix.workflows.runner import lease
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.upkeep.gc import Limits, collect
from mirepoix.workflows.upkeep.runs import read_runs
from tests.workflows.recipes.small_quickstart import ROOT, environment
from tests.workflows.runner.stub_stages import COPY, StubConfig, logged, run
from tests.workflows.runner.test_execute import wait_for
from tests.workflows.upkeep.storages import DAY, key_of, make_result, make_run, run_name, target

NAMES = "abcdef"


@dataclass(frozen=True)
class ARun:
    names: frozenset[str]
    state: str  # done | failed | killed
    pinned: bool
    served: bool


@dataclass(frozen=True)
class Case:
    """A storage and a gc of it. Run number n ended 40 - 10 n days ago; result number n was made so many days ago as `ages` says."""

    runs: tuple[ARun, ...]
    ages: tuple[int, ...]
    scratch: frozenset[str]  # names whose result has scratch, and a log, that are as old as the result: of a killed run its last sign
    keep_last: int | None
    older_than: int | None  # days
    relied: frozenset[str]  # by a driver that is at work all the time
    kills: tuple[tuple[int, str], ...]  # of one gc after the other: at which step, and before, in the middle of or after it


def names() -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(NAMES), min_size=0, max_size=3)


A_RUN = st.builds(
    ARun, names(), st.sampled_from(["done", "done", "failed", "killed"]), st.sampled_from([False] * 5 + [True]), st.booleans()
)
KILL = st.tuples(st.integers(0, 7), st.sampled_from(["before", "middle", "after"]))
CASE = st.builds(
    Case,
    st.lists(A_RUN, min_size=1, max_size=3).map(tuple),
    st.tuples(*(st.sampled_from([1, 1, 9, 35]) for _ in NAMES)),
    names(),
    st.sampled_from([0, 0, 1, 2, None]),
    st.sampled_from([None, None, 0, 15]),
    st.frozensets(st.sampled_from(NAMES), max_size=1),
    st.lists(KILL, min_size=1, max_size=2).map(tuple),
)


def build(home: str, case: Case) -> None:
    for name, age in zip(NAMES, case.ages, strict=True):
        make_result(home, name, "release", size=10, age=age * DAY)
        if name in case.scratch:
            for path in (f"work/{key_of(name)[:16]}/step", f"logs/release-{key_of(name)[:16]}.log"):
                store.write(store.join(home, *path.split("/")), b".")
                for each in (Path(home) / path, (Path(home) / path).parent):
                    if each.name != "logs":
                        os.utime(each, (time.time() - age * DAY,) * 2)
    store.write(store.join(home, "runs", "search-20260101-000000-ffff", "report.json"), b'{"not": "a report"}')
    for number, each in enumerate(case.runs):
        chosen = sorted(each.names)
        failed = chosen[:1] if each.state == "failed" else []
        made = dict.fromkeys(chosen, "release")
        make_run(home, number, made, age=(40 - 10 * number) * DAY, failed=tuple(failed), report=each.state != "killed")
        if each.pinned:
            store.write(store.join(home, "runs", run_name(number), "pin.json"), b"{}")


def ended(case: Case, number: int) -> int:
    """Days ago: of a run that was killed, when it last wrote scratch, if that was after its record."""
    each = case.runs[number]
    signs = [case.ages[NAMES.index(name)] for name in each.names & case.scratch] if each.state == "killed" else []
    return min([40 - 10 * number, *signs])


def state_of(each: ARun) -> str:
    return "done" if each.state == "failed" and not each.names else each.state  # nothing failed in it


def kept_runs(case: Case) -> set[int]:
    """The model: which runs stay."""
    served = {name for each in case.runs if each.served for name in each.names}
    done = [number for number, each in enumerate(case.runs) if state_of(each) == "done"]
    kept = set()
    for number, each in enumerate(case.runs):
        last = case.keep_last is not None and case.keep_last > 0 and (len(done) < case.keep_last or number >= done[-case.keep_last])
        young = case.older_than is not None and ended(case, number) < case.older_than
        anyway = case.keep_last is None and case.older_than is None
        if each.pinned or served & each.names or last or young or anyway:
            kept.add(number)
    return kept


def expected(case: Case) -> set[str]:
    """The model: which names of results stay."""
    kept = kept_runs(case)
    named = {name for each in case.runs for name in each.names}
    needed = {name for number in kept for name in case.runs[number].names} | case.relied
    limit = 7 if case.older_than is None else case.older_than
    young = {name for name, age in zip(NAMES, case.ages, strict=True) if age < limit}
    return needed | (young - named)


def expected_scratch(case: Case) -> set[str]:
    """The model: of which names scratch stays: of runs that stay by a pin, a server or a limit, of a driver at work, and what is young.

    Of a run that ended and goes it goes at any age, as nothing resumes from it.
    """
    kept = kept_runs(case)
    limited = case.keep_last is not None or case.older_than is not None
    served = {name for each in case.runs if each.served for name in each.names}
    resumed = {name for number in kept if limited or case.runs[number].pinned for name in case.runs[number].names}
    resumed |= {name for number in kept if case.runs[number].names & served for name in case.runs[number].names}
    limit = 7 if case.older_than is None else case.older_than
    named = {name for each in case.runs for name in each.names}
    killed = {name for each in case.runs if each.state == "killed" for name in each.names}
    over = named - {name for number in kept for name in case.runs[number].names} - killed - case.relied - served
    young = {name for name, age in zip(NAMES, case.ages, strict=True) if age < limit}
    return case.scratch & (resumed | case.relied | served | (young - over))


def serve_and_work(home: str, case: Case, stack: ExitStack) -> None:
    for each in case.runs:
        for name in each.names if each.served else ():
            mark = served_mark(target(home, name, "release"), "http://a")
            store.write(mark.target, json.dumps({**mark.record, "beat": time.time()}).encode())
    driver = stack.enter_context(Driver(home))
    for name in case.relied:
        driver.rely(target(home, name, "release"))


class Killed(BaseException):
    pass


class Killer:
    """Counts the steps of a gc: deletions, and records that a run goes. At the given one it is killed, and leaves its leases behind."""

    def __init__(self, home: str, at: int = -1, how: str = "before"):
        self.home, self.at, self.how, self.steps = home, at, how, 0
        self.left: dict[str, bytes] = {}

    def step(self, whole, half) -> None:
        self.steps += 1
        if self.steps - 1 != self.at:
            whole()
            return
        if self.how == "middle":
            half()
        elif self.how == "after":
            whole()
        folder = store.join(self.home, "leases")
        self.left = {name: store.read(store.join(folder, name)) or b"" for name in store.list_names(folder) if name.endswith(".json")}
        raise Killed

    def delete(self, path: str) -> None:
        def half() -> None:
            if store.is_local(path):
                if store.local_path(path).is_dir():
                    store._set_aside(store.local_path(path))
            else:
                store.delete(store.join(path, "manifest.json"))

        self.step(lambda: store.delete(path), half)

    def collect(self, limits: Limits) -> None:
        write = store.write

        def counted(path: str, content: bytes) -> None:
            if str(path).partition("?")[0].endswith("removal.json"):
                self.step(lambda: write(path, content), lambda: None)
            else:
                write(path, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "write", counted)
            try:
                collect(self.home, limits, self.delete)
            except Killed:
                for name, content in self.left.items():
                    record = json.loads(content)
                    if record.get("work") == "gc" or name.startswith("key-"):
                        write(store.join(self.home, "leases", name), json.dumps(record | {"start": "1"}).encode())


def tree(home: str) -> set[str]:
    """The files of a storage, without leases."""
    return {str(path.relative_to(home)) for path in Path(home).rglob("*") if path.is_file() and path.relative_to(home).parts[0] != "leases"}


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(CASE)
def test_nothing_needed_is_lost_what_is_not_needed_goes_and_a_killed_gc_is_finished_by_the_next(case):
    limits = Limits(case.keep_last, None if case.older_than is None else case.older_than * DAY)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home, whole = f"{folder}/storage", f"{folder}/whole"
        build(home, case)
        shutil.copytree(home, whole)
        serve_and_work(home, case, stack)
        serve_and_work(whole, case, stack)
        collect(whole, limits)
        for at, how in case.kills:
            Killer(home, at, how).collect(limits)
            assert_right(home, case)
        collect(home, limits)
        assert tree(home) == tree(whole)
        assert {name for name in NAMES if store.read_manifest(target(home, name, "release"))} == expected(case)
        assert {each.name for each in read_runs(home)} == {run_name(number) for number in kept_runs(case)}
        assert {name for name in NAMES if store.list_names(store.join(home, "work", key_of(name)[:16]))} == expected_scratch(case)
        assert not list(Path(home).glob("*/*/.removed-*")) and not list(Path(home).glob("*/.removed-*"))


def assert_right(home: str, case: Case) -> None:
    """At any moment: all that is needed is whole, and what is listed as a run that is done has its results."""
    for name in expected(case):
        store.verify(target(home, name, "release"))
    for name in NAMES:
        if store.read_manifest(target(home, name, "release")) is not None:
            store.verify(target(home, name, "release"), hashes=False)
    listed = {each.name: each for each in read_runs(home)}
    assert {run_name(number) for number in kept_runs(case)} <= {name for name, each in listed.items() if each.state != "being removed"}
    for each in listed.values():
        if each.state == "done":
            assert all(
                store.read_manifest(target(home, name, "release")) for name in NAMES if target(home, name, "release").endswith(each.places)
            )


@settings(max_examples=15)
@given(st.integers(0, 6), st.sampled_from(NAMES), st.booleans())
def test_a_driver_that_comes_to_a_result_while_gc_works_has_it_or_sees_that_it_is_gone(at, name, ends):
    """The steps of a driver that finds a result, with those of a gc between them: it is used only if it stays."""
    with tempfile.TemporaryDirectory() as folder:
        home = f"{folder}/storage"
        for each in NAMES:
            make_result(home, each, "release", size=10)
        make_run(home, 0, dict.fromkeys(NAMES, "release"))
        found = store.read_manifest(target(home, name, "release"))
        driver = Driver(home, folder=store.join(home, "runs", run_name(1))).__enter__()
        used = []
        steps = 0

        def delete(path: str) -> None:
            nonlocal steps
            steps += 1
            if steps - 1 == at:
                driver.rely(target(home, name, "release"))
                if driver.deleting(key_of(name)[:16]) is None and store.read_manifest(target(home, name, "release")) == found:
                    used.append(name)
                    make_run(home, 1, {name: "release"}, age=0.0)
                    if ends:  # its report is there, and its record is gone, before gc comes to the result
                        driver.__exit__()
            store.delete(path)

        collect(home, Limits(keep_last=0, older_than=0), delete)
        for each in used:
            store.verify(target(home, each, "release"))
        if not ends or not used:
            driver.__exit__()
        left = {each for each in NAMES if store.read_manifest(target(home, each, "release"))}
        assert left <= {name}


def test_a_stage_whose_result_is_deleted_between_two_looks_runs_again(tmp_path, monkeypatch):
    storage, log = str(tmp_path / "storage"), str(tmp_path / "log")
    stages = lease_stages(log)
    run(stages, storage)
    rely, deleted = Driver.rely, []

    def rely_late(driver: Driver, path: str) -> None:
        if not deleted:  # gc looked for drivers that rely on it a moment before
            deleted.append(path)
            store.delete(path)
        rely(driver, path)

    monkeypatch.setattr(Driver, "rely", rely_late)
    report, _ = run(stages, storage)
    assert [stage.status for stage in report.stages.values()] == ["done", "skipped"]
    assert logged(log).count("begin first") == 2


def lease_stages(log: str):
    from mirepoix.workflows.runner.graph import Stage

    return [Stage("first", COPY, StubConfig(log, "first")), Stage("second", COPY, StubConfig(log, "second"), {"before": "first"})]


def test_a_driver_waits_for_a_gc_that_deletes_what_it_wants_and_then_makes_it(tmp_path):
    storage, log = str(tmp_path / "storage"), str(tmp_path / "log")
    stages = lease_stages(log)
    first, _ = run(stages, storage)
    key, path = first.stages["first"].key[:16], first.stages["first"].target
    with Driver(storage, work="gc") as gc:
        assert gc.acquire(key, path) is None

        def finish() -> None:
            store.delete(path)
            gc.release(key)

        timer = threading.Timer(0.6, finish)
        timer.start()
        report, shown = run(stages, storage)
        timer.join()
    assert "waits for `mirepoix gc`, which deletes its result" in shown
    assert [stage.status for stage in report.stages.values()] == ["done", "skipped"]


COLLECT = """
import sys, time
from mirepoix.serving import store
from mirepoix.workflows.upkeep.gc import Limits, collect
def slow(path):
    print(path, flush=True)
    time.sleep(0.3)
    store.delete(path)
collect(sys.argv[1], Limits(keep_last=0, older_than=0), slow)
"""


def test_a_gc_process_that_is_killed_while_a_driver_works_loses_nothing_of_it_and_the_next_gc_ends_its_work(tmp_path):
    storage, log = str(tmp_path / "storage"), str(tmp_path / "log")
    for name in NAMES:
        make_result(storage, name, "release")
    make_run(storage, 0, dict.fromkeys(NAMES, "release"))
    run(lease_stages(log), storage)
    command = [sys.executable, "-c", COLLECT, storage]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with Driver(storage, folder=store.join(storage, "runs", run_name(1))) as driver:
        driver.rely(target(storage, "f", "release"))
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_for(lambda: process.poll() is not None)
        report, _ = run(lease_stages(log), storage)
        assert report.ok, "a lease of the dead gc holds up no run"
        collect(storage, Limits(keep_last=0, older_than=0))
        assert {name for name in NAMES if store.read_manifest(target(storage, name, "release"))} == {"f"}
        assert [each.name for each in read_runs(storage)] == [run_name(1)]
    assert [name for name in store.list_names(f"{storage}/leases") if name != ".lock"] == []


@pytest.fixture
def bucket(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: None)
    return lambda name: bucket(f"{tmp_path.name}/{name}")


@pytest.mark.soak
def test_on_an_object_store_a_gc_that_is_killed_again_and_again_is_finished_by_the_last(bucket):
    home = bucket("storage")
    for name in "abc":
        make_result(home, name, "release", size=10)
    make_run(home, 0, {"a": "release", "b": "release"}, age=20 * DAY)
    make_run(home, 1, {"b": "release", "c": "release"}, age=10 * DAY)
    # In the middle of the deletion of the result, whose rest the next gc removes as what a dead process left; then of the run's folder.
    for at in (1, 2):
        killer = Killer(home, at, "middle")
        killer.collect(Limits(keep_last=1))
        assert killer.left, "it was killed"
        assert {each.name: each.state for each in read_runs(home)} == {run_name(0): "being removed", run_name(1): "done"}
    assert store.list_names(store.join(home, "runs", run_name(0))) == ["removal.json", "run.json"]
    collect(home, Limits(keep_last=1))
    for name in "bc":
        store.verify(target(home, name, "release"))
    assert [each.name for each in read_runs(home)] == [run_name(1)]
    assert store.list_names(target(home, "a", "release")) == [] and store.list_names(store.join(home, "runs", run_name(0))) == []
