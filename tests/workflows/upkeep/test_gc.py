"""`gc`: nothing that is needed is lost, and what is not needed goes."""

import json
import os
import time
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import served_mark
from mirepoix.serving.store import join, list_names, publish, read_manifest, write
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.upkeep import gc
from mirepoix.workflows.upkeep.gc import Limits, collect, planned, seconds_of
from tests.workflows.upkeep.storages import DAY, key_of, make_result, make_run, place, run_name, target


@pytest.fixture
def storage(tmp_path):
    """Three runs, 30, 20 and 10 days old: a and b share the vectors of x, and each has a release of its own."""
    home = str(tmp_path / "storage")
    for name, age in (("x", 30), ("a", 30), ("b", 20), ("c", 10), ("unnamed", 10), ("young", 1)):
        make_result(home, name, "embed" if name == "x" else "release", age=age * DAY)
    for number, name in enumerate("abc", start=1):
        results = {name: "release"} if name == "c" else {"x": "embed", name: "release"}
        make_run(home, number, results, age=(40 - 10 * number) * DAY)
    return home


def results(storage: str) -> list[str]:
    return [
        name
        for name in ("x", "a", "b", "c", "unnamed", "young")
        if read_manifest(target(storage, name, "embed" if name == "x" else "release"))
    ]


def runs(storage: str) -> list[str]:
    return list_names(join(storage, "runs"))


def test_without_limits_all_runs_stay_and_what_no_run_names_goes_after_a_week(storage):
    collect(storage, Limits())
    assert results(storage) == ["x", "a", "b", "c", "young"]
    assert runs(storage) == [run_name(1), run_name(2), run_name(3)]


def test_the_last_runs_stay_with_all_that_they_name(storage):
    collect(storage, Limits(keep_last=2))
    assert runs(storage) == [run_name(2), run_name(3)]
    assert results(storage) == ["x", "b", "c", "young"]


def test_runs_and_unnamed_results_go_by_their_age(storage):
    collect(storage, Limits(older_than=15 * DAY))
    assert runs(storage) == [run_name(3)]
    assert results(storage) == ["c", "unnamed", "young"]


def test_a_run_stays_if_either_limit_keeps_it(storage):
    collect(storage, Limits(keep_last=1, older_than=25 * DAY))
    assert runs(storage) == [run_name(2), run_name(3)]


def test_the_last_runs_are_those_that_are_done_and_what_began_after_them(storage):
    make_run(storage, 4, {"lost": "release"}, failed=("lost",), age=5 * DAY)
    collect(storage, Limits(keep_last=1))
    assert runs(storage) == [run_name(3), run_name(4)], "a failed run does not take the place of one that is done"


def test_a_pinned_run_stays(cli, storage):
    cli("keep", run_name(1), "--storage", storage)
    collect(storage, Limits(keep_last=0, older_than=0))
    assert (runs(storage), results(storage)) == ([run_name(1)], ["x", "a"])


def test_a_served_run_stays_and_so_does_a_served_release_whose_run_is_gone(storage):
    with served_mark(target(storage, "b", "release"), "http://a"), served_mark(target(storage, "unnamed", "release"), "http://b"):
        collect(storage, Limits(keep_last=0, older_than=0))
    assert (runs(storage), results(storage)) == ([run_name(2)], ["x", "b", "unnamed"])
    collect(storage, Limits(keep_last=0, older_than=0))
    assert (runs(storage), results(storage)) == ([], [])


def test_a_run_that_only_adds_to_a_served_release_does_not_stay_for_that(storage):
    make_run(storage, 4, {"c": "release"}, age=DAY, settings={"release": target(storage, "b", "release")})
    with served_mark(target(storage, "b", "release"), "http://a"):
        collect(storage, Limits(keep_last=0, older_than=0))
    assert (runs(storage), results(storage)) == ([run_name(2)], ["x", "b"])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"start": "1"}, False),  # the process has ended
        ({"machine": "elsewhere", "beat": time.time() - 3600}, False),
        ({"machine": "elsewhere", "pid": 1}, True),
    ],
)
def test_a_mark_of_a_dead_server_does_not_count(storage, changes, kept):
    with served_mark(target(storage, "b", "release"), "http://a") as mark:
        path = Path(mark.target)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        collect(storage, Limits(keep_last=0, older_than=0))
        assert (results(storage) == ["x", "b"]) == kept


