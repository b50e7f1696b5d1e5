"""Leases on keys, so that of several drivers one runs a stage; heartbeats of drivers; removal of what dead drivers left behind.

leases/driver-<id>.json holds the host, process and last heartbeat of a driver (serving/heartbeat.py), and the results that it relies on;
leases/key-<key>.json names the driver that runs a key, or the `gc` that deletes its result.
On a local storage a file lock makes a lease exclusive (O_EXCL alone cannot take over a dead driver's lease without a race). An object
store has no locks: the lease is written, and read back after a moment. Two drivers that write in the same instant may then both run the
stage; they publish the same artefact, whole both times, so only time is lost.

A driver and a `gc` at the same time: the driver writes which result it relies on, then looks whether a `gc` holds its key, then whether the
result is still there. `gc` takes the key, then reads what living drivers rely on, and only then deletes. Whichever writes second sees the
other: `gc` gives way, and the driver waits and looks again. No lock is needed, so an object store does as well.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirepoix.serving.heartbeat import LEASES, SERVED, Heartbeat, identity, is_alive, read_record, record_names
from mirepoix.serving.store import Damaged, cache_folder, delete, is_local, join, local_path, read_manifest, write


def drafts_folder(storage: str) -> Path:
    """The folder of results that are being written: on the file system of a local storage, so that one rename publishes them."""
    if is_local(storage):
        return local_path(storage) / "tmp"
    return cache_folder() / "drafts" / hashlib.sha256(storage.encode()).hexdigest()[:16]


def draft(storage: str, driver: str, key: str) -> Path:
    """An empty folder for one attempt at a stage; the folder of an earlier attempt by the same driver is removed."""
    home = drafts_folder(storage)
    home.mkdir(parents=True, exist_ok=True)
    for leftover in home.glob(f"{driver}.{key}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=home, prefix=f"{driver}.{key}."))


ABANDONED_SECONDS = 600.0
"""Age from which a file that is being written has lost its writer: writing one takes moments."""


RUN_FILE = "run.json"
"""In the folder of a run: the record of its driver, with the results that it has made or relied on so far."""
NOTE_SECONDS = 300.0
"""The age from which that record is written again, so that of a run that is killed it says about when that was."""


class Driver:
    """One execution of the runner; it sends heartbeats while it is entered, and gives its leases back at the end.

    With `folder`, that of a run, its record is written there too and stays there, so that a run that was killed still names its results.
    """

    def __init__(
        self,
        storage: str,
        beat_s: float = 5.0,
        timeout_s: float = 60.0,
        settle_s: float = 0.5,
        folder: str | None = None,
        work: str = "run",
    ):
        self.storage, self.timeout_s, self.settle_s, self.folder = storage, timeout_s, settle_s, folder
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.record = {"driver": self.id, "work": work, **identity()}
        self.targets: dict[str, None] = {}  # in their order
        self._held: set[str] = set()
        self._heartbeat = Heartbeat(self._path("driver", self.id), {**self.record, "targets": []}, beat_s, self._note_again)
        self._began = self._noted = 0.0
        self._noting = threading.Lock()

    def __enter__(self) -> "Driver":
        self._heartbeat.__enter__()
        self._began = time.time()
        self._note()
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._held):
            self.release(key)
        self._heartbeat.__exit__()

    def rely(self, target: str) -> None:
        """Record that a result is needed while this driver lives: one that it reads, or one that it makes."""
        if target not in self.targets:
            self.targets[target] = None
            self._heartbeat.update(targets=list(self.targets))
            self._note()

    def _note(self) -> None:
        if self.folder is None:
            return
        with self._noting:  # the heartbeat's thread writes it too
            self._noted = time.time()
            record = {**self.record, "began": self._began, "noted": self._noted, "targets": list(self.targets)}
            write(join(self.folder, RUN_FILE), json.dumps(record, indent=1).encode())

    def _note_again(self) -> None:
        if self._noted and time.time() - self._noted > NOTE_SECONDS:
            self._note()

    def _path(self, kind: str, name: str) -> str:
        return join(self.storage, LEASES, f"{kind}-{name}.json")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not is_local(self.storage):
            yield
            return
        home = local_path(self.storage) / LEASES
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _record(self, kind: str, name: str) -> dict[str, Any] | None:
        return read_record(self.storage, kind, name)

    def _alive(self, driver: str) -> dict[str, Any] | None:
        record = self._record("driver", driver)
        return record if record is not None and is_alive(record, self.record["machine"], self.timeout_s) else None

    def _names(self, kind: str) -> list[str]:
        return record_names(self.storage, kind)

    def live(self) -> set[str]:
        """The ids of the drivers that are alive, this one included."""
        return {driver for driver in self._names("driver") if self._alive(driver)}

    def relied_on(self) -> set[str]:
        """The results that other living drivers rely on."""
        records = [self._alive(driver) for driver in self._names("driver") if driver != self.id]
        return {target for record in records if record is not None for target in record.get("targets", ())}

    def deleting(self, key: str) -> dict[str, Any] | None:
        """The record of the living `gc` that deletes the result of a key; None where none does."""
        holder = self._holder(key)
        return holder if holder is not None and holder.get("work") == "gc" else None

    def acquire(self, key: str, target: str) -> dict[str, Any] | None:
        """Take the lease of a key; returns None if this driver has it now, else the record of the living driver that holds it."""
        with self._turn():
            holder = self._holder(key)
            if holder is None:
                write(self._path("key", key), json.dumps({"driver": self.id, "target": target}).encode())
        if holder is None and not is_local(self.storage):
            time.sleep(self.settle_s)
            holder = self._holder(key)
        if holder is None:
            self._held.add(key)
        return holder

    def _holder(self, key: str) -> dict[str, Any] | None:
        lease = self._record("key", key)
        return None if lease is None or lease["driver"] == self.id else self._alive(lease["driver"])

    def release(self, key: str) -> None:
        """Give the lease of a key back, unless another driver has taken it over."""
        self._held.discard(key)
        with self._turn():
            lease = self._record("key", key)
            if lease is not None and lease["driver"] == self.id:
                delete(self._path("key", key))

    def clean(self) -> set[str]:
        """Remove drafts, leases and half-published results of dead drivers, and return the ids of the living.

        Their scratch stays: the next attempt resumes from it.
        """
        with self._turn():
            leases = {key: self._record("key", key) for key in self._names("key")}
            drivers = self._names("driver")
            live = self.live()  # after what may be left: what a driver wrote that enters meanwhile is not among it
            for key, lease in leases.items():
                if lease is not None and lease["driver"] not in live:
                    if lease["target"] and not _committed(lease["target"]):
                        delete(lease["target"])
                    delete(self._path("key", key))
            for driver in drivers:
                if driver not in live:
                    delete(self._path("driver", driver))
            for name in self._names(SERVED):
                record = self._record(SERVED, name)
                if record is not None and not is_alive(record, self.record["machine"]):
                    delete(self._path(SERVED, name))
        for path in self.leftovers():
            shutil.rmtree(path, ignore_errors=True)
        return live

    def leftovers(self) -> list[Path]:
        """Folders that dead drivers, and processes that were killed while they wrote or deleted, have left half done."""
        drafts = list(drafts_folder(self.storage).glob("*.*.*"))
        live = self.live()  # after the drafts: one of a driver that enters meanwhile is not among them
        found = [path for path in drafts if path.name.rsplit(".", 2)[0] not in live]
        if is_local(self.storage):
            root = local_path(self.storage)
            found += (path for folder in ("artefacts/*", "work", "runs") for path in root.glob(f"{folder}/.removed-*"))
            found += (path for pattern in ("*/.draft-*", "runs/*/.draft-*") for path in root.glob(pattern) if _old(path))
        return found


def _old(path: Path) -> bool:
    """Whether the process that made the folder must have ended: such a folder exists for moments."""
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _committed(target: str) -> bool:
    try:
        return read_manifest(target) is not None
    except Damaged:
        return False
