"""The command `gc`: removes the runs that nothing keeps, and the results, scratch and logs that no kept run needs.

What is removed is decided from the runs: a run is kept by a pin, by an alias of a release that it made, by being served, by going on, or by
the limits that are given; an alias keeps the release that it names and the one before, to which a roll back goes. All results that a kept
run names stay, whoever made them. A result that no run names stays until it is older than a limit, because its run may have
been killed and be started again.

The order makes every moment right, and a `gc` that was killed is finished by the next, whatever limits that one is given:

1. removal.json is written into the folder of each run that goes, and then looked again whether something keeps the run after all. From
   here on the run is none: nothing lists it as a result, and what it alone needed is free.
2. Results, scratch and logs are deleted, each result by its manifest first (or by one rename), so that none is ever half there.
3. The folders of the runs are deleted; removal.json goes last.

Results are deleted under the lease of their key; how drivers and `gc` see each other is said in workflows/runner/lease.py. A run that ended
since the first look is read again before each deletion.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.heartbeat import SERVE_TIMEOUT_S, living, place_of
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.storage import REMOVAL, refuse_other_folders
from mirepoix.workflows.upkeep.aliases import named_places
from mirepoix.workflows.upkeep.runs import StoredRun, as_bytes, on_disk, read_runs, servers, sizes

UNNAMED_SECONDS = 7 * 86400.0
"""The age at which a result that no run names goes, and scratch that no run claims, unless --older-than says otherwise."""
SILENT_SECONDS = SERVE_TIMEOUT_S
"""How long the driver or the server of another machine may be silent before it counts as dead here: what it needs is deleted then."""
UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
Kind = Literal["run", "result", "scratch", "log", "remains"]


@dataclass(frozen=True)
class Limits:
    """What the user gave: the number of runs that stay, and the age in seconds from which a run may go."""

    keep_last: int | None = None
    older_than: float | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None and self.keep_last < 0:
            raise Refused(f"--keep-last is {self.keep_last}; give 0 or more runs")

    @property
    def unnamed(self) -> float:
        return UNNAMED_SECONDS if self.older_than is None else self.older_than


def seconds_of(text: str) -> float:
    """The seconds of a duration: 30d, 12h, 90m, 2w, or 0."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "")
    if not number.isascii() or not number.replace(".", "", 1).isdigit() or (not unit and float(number)):
        raise Refused(f"--older-than is {text!r}; give a number with a unit: 30d (days), 12h (hours), 90m (minutes), 2w (weeks), or 0")
    return float(number) * UNITS.get(unit, 0.0)


@dataclass
class Node:
    """A folder or file of the storage that may go, and what needs it."""

    kind: Kind
    name: str  # relative to the storage
    bytes: int
    needed_by: list[str] = field(default_factory=list)
    goes: bool = False
    link: str = ""  # of a link, as one that was moved to another disk: the path that it names, which stays
    shared: list[store.SharedFile] = field(default_factory=list, repr=False)

    def as_json(self) -> dict[str, Any]:
        told = {"kind": self.kind, "name": self.name, "bytes": self.bytes, "needed_by": self.needed_by, "goes": self.goes}
        return told | ({"link": self.link} if self.link else {})


Delete = Callable[[str], None]


def gc_command(storage: str, limits: Limits, dry_run: bool, as_json: bool) -> int:
    """Removes what is not needed, or with `dry_run` prints what would be."""
    refuse_other_folders(storage)
    nodes = planned(storage, limits) if dry_run else collect(storage, limits)
    if as_json:
        freed = _on_disk([node for node in nodes if node.goes], going=True)
        print(json.dumps({"storage": storage, "dry_run": dry_run, "bytes": freed, "nodes": [node.as_json() for node in nodes]}, indent=1))
    else:
        print("\n".join(_shown(nodes, limits, dry_run)))
    return 0


def planned(storage: str, limits: Limits) -> list[Node]:
    """What would go, and what needs the rest; nothing is written."""
    collection = _Collection(storage, limits, _driver(storage), store.delete)
    collection.refuse_earlier_drivers()
    return collection.plan(read_runs(storage, SILENT_SECONDS))


