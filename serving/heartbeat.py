"""Records of processes that use a storage, kept fresh by heartbeats, so that other processes can tell whether their writer is alive.

leases/driver-<id>.json is the record of a run or of `gc`, leases/serve-<id>.json that of a replica that serves a release of the storage, or
of the command that started the server.
A process of this machine is dead when it has ended; one of another machine, when its last heartbeat is older than its timeout.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirepoix.serving.store import delete, is_local, join, list_names, read, write

_LOG = logging.getLogger("ray.serve")  # in a replica shown by Serve, from its level WARNING on
LEASES = "leases"
SERVED = "serve"
"""What the name of a record of a served release begins with."""
SERVE_BEAT_S, SERVE_TIMEOUT_S = 20.0, 300.0
TIMEOUT_S = 60.0
_IN_STORAGE = re.compile(r"(?P<storage>.+)/(?P<place>artefacts/[^/]+/[0-9a-f]{16})/?")


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def machine() -> str:
    """An id of the space in which process ids are unique: one boot of one kernel, and in it one container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")


def identity() -> dict[str, Any]:
    """The part of a record that says which process wrote it."""
    return {"host": socket.gethostname(), "machine": machine(), "pid": os.getpid(), "start": process_start(os.getpid())}


def is_alive(record: dict[str, Any], here: str | None = None, timeout_s: float | None = None) -> bool:
    """Whether the process of a record is alive; `here` is `machine()` where that is known already."""
    if record["machine"] == (here or machine()):
        return bool(process_start(record["pid"]) == record["start"])
    return bool(time.time() - record["beat"] < (timeout_s or record.get("timeout_s", TIMEOUT_S)))


class Heartbeat:
    """A record at a target: written when it is entered, again at each beat and at each change, and removed at the end.

    `at_beat` is called at each beat, by the thread that beats.
    """

    def __init__(self, target: str, record: dict[str, Any], beat_s: float, at_beat: Callable[[], None] | None = None):
        self.target, self.record, self.beat_s, self.at_beat = target, record, beat_s, at_beat
        self._writing = threading.Lock()  # of two writers, the one with the earlier record must not be the last
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self.update()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        delete(self.target)

    def update(self, **fields: Any) -> None:
        """Change fields of the record, and write it."""
        with self._writing:
            self.record = {**self.record, **fields}
            write(self.target, json.dumps({**self.record, "beat": time.time()}).encode())

    def _beat_on(self) -> None:
        while not self._over.wait(self.beat_s):
            with suppress(OSError):  # a storage that fails for a moment costs one heartbeat, not the work
                self.update()
                if self.at_beat is not None:
                    self.at_beat()


def storage_of(target: str) -> str | None:
    """The storage in which an artefact lies, by the form of its target; None of a folder elsewhere."""
    path, mark, query = target.partition("?") if not is_local(target) else (target, "", "")
    found = _IN_STORAGE.fullmatch(path)
    return found["storage"] + mark + query if found else None


def place_of(target: str) -> str | None:
    """artefacts/<stage>/<key> of an artefact: what names it in its storage, wherever that lies; None of a folder elsewhere."""
    found = _IN_STORAGE.fullmatch(target.partition("?")[0] if not is_local(target) else target)
    return found["place"] if found else None


def served_mark(target: str, url: str, command: bool = False) -> Heartbeat | None:
    """The record that this process serves a release, for `mirepoix gc` to keep it; None where the release lies in no storage.

    `command`: it is no replica but the command that started the server, and that ends with it.
    """
    storage = storage_of(target)
    if storage is None:
        return None
    record = {**identity(), "target": target, "url": url, "command": command, "timeout_s": SERVE_TIMEOUT_S}
    return Heartbeat(join(storage, LEASES, f"{SERVED}-{secrets.token_hex(6)}.json"), record, SERVE_BEAT_S)


class Mark:
    """The record in a release's storage that it is served; none where it lies in no storage, or in one that may not be written."""

    def __init__(self, target: str, url: str):
        self._beat: Heartbeat | None = served_mark(target, url)
        try:
            if self._beat is not None:
                self._beat.__enter__()
        except OSError as error:
            _LOG.warning("it cannot be recorded that %s is served (%s); `mirepoix gc` does not see it, so pin its run", target, error)
            self._beat = None

    async def close(self) -> None:
        await asyncio.to_thread(self.remove)

    def remove(self) -> None:
        beat, self._beat = self._beat, None
        if beat is not None:
            with suppress(OSError, RuntimeError):
                beat.__exit__()


def record_names(storage: str, kind: str) -> list[str]:
    """The ids of the records of a kind that a storage has."""
    names = list_names(join(storage, LEASES))
    return [name[len(kind) + 1 : -len(".json")] for name in names if name.startswith(f"{kind}-") and name.endswith(".json")]


_FIELDS = {"driver": {"driver", "machine", "pid", "start", "beat"}, SERVED: {"target", "url", "machine", "pid", "start", "beat"}}


def read_record(storage: str, kind: str, name: str) -> dict[str, Any] | None:
    """The record of that name; None where it is not there, or is a file that no process of ours wrote: ours are never half written."""
    text = read(join(storage, LEASES, f"{kind}-{name}.json"))
    with suppress(ValueError):
        record = None if text is None else json.loads(text)
        if isinstance(record, dict) and _FIELDS.get(kind, {"driver", "target"}) <= set(record):
            return record
    return None


def living(storage: str, kind: str, timeout_s: float | None = None) -> list[dict[str, Any]]:
    """The records of a kind whose processes are alive; `timeout_s`: how long one of another machine may be silent."""
    here = machine()
    records = [read_record(storage, kind, name) for name in record_names(storage, kind)]
    return [record for record in records if record is not None and is_alive(record, here, timeout_s)]