def test_what_a_run_reads_by_its_settings_stays(storage):
    settings = {"backbone": {"name": target(storage, "unnamed", "release")}}
    make_run(storage, 5, {"c": "release"}, age=DAY, settings=settings)
    collect(storage, Limits(keep_last=1, older_than=0))
    assert results(storage) == ["c", "unnamed"]


def test_a_renamed_run_is_a_run(storage):
    os.rename(join(storage, "runs", run_name(3)), join(storage, "runs", "best"))
    collect(storage, Limits(keep_last=1))
    assert runs(storage) == ["best"] and results(storage) == ["c", "young"]


def test_a_storage_that_was_moved_keeps_what_its_reports_name_by_the_paths_of_before(storage, tmp_path):
    os.rename(storage, tmp_path / "elsewhere")
    collect(str(tmp_path / "elsewhere"), Limits(keep_last=1))
    assert results(str(tmp_path / "elsewhere")) == ["c", "young"]


def test_the_results_of_a_run_that_goes_on_stay_though_they_are_old(storage):
    folder = join(storage, "runs", run_name(9))
    with Driver(storage, folder=folder) as driver:
        driver.rely(target(storage, "x"))
        collect(storage, Limits(keep_last=0, older_than=0))
        assert results(storage) == ["x"] and runs(storage) == [run_name(9)]
        with Driver(storage) as other:  # one without a folder, as an execution from Python
            other.rely(make_result(storage, "a", "release"))
            other.acquire(key_of("unnamed")[:16], make_result(storage, "unnamed", "release"))
            collect(storage, Limits(keep_last=0, older_than=0))
            assert results(storage) == ["x", "a", "unnamed"], "relied on, or in the making"


def test_a_run_that_ends_while_gc_works_is_read_again(storage):
    """It relied on x after gc had decided, and its driver is gone before gc comes to x."""
    folder = join(storage, "runs", run_name(9))
    driver = Driver(storage, folder=folder).__enter__()

    def delete(path):
        if driver.targets:
            gc.store.delete(path)
            return
        driver.rely(target(storage, "x"))
        driver.rely(target(storage, "b", "release"))
        write(join(folder, "config.yaml"), b"")
        make_run(storage, 9, {"x": "embed", "b": "release"}, age=0.0)
        driver.__exit__()
        gc.store.delete(path)

    first = collect(storage, Limits(keep_last=0, older_than=0), delete)
    spared = {node.name: node.needed_by for node in first if node.needed_by == [run_name(9)] or node.name == place("x")}
    assert spared, "some result was spared because the run that ended names it"
    left = [name for name in ("x", "b") if name in results(storage)]
    assert len(left) >= 1 and run_name(9) in runs(storage)


def test_scratch_and_logs_go_with_their_run_and_else_by_their_age(storage):
    for name in ("a", "c", "other"):
        write(join(storage, "work", key_of(name)[:16], "step-100", "model.bin"), b"." * 500)
        write(join(storage, "logs", f"release-{key_of(name)[:16]}.log"), b"Traceback")
    old = time.time() - 8 * DAY
    for path in (Path(storage) / "work" / key_of("other")[:16]).rglob("*"):
        os.utime(path, (old, old))
    os.utime(Path(storage) / "work" / key_of("other")[:16], (old, old))
    nodes = {node.name: node for node in collect(storage, Limits(keep_last=2))}
    assert list_names(join(storage, "work")) == [key_of("c")[:16]]
    assert nodes[f"work/{key_of('a')[:16]}"].bytes == 500
    assert list_names(join(storage, "logs")) == sorted(f"release-{key_of(name)[:16]}.log" for name in ("c", "other"))


