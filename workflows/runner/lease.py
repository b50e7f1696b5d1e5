"""Leases on keys, so that of several drivers one runs a stage; heartbeats of drivers; removal of what dead drivers left behind.

leases/driver-<id>.json holds the host, process and last heartbeat of a driver; leases/key-<key>.json names the driver that runs a key.
A driver of this machine is dead when its process has ended; one of another machine, when its last heartbeat is older than a minute.
On a local storage a file lock makes a lease exclusive (O_EXCL alone cannot take over a dead driver's lease without a race). An object
store has no locks: the lease is written, and read back after a moment. Two drivers that write in the same instant may then both run the
stage; they publish the same artefact, whole both times, so only time is lost.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mirepoix.serving.store import Damaged, cache_folder, delete, is_local, join, list_names, local_path, read, read_manifest, write


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


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


ABANDONED_SECONDS = 600.0
"""Age from which a file that is being written has lost its writer: writing one takes moments."""


def machine() -> str:
    """An id of the space in which process ids are unique: one boot of one kernel, and in it one container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")


class Driver:
    """One execution of the runner; it sends heartbeats while it is entered, and gives its leases back at the end."""

    def __init__(self, storage: str, beat_s: float = 5.0, timeout_s: float = 60.0, settle_s: float = 0.5):
        self.storage, self.beat_s, self.timeout_s, self.settle_s = storage, beat_s, timeout_s, settle_s
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.record = {
            "driver": self.id,
            "host": socket.gethostname(),
            "machine": machine(),
            "pid": os.getpid(),
            "start": process_start(os.getpid()),
        }
        self._held: set[str] = set()
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Driver":
        self._beat()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        for key in list(self._held):
            self.release(key)
        delete(self._path("driver", self.id))

    def _path(self, kind: str, name: str) -> str:
        return join(self.storage, "leases", f"{kind}-{name}.json")

    def _beat(self) -> None:
        write(self._path("driver", self.id), json.dumps({**self.record, "beat": time.time()}).encode())

    def _beat_on(self) -> None:
        while not self._over.wait(self.beat_s):
            with suppress(OSError):  # a storage that fails for a moment costs one heartbeat, not the run
                self._beat()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not is_local(self.storage):
            yield
            return
        home = local_path(self.storage) / "leases"
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _record(self, kind: str, name: str) -> dict[str, Any] | None:
        text = read(self._path(kind, name))
        return None if text is None else json.loads(text)

    def _alive(self, driver: str) -> dict[str, Any] | None:
        record = self._record("driver", driver)
        if record is None:
            return None
        if record["machine"] == self.record["machine"]:
            alive = process_start(record["pid"]) == record["start"]
        else:
            alive = time.time() - record["beat"] < self.timeout_s
        return record if alive else None

    def _names(self, kind: str) -> list[str]:
        names = list_names(join(self.storage, "leases"))
        return [name[len(kind) + 1 : -len(".json")] for name in names if name.startswith(f"{kind}-") and name.endswith(".json")]

    def live(self) -> set[str]:
        """The ids of the drivers that are alive, this one included."""
        return {driver for driver in self._names("driver") if self._alive(driver)}

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
            live = self.live()
            for key in self._names("key"):
                lease = self._record("key", key)
                if lease is not None and lease["driver"] not in live:
                    if not _committed(lease["target"]):
                        delete(lease["target"])
                    delete(self._path("key", key))
            for driver in self._names("driver"):
                if driver not in live:
                    delete(self._path("driver", driver))
        home = drafts_folder(self.storage)
        leftovers = [path for path in home.glob("*.*.*") if path.name.rsplit(".", 2)[0] not in live]
        if is_local(self.storage):
            root = local_path(self.storage)
            leftovers += [*root.glob("artefacts/*/.removed-*"), *root.glob("work/.removed-*")]
            leftovers += (path for pattern in ("*/.draft-*", "runs/*/.draft-*") for path in root.glob(pattern) if _old(path))
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        return live


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
