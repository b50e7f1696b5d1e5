"""The commands `runs`, `show` and `keep`: what a storage holds, one run of it, and the pin that keeps a run."""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.heartbeat import place_of
from mirepoix.workflows.dag import results
from mirepoix.workflows.runner.progress import clock
from mirepoix.workflows.storage import REMOVAL, latest_release, present, refuse_other_folders
from mirepoix.workflows.upkeep.aliases import shown_by_place
from mirepoix.workflows.upkeep.runs import PIN, StoredRun, as_bytes, find_run, on_disk, read_runs, servers, sizes


def runs_command(storage: str, as_json: bool) -> int:
    """Prints the runs of a storage, the newest first."""
    runs = read_runs(storage)
    rows = _rows(storage, runs)
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    if not runs:
        print(f"there is no run in {storage} yet")
        return 0
    lines = [("run", "recipe", "state", "score", "size", "when", "")]
    lines += [
        (
            row["name"],
            row["recipe"],
            row["state"],
            _score(run),
            as_bytes(row["bytes"]),
            _moment(run.began),
            ", ".join(filter(None, ["latest" * row["latest"], _why(row)])),
        )
        for row, run in zip(rows, runs, strict=True)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            f"{cell:>{width}}" if column == 4 else f"{cell:<{width}}" for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    return 0


def _rows(storage: str, runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """What `runs --json` prints of each run; `bytes_alone` are those that no other run names, and that go if it goes alone."""
    served, aliases = servers(storage), shown_by_place(storage)
    named: dict[str, list[str]] = {}
    for run in runs:
        for place in run.places:
            named.setdefault(place, []).append(run.name)
    latest = None
    with suppress(Refused):
        latest = place_of(latest_release(storage))
    parts = {
        place: (size, store.shared_files(store.join(storage, *place.split("/")))) if size else (0, ())
        for place, size in sizes(storage, named).items()
    }
    return [
        {
            "name": run.name,
            "folder": run.folder,
            "recipe": run.recipe,
            "state": run.state,
            "began": run.began,
            "ended": run.ended,
            "score": None if run.score is None else dict(zip(("arm", "measure", "average"), run.score, strict=True)),
            "bytes": on_disk(parts[place] for place in run.places),
            "bytes_alone": on_disk((parts[place] for place in run.places if len(named[place]) == 1), going=True),
            "damage": run.damage,
            "pinned": run.pinned,
            "aliases": [alias for target in run.released.values() for alias in aliases.get(place_of(target) or "", ())],
            "served": sorted({record["url"] for place in run.made for record in served.get(place, ())}),
            "releases": run.released,
            "latest": latest is not None and latest in map(place_of, run.released.values()),
        }
        for run in runs
    ]


def _score(run: StoredRun) -> str:
    if run.score is None:
        return "-"
    arm, measure, average = run.score
    return f"{measure} {average:.3f}{f' ({arm})' if arm else ''}"


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _why(row: dict[str, Any]) -> str:
    """Whether a run is kept by a pin, by the alias of a release that it made, or by being served."""
    return ", ".join(["kept"] * row["pinned"] + row["aliases"] + [f"served at {url}" for url in row["served"]])


def show_command(storage: str, given: str, as_json: bool) -> int:
    """Prints one run: its stages, its scores, its release, who needs what, and the commands to serve it and to run it again."""
    runs = read_runs(storage)
    run = find_run(runs, given, storage)
    (row,) = _rows(storage, runs)[runs.index(run) : runs.index(run) + 1]
    others = {place: [other.name for other in runs if other is not run and place in other.places] for place in run.places}
    bytes_of = sizes(storage, run.places)
    stages = [_stage(stage, bytes_of, others) for stage in run.stages]
    again = _again(run, storage)
    if as_json:
        print(json.dumps({**row, "stages": stages, "run_again": again}, indent=1))
    else:
        print("\n".join(_shown(run, row, stages, again)))
    return 0


def _again(run: StoredRun, storage: str) -> str | None:
    """The command that runs a run again; None where the config of an addition or a removal is of another version."""
    command: str | None = f"mirepoix run {run.recipe} --config {shlex.quote(store.join(run.folder, 'config.yaml'))}"
    if run.recipe in ("add", "remove"):
        from mirepoix.workflows.upkeep.revisions import command_again  # with all that plans a run, which no other run is shown by

        command = command_again(run.recipe, run.folder)
    return command and f"{command} --storage {shlex.quote(storage)}"


def _stage(stage: Mapping[str, Any], bytes_of: dict[str, int | None], others: dict[str, list[str]]) -> dict[str, Any]:
    place = place_of(stage["target"]) if stage["target"] else None
    told = {name: stage[name] for name in ("name", "status", "target", "error")}
    size = bytes_of.get(place) if place else None
    state = "gone" if stage["digest"] and size is None else stage["status"]
    return told | {
        "status": state,
        "seconds": stage["seconds"] if stage["status"] in ("done", "failed") else 0.0,
        "took": stage["took"],
        "bytes": size,
        "needed_by": others.get(place, []) if place else [],
    }


def _shown(run: StoredRun, row: dict[str, Any], stages: list[dict[str, Any]], again: str | None) -> Iterator[str]:
    yield f"{run.name}  {run.state}"
    if run.damage:
        yield f"  damaged  {run.damage}; restore the file, or delete the folder {run.folder}"
    yield f"  recipe   {run.recipe}"
    took = f", {clock(run.ended - run.began)} in all" if run.report is not None else ""
    where = f" on {run.driver['host']}, pid {run.driver['pid']}" if run.driver else ""
    yield f"  when     {_moment(run.began)}{took}{where}"
    if row["latest"]:
        yield "  latest   its release is the one that `mirepoix serve` takes"
    yield f"  kept     {_why(row) or 'by nothing: see `mirepoix gc --help`'}"
    yield f"  size     {as_bytes(row['bytes'])}, of which {as_bytes(row['bytes_alone'])} that no other run names"
    yield ""
    if stages:
        width = max(16, *(len(stage["name"]) for stage in stages))
        yield f"{'stage':<{width}} {'state':<10} {'time':>8} {'size':>8}  also named by"
        for stage in stages:
            seconds = clock(stage["took"] or stage["seconds"]) if stage["status"] != "not run" else "-"
            size = "-" if stage["bytes"] is None else as_bytes(stage["bytes"])
            needed = stage["needed_by"]
            also = f"{needed[0]}{f' and {len(needed) - 1} more' if len(needed) > 1 else ''}" if needed else ""
            status = {"skipped": "up to date"}.get(stage["status"], stage["status"])
            yield f"{stage['name']:<{width}} {status:<10} {seconds:>8} {size:>8}  {also}".rstrip()
            if stage["error"]:
                yield f"{'':<{width}} {stage['error']}"
    else:
        yield f"no report: {len(run.places)} results were made or relied on" + (" so far" if run.state == "running" else " before it ended")
        yield from (f"  {place}" for place in run.places)
    yield ""
    if run.report is not None and (table := results.results_table(run.report)):
        yield from (table, "")
    if run.report is not None:
        yield f"report     {store.join(run.folder, 'report.html')}"
    for name, target in run.released.items():
        arm = name.rpartition(":")[0]
        found = present(target, run.folder)
        yield f"release    {_version(found)}{found}{f'  ({arm})' if arm else ''}"
        yield f"serve it   mirepoix serve {shlex.quote(run.folder if len(run.released) == 1 else found)}"
    yield f"run again  {again or 'by the command that was given: its config.yaml is of another version'}"


def _version(release: str) -> str:
    """The version of a release, by which `serve` and every reply to a search name it; empty where it cannot be read."""
    from mirepoix.serving.release import peek  # pyarrow, which no other line waits for

    with suppress(Refused, OSError):
        return f"{peek(release)[0].version}  "
    return ""


def keep_command(storage: str, given: str, undo: bool) -> int:
    """Pins a run, so that `gc` keeps it and what it needs; with `undo` takes the pin away."""
    refuse_other_folders(storage)
    run = find_run(read_runs(storage), given, storage)
    pin = store.join(run.folder, PIN)
    if undo:
        store.delete(pin)
        print(f"{run.name} {'is not kept any longer' if run.pinned else 'was not kept'}; gc decides by its age")
        return 0
    if run.state == "being removed":
        raise Refused(f"{run.name} is being removed by `mirepoix gc`; keep another run, or run its recipe again")
    store.write(pin, json.dumps({"pinned": time.time()}).encode())
    there = set(store.list_names(run.folder))
    if REMOVAL in there or there <= {PIN}:  # `gc` looks for a pin after it has written removal.json: both give way
        store.delete(run.folder if there <= {PIN} else pin)
        raise Refused(f"{run.name} has just been chosen by `mirepoix gc`; if it is still listed once that has ended, keep it then")
    print(f"{run.name} is kept, with {len(run.places)} results that it names (mirepoix keep {run.name} --undo)")
    gone = [place for place, size in sizes(storage, run.places).items() if size is None]
    if gone and run.state == "done":
        print(f"{len(gone)} of its results are gone: {', '.join(gone[:3])}", file=sys.stderr)
    return 0