def test_a_run_that_was_killed_is_as_old_as_its_last_checkpoint_or_heartbeat(storage):
    """Its record was written when its long stage began, two days ago."""
    for number, name in ((5, "trained"), (6, "silent")):
        make_run(storage, number, {name: "train"}, age=2 * DAY, report=False, recipe="long")
    write(join(storage, "work", key_of("trained")[:16], "checkpoint-9", "model.bin"), b".")
    beat = {"driver": "gone", "machine": "m", "pid": 1, "start": "1", "beat": time.time() - 3600, "targets": []}
    going = {node.name for node in planned(storage, Limits(older_than=DAY)) if node.goes}
    assert f"runs/{run_name(6, 'long')}" in going and f"runs/{run_name(5, 'long')}" not in going
    assert f"work/{key_of('trained')[:16]}" not in going
    write(join(storage, "leases", "driver-gone.json"), json.dumps(beat).encode())
    assert f"runs/{run_name(6, 'long')}" not in {node.name for node in planned(storage, Limits(older_than=DAY)) if node.goes}


def test_young_scratch_of_a_killed_run_stays_though_the_run_goes(storage):
    make_run(storage, 0, {"trained": "train"}, report=False)
    write(join(storage, "work", key_of("trained")[:16], "model.bin"), b".")
    collect(storage, Limits(keep_last=1))
    assert runs(storage) == [run_name(3)] and list_names(join(storage, "work")) == [key_of("trained")[:16]]


def test_scratch_of_a_run_that_only_stays_as_all_do_goes_after_a_week(storage):
    write(join(storage, "work", key_of("a")[:16], "model.bin"), b".")
    collect(storage, Limits())
    assert list_names(join(storage, "work")) == [key_of("a")[:16]]
    old = time.time() - 8 * DAY
    for path in (Path(storage) / "work" / key_of("a")[:16], Path(storage) / "work" / key_of("a")[:16] / "model.bin"):
        os.utime(path, (old, old))
    collect(storage, Limits())
    assert list_names(join(storage, "work")) == []


def snapshot(storage: str) -> dict[str, bytes]:
    return {str(path.relative_to(storage)): path.read_bytes() for path in Path(storage).rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing_and_names_what_a_run_then_removes(cli, storage):
    before = snapshot(storage)
    status, out, _ = cli("gc", "--keep-last", "1", "--dry-run", "--json", "--storage", storage)
    assert (status, snapshot(storage)) == (0, before)
    would = {node["name"] for node in json.loads(out)["nodes"] if node["goes"]}
    assert would == {f"runs/{run_name(1)}", f"runs/{run_name(2)}", place("x"), *(place(name, "release") for name in ("a", "b", "unnamed"))}
    assert {node.name for node in collect(storage, Limits(keep_last=1)) if node.goes} == would


def test_it_prints_what_went_how_much_that_was_and_why_runs_stay(cli, storage):
    cli("keep", run_name(1), "--storage", storage)
    shown = cli("gc", "--keep-last", "1", "--dry-run", "--storage", storage)[1].splitlines()
    assert [line.split()[:5] for line in shown[:3]] == [
        ["would", "go", "1.0", "kB", place("b", "release")],
        ["would", "go", "1.0", "kB", place("unnamed", "release")],
        ["would", "go", *shown[2].split()[2:4], f"runs/{run_name(2)}"],
    ]
    assert any(line.startswith("stays") and line.endswith(f"runs/{run_name(1)}: pinned") for line in shown)
    assert any(line.endswith(f"runs/{run_name(3)}: one of the last 1") for line in shown)
    assert next(line for line in shown if line.startswith("would free")).endswith("1 run, 2 results")


@pytest.mark.parametrize("folder", [None, "runs", "runs/notes", "artefacts/mine/songs"])
def test_a_folder_that_is_no_storage_is_refused(cli, tmp_path, folder):
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs.txt").write_text("mine")
    status, _, err = cli("gc", "--older-than", "0", "--storage", str(tmp_path))
    assert status == 2 and "is no storage" in err
    assert (tmp_path / "runs.txt").exists() and not (tmp_path / "leases").exists()


def test_what_is_of_no_known_form_stays(storage):
    for name in ("runs/notes/todo.txt", "artefacts/embed/mine/a.txt", "work/mine/a.txt", "logs/mine.txt", "plans.txt"):
        write(join(storage, *name.split("/")), b"mine")
    collect(storage, Limits(keep_last=0, older_than=0))
    kept = {name for name in snapshot(storage) if not name.startswith("leases/")}
    assert kept == {"runs/notes/todo.txt", "artefacts/embed/mine/a.txt", "work/mine/a.txt", "logs/mine.txt", "plans.txt"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs/notes.txt", "mine"),
        ("artefacts/.DS_Store", "mine"),
        ("leases/driver-a.json", ""),
        ("leases/driver-b.json", "[]"),
        ("leases/serve-c.json", "{}"),
        ("leases/key-0123456789abcdef.json", "{"),
    ],
)
def test_a_file_that_no_run_wrote_stops_neither_gc_nor_the_list_of_runs(cli, storage, name, content):
    write(join(storage, *name.split("/")), content.encode())
    assert cli("runs", "--storage", storage)[0] == 0
    assert cli("gc", "--keep-last", "1", "--storage", storage)[0] == 0
    assert results(storage) == ["c", "young"]