def collect(storage: str, limits: Limits, delete: Delete = store.delete) -> list[Node]:
    """Removes what is not needed, by `delete`; returns every node with what became of it."""
    with _driver(storage) as driver:
        return _Collection(storage, limits, driver, delete).run()


def _driver(storage: str) -> Driver:
    return Driver(storage, timeout_s=SILENT_SECONDS, work="gc")


class _Collection:
    """One `gc` of a storage."""

    def __init__(self, storage: str, limits: Limits, driver: Driver, delete: Delete):
        self.storage, self.limits, self.driver, self.delete = storage, limits, driver, delete
        self.now = time.time()
        self.known: set[str] = set()  # the runs that had ended when it was decided what goes

    # What goes

    def plan(self, runs: Sequence[StoredRun], chosen: bool = False) -> list[Node]:
        """Every node, and whether it goes; `chosen`: the runs that go have their removal.json, and no other run is chosen now."""
        reasons = self.reasons(runs)
        if chosen:
            reasons |= {run.name: reasons[run.name] or ["it ended meanwhile"] for run in runs if run.state != "being removed"}
        self.known = {run.name for run in runs if run.state != "running"}
        kept = [run for run in runs if reasons[run.name]]
        needed = _by_place((place, run.name) for run in kept for place in run.places)
        for place, who in self.in_use().items():
            needed.setdefault(place, []).append(who)
        named = {place for run in runs for place in run.places}
        keys = {place.rpartition("/")[2]: who for place, who in needed.items()}
        # Without limits all runs stay, and the scratch of one that failed long ago would stay with it.
        resumable = {place.rpartition("/")[2] for run in kept if reasons[run.name] != [_NO_LIMIT] for place in run.places}
        resumable |= {place.rpartition("/")[2] for place in self.in_use()}
        going = {place.rpartition("/")[2] for place in named - set(needed)}
        # The same command resumes a run that was killed from its scratch, though the folder of the run is gone.
        unfinished = {place.rpartition("/")[2] for run in runs if run.report is None for place in run.places}
        return [
            *self._results(needed, named),
            *self._of_keys("scratch", "work", keys, resumable, going - unfinished),
            *self._of_keys("log", "logs", keys, set(keys), going),
            *self._remains(),
            *(self._run_node(run, reasons[run.name]) for run in runs),
        ]

    def reasons(self, runs: Sequence[StoredRun]) -> dict[str, list[str]]:
        """Why each run is kept; no reason for one that goes."""
        served, aliased = servers(self.storage), named_places(self.storage)
        complete = [run for run in runs if run.state == "done"]
        last = self.limits.keep_last
        since = float("inf") if last == 0 else complete[last - 1].began if last is not None and len(complete) >= last else 0.0
        return {run.name: self._reasons(run, set(served), aliased, since) for run in runs}

    def _reasons(self, run: StoredRun, served: set[str], aliased: dict[str, list[str]], since: float) -> list[str]:
        if run.state == "being removed":
            return []
        found = ["pinned"] * run.pinned + [alias for place in run.made for alias in aliased.get(place, ())]
        found += ["served"] * bool(served & set(run.made)) + ["running"] * (run.state == "running")
        found += [run.damage] * (run.state == "damaged")
        if self.limits == Limits():
            return found or [_NO_LIMIT]
        if self.limits.keep_last is not None and run.began >= since:
            found.append(f"one of the last {self.limits.keep_last}")
        if self.limits.older_than is not None and self.now - run.ended < self.limits.older_than:
            found.append("younger than --older-than")
        return found

    def in_use(self) -> dict[str, str]:
        """The results that aliases name, and that living processes rely on or serve; and which or who."""
        kept = {place: ", ".join(aliases) for place, aliases in named_places(self.storage).items()}
        kept |= {place: "a run that goes on" for target in self.driver.relied_on() if (place := place_of(target)) is not None}
        return kept | {place: f"served at {records[0]['url']}" for place, records in servers(self.storage).items()}

    def _results(self, needed: dict[str, list[str]], named: set[str]) -> list[Node]:
        home = store.join(self.storage, "artefacts")
        places = [
            f"artefacts/{stage}/{key}"
            for stage in store.list_names(home)
            for key in store.list_names(store.join(home, stage))
            if store.KEY.fullmatch(key)
        ]
        nodes = []
        for place, size in sizes(self.storage, places).items():
            target = self.target(place)
            node = self._node("result", place, needed.get(place, []), store.usage(target).bytes if size is None else size)
            node.goes = not node.needed_by and (place in named or self.now - self._created(target) >= self.limits.unnamed)
            nodes.append(node)
        return nodes

    def _created(self, target: str) -> float:
        """When a result was made; of one without a manifest, when its newest file was written."""
        with suppress(store.Damaged):
            manifest = store.read_manifest(target)
            if manifest is not None and "created" in manifest.fields:
                return float(manifest.fields["created"])
        if store.is_local(target) and store.local_path(target).is_symlink():  # to a disk that is not there
            return store.local_path(target).lstat().st_mtime
        return store.usage(target).newest

    def _node(self, kind: Kind, name: str, needed_by: list[str], size: int) -> Node:
        target = self.target(name)
        if store.is_local(target) and store.local_path(target).is_symlink():
            return Node(kind, name, 0, needed_by, link=str(store.local_path(target).readlink()))
        return Node(kind, name, size, needed_by, shared=store.shared_files(target))

    def _of_keys(self, kind: Kind, folder: str, needed: dict[str, list[str]], kept: set[str], going: set[str]) -> list[Node]:
        """Scratch or logs, each named by the key of its result, at the end of its name."""
        nodes = []
        for name in store.list_names(store.join(self.storage, folder)):
            key = name.removesuffix(".log")[-16:]
            if store.KEY.fullmatch(key) and (kind == "log") == name.endswith(".log"):
                used = store.usage(store.join(self.storage, folder, name))
                node = self._node(kind, f"{folder}/{name}", needed.get(key, []) if key in kept else [], used.bytes)
                node.goes = not node.needed_by and (key in going or self.now - used.newest >= self.limits.unnamed)
                nodes.append(node)
        return nodes

    def _remains(self) -> list[Node]:
        if not store.is_local(self.storage):
            return []
        root = store.local_path(self.storage)
        nodes = [
            self._node("remains", path.relative_to(root).as_posix(), [], store.usage(path).bytes)
            for path in self.driver.leftovers()
            if path.is_relative_to(root)
        ]
        for node in nodes:
            node.goes = True
        return nodes

    def _run_node(self, run: StoredRun, reasons: list[str]) -> Node:
        node = self._node("run", f"runs/{run.name}", reasons, store.usage(run.folder).bytes)
        node.goes = not reasons
        return node

    def target(self, place: str) -> str:
        return store.join(self.storage, *place.split("/"))

    # The removal

    def run(self) -> list[Node]:
        self.refuse_earlier_drivers()
        remains = self._remains()
        runs = read_runs(self.storage, SILENT_SECONDS)
        self.driver.clean()  # after the look at the runs, which reads the last heartbeat of those that were killed
        reasons = self.reasons(runs)
        going = [run for run in runs if not reasons[run.name] and run.state != "being removed"]
        for run in going:
            store.write(store.join(run.folder, REMOVAL), json.dumps({"driver": self.driver.id, "removed": self.now}).encode())
        self._give_back(read_runs(self.storage, SILENT_SECONDS), {run.name for run in going})
        nodes = remains + self.plan(read_runs(self.storage, SILENT_SECONDS), chosen=True)
        for node in nodes:
            if node.goes and node.kind != "remains":
                self._remove(node)
        return nodes

    def refuse_earlier_drivers(self) -> None:
        """Refuses while a driver works that does not record what it relies on, as those of earlier versions."""
        for record in living(self.storage, "driver", SILENT_SECONDS):
            if "targets" not in record:
                who = f"{record.get('host', 'another machine')}, pid {record['pid']}"
                raise Refused(f"a run of an earlier version goes on ({who}), which does not say what it needs; wait for it to end")

    def _give_back(self, runs: Sequence[StoredRun], chosen: set[str]) -> None:
        """Takes removal.json back from runs that are pinned, aliased or served since it was decided that they go.

        Of those that were `chosen` by this `gc` nothing is deleted yet; of one that an earlier `gc` chose, something may be.
        """
        used = {*servers(self.storage), *named_places(self.storage)}
        for run in runs:
            wanted = run.state == "being removed" and (run.pinned or used & set(run.made))
            if wanted and (run.name in chosen or self._whole(run)):
                store.delete(store.join(run.folder, REMOVAL))

    def _whole(self, run: StoredRun) -> bool:
        """Whether all results that its report names are still there."""
        made = [place for stage in run.stages if stage["digest"] and (place := place_of(stage["target"]))]
        return run.report is not None and None not in sizes(self.storage, made).values()

    def _remove(self, node: Node) -> None:
        place = node.name
        if node.kind == "run":
            self._remove_run(place)
            return
        key = place.removesuffix(".log")[-16:]
        # Without a target, what this process leaves of scratch is not taken for a half-published result.
        holder = self.driver.acquire(key, self.target(place) if node.kind == "result" else "")
        if holder is not None:
            node.goes, node.needed_by = False, [f"a run that goes on: {holder['host']}, pid {holder['pid']}"]
            return
        try:
            users = self._users(key)
            if users:
                node.goes, node.needed_by = False, users
            else:
                self.delete(self.target(place))
        finally:
            self.driver.release(key)

    def _users(self, key: str) -> list[str]:
        """Who needs a key by now: living processes, and runs that have ended since it was decided what goes.

        In this order, because a run's report is written before its driver's record is removed.
        """
        used = {place.rpartition("/")[2]: who for place, who in self.in_use().items()}
        if key in used:
            return [used[key]]
        names = set(store.list_names(store.join(self.storage, "runs"))) - self.known
        if not names:
            return []
        later = [run for run in read_runs(self.storage, SILENT_SECONDS) if run.name in names and run.state != "being removed"]
        return [run.name for run in later if key in {place.rpartition("/")[2] for place in run.places}]

    def _remove_run(self, name: str) -> None:
        folder = self.target(name)
        if not store.is_local(self.storage):  # an object store removes a folder file by file; what makes it a run goes first
            for file in sorted(store.list_names(folder), key=lambda file: file == REMOVAL):
                self.delete(store.join(folder, file))
        self.delete(folder)


