"""Ends the processes of a private Ray cluster and removes its folder once its driver has ended, even if it was killed.

It is a process of its own, which waits until the driver's end of a pipe is closed. Ray does not do this: after a driver is killed, its
agents try for a minute to reach the dead head, and the folder with the token and the spilled objects stays.
Only the standard library is imported, so that waiting costs 10 MB.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "MIREPOIX_CLUSTER"
"""The environment variable of every process of a private cluster that holds its folder; other children of the driver do not have it."""
LOCK = "lock"
TIMEOUT_S = 10.0


def processes(folder: Path) -> list[int]:
    """The processes of the private cluster in a folder; on a system without /proc none, so that only Ray ends them."""
    mark, found = f"{MARK}={folder}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if marked or (_titled(entry) and _writes_into(entry, folder)):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _titled(entry: Path) -> bool:
    """Whether Ray has set the title of a process, which overwrites the environment that /proc shows."""
    return (entry / "cmdline").read_bytes().startswith(b"ray::")


def _writes_into(entry: Path, folder: Path) -> bool:
    for file in (entry / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith(f"{folder}/"):
                return True
    return False


def end(folder: Path) -> None:
    """End the processes of the cluster in a folder."""
    deadline = time.monotonic() + TIMEOUT_S
    while (left := processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def clear(folder: Path) -> None:
    """End the cluster in a folder and remove the folder; its lock last, so that the next sweep finishes a removal that was interrupted."""
    end(folder)
    for entry in [each for each in folder.iterdir() if each.name != LOCK] if folder.is_dir() else []:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)  # two processes may clear at once
        else:
            entry.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    clear(Path(sys.argv[1]))