@pytest.mark.parametrize(
    ("report", "record", "named"),
    [("cut off", None, ["x", "b"]), ("3", None, ["x", "b"]), ("cut off", "", ["x", "b"]), (None, "{}", ["b"]), (None, "{", ["b"])],
)
def test_a_run_whose_files_are_damaged_is_listed_as_that_and_stays_with_what_they_name(cli, storage, report, record, named):
    """Its config names b."""
    folder = Path(storage) / "runs" / run_name(2)
    whole = (folder / "report.json").read_text()
    (folder / "report.json").unlink()
    if report is not None:
        (folder / "report.json").write_text(whole[:-60] if report == "cut off" else report)
    if record is not None:
        (folder / "run.json").write_text(record)
    (folder / "config.yaml").write_text(f"encoder: {target(storage, 'b', 'release')}")
    rows = {row["name"]: row["state"] for row in json.loads(cli("runs", "--json", "--storage", storage)[1])}
    assert rows == {run_name(1): "done", run_name(2): "damaged", run_name(3): "done"}
    assert "restore the file, or delete the folder" in cli("show", run_name(2), "--storage", storage)[1]
    collect(storage, Limits(keep_last=0, older_than=0))
    assert runs(storage) == [run_name(2)] and results(storage) == named


def test_files_that_results_share_by_hard_links_count_once_and_as_freed_with_their_last_name(cli, storage, tmp_path):
    """Releases p and q share an encoder of 5000 bytes; beside it each has 100 of its own."""
    (tmp_path / "encoder.bin").write_bytes(b"." * 5000)
    for number, name in ((4, "p"), (5, "q")):
        home = tmp_path / name
        home.mkdir()
        os.link(tmp_path / "encoder.bin", home / "encoder.bin")
        (home / "own.bin").write_bytes(name.encode() * 100)
        publish(home, target(storage, name, "release"), {"key": key_of(name), "created": time.time()})
        make_run(storage, number, {name: "release"}, age=(8 - number) * DAY)
    (tmp_path / "encoder.bin").unlink()

    def freed(keep: int) -> tuple[int, dict[str, int]]:
        told = json.loads(cli("gc", "--keep-last", str(keep), "--dry-run", "--json", "--storage", storage)[1])
        runs_and_logs = sum(node["bytes"] for node in told["nodes"] if node["goes"] and node["kind"] != "result")
        return told["bytes"] - runs_and_logs, {node["name"]: node["bytes"] for node in told["nodes"] if node["goes"]}

    # x, a, b, c and unnamed have 1000 bytes each
    assert freed(1)[0] == 5000 + 100 and freed(1)[1][place("p", "release")] == 5100
    assert freed(0)[0] == 5000 + 5000 + 2 * 100
    assert "share files by hard links" in cli("gc", "--keep-last", "1", "--storage", storage)[1]


def test_of_a_result_that_was_moved_elsewhere_and_linked_the_link_goes_and_the_content_stays(cli, storage, tmp_path):
    elsewhere = tmp_path / "disk" / "a"
    elsewhere.parent.mkdir()
    os.rename(target(storage, "a", "release"), elsewhere)
    os.symlink(elsewhere, target(storage, "a", "release"))
    status, out, _ = cli("gc", "--keep-last", "1", "--storage", storage)
    assert status == 0 and f"0 B  {place('a', 'release')} (a link; {elsewhere} stays)" in out
    assert results(storage) == ["c", "young"] and read_manifest(elsewhere) is not None
    assert list_names(join(storage, "runs")) == [run_name(3)]