_NO_LIMIT = "neither --keep-last nor --older-than was given"


def _by_place(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for place, who in pairs:
        found.setdefault(place, []).append(who)
    return found


def _shown(nodes: Sequence[Node], limits: Limits, dry_run: bool) -> Iterable[str]:
    """The lines that `gc` prints: each node that goes, each run that stays with its reasons, and the sums."""
    going, staying = [node for node in nodes if node.goes], [node for node in nodes if not node.goes]
    for node in sorted(going, key=lambda node: (node.kind, node.name)):
        link = f" (a link; {node.link} stays)" if node.link else ""
        yield f"{'would go' if dry_run else 'gone':<9} {as_bytes(node.bytes):>8}  {node.name}{link}"
    for node in staying:
        if node.kind == "run":
            yield f"{'stays':<9} {as_bytes(node.bytes):>8}  {node.name}: {', '.join(node.needed_by)}"
    yield f"{'would free' if dry_run else 'freed'} {as_bytes(_on_disk(going, going=True))}: {_counts(going)}"
    yield f"stays {as_bytes(_on_disk(staying))}: {_counts(staying)}"
    if any(node.shared for node in going):
        yield "results share files by hard links: each line counts them, the sums count a file once, and as freed with its last name"
    if limits == Limits():
        yield "every run stays without --keep-last N or --older-than D; results that no run names stay for 7 days"


def _on_disk(nodes: Iterable[Node], going: bool = False) -> int:
    return on_disk(((node.bytes, node.shared) for node in nodes), going)


_WORDS: dict[Kind, tuple[str, str]] = {
    "run": ("run", "runs"),
    "result": ("result", "results"),
    "scratch": ("folder of scratch", "folders of scratch"),
    "log": ("log", "logs"),
    "remains": ("half-written folder", "half-written folders"),
}


def _counts(nodes: Sequence[Node]) -> str:
    kinds = {kind: sum(node.kind == kind for node in nodes) for kind in _WORDS}
    return ", ".join(f"{count} {_WORDS[kind][count > 1]}" for kind, count in kinds.items() if count) or "nothing"