@pytest.mark.parametrize("report", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_keep_says_is_kept_while_gc_chooses_it_stays(cli, storage, monkeypatch, report, when):
    """`keep` looks, gc chooses, `keep` writes the pin: before gc writes removal.json, or after it."""
    make_run(storage, 0, {"x": "embed"}, age=90 * DAY, report=report)
    write_file, said = gc.store.write, []

    def written(path, content):
        if path.endswith(f"{run_name(0)}/removal.json"):
            if when == "after":
                write_file(path, content)
            said.append(cli("keep", run_name(0), "--storage", storage))
        write_file(path, content)

    monkeypatch.setattr(gc.store, "write", written)
    collect(storage, Limits(keep_last=0, older_than=0))
    ((status, _, err),) = said
    assert (status == 0) == (when == "before") and ("is being removed" in err) == (when == "after")
    assert (run_name(0) in runs(storage)) == (status == 0) and ("x" in results(storage)) == (status == 0)


def test_a_run_that_was_removed_while_keep_looked_is_not_said_to_be_kept(cli, storage, monkeypatch):
    write_file = gc.store.write

    def written(path, content):
        gc.store.delete(join(storage, "runs", run_name(1)))
        write_file(path, content)

    monkeypatch.setattr(gc.store, "write", written)
    assert cli("keep", run_name(1), "--storage", storage)[0] == 2
    assert run_name(1) not in runs(storage)


def test_gc_waits_for_runs_of_an_earlier_version_which_do_not_say_what_they_need(cli, storage):
    before = snapshot(storage)
    record = {"driver": "old", "host": "far", "machine": "elsewhere", "pid": 7, "start": "1", "beat": time.time() - 120}
    write(join(storage, "leases", "driver-old.json"), json.dumps(record).encode())
    for dry in (["--dry-run"], []):
        status, _, err = cli("gc", "--keep-last", "0", *dry, "--storage", storage)
        assert status == 2 and "earlier version goes on (far, pid 7)" in err
    assert before.items() <= snapshot(storage).items()
    write(join(storage, "leases", "driver-old.json"), json.dumps(record | {"beat": time.time() - 400}).encode())
    assert cli("gc", "--keep-last", "0", "--storage", storage)[0] == 0


@pytest.mark.parametrize(("silent", "stays"), [(120.0, True), (400.0, False)])
def test_a_driver_of_another_machine_counts_for_five_minutes_after_its_last_heartbeat(storage, silent, stays):
    make_run(storage, 0, {"a": "release"}, report=False)
    record = {"driver": "gone", "host": "far", "machine": "elsewhere", "pid": 7, "start": "1", "beat": time.time() - silent, "targets": []}
    write(join(storage, "leases", "driver-gone.json"), json.dumps(record).encode())
    collect(storage, Limits(keep_last=0))
    assert (run_name(0) in runs(storage)) == stays and ("a" in results(storage)) == stays


def test_gc_of_a_storage_that_gc_emptied_has_nothing_to_do(cli, storage):
    for _ in range(2):
        assert cli("gc", "--keep-last", "0", "--older-than", "0", "--storage", storage)[0] == 0
    assert results(storage) == [] and runs(storage) == []


AGES = [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("2w", 1_209_600), ("0.5h", 1800), ("0", 0)]


@pytest.mark.parametrize(("text", "seconds"), AGES)
def test_an_age_is_a_number_and_a_unit(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1 y", "soon", ""])
def test_another_age_is_refused(cli, storage, text):
    status, _, err = cli("gc", f"--older-than={text}", "--dry-run", "--storage", storage)
    assert status == 2 and "30d" in err


def test_a_negative_number_of_runs_is_refused(cli, storage):
    status, _, err = cli("gc", "--keep-last=-1", "--storage", storage)
    assert status == 2 and "--keep-last is -1" in err


def test_plans_of_gc_name_who_needs_what(storage):
    needed = {node.name: node.needed_by for node in planned(storage, Limits(keep_last=2))}
    assert needed[place("x")] == [run_name(2)] and needed[place("a", "release")] == []
