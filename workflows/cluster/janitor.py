"""Ends what is left of a private Ray cluster and removes its folder, once its driver is gone, however it went.

It runs as a process of its own that waits for the driver's end of a pipe to close. Ray alone is not enough: when a driver is killed,
its agents try for a minute to tell the dead head about it, and nobody removes the folder with the token and the spilled objects.
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
"""The variable by which every process of a private cluster names its folder; children of the driver itself do not have it."""
LOCK = "lock"
PATIENCE = 10.0


def processes(folder: Path) -> list[int]:
    """The processes of the private cluster in a folder; none where the system has no /proc, and Ray's own end must do."""
    mark, found = f"{MARK}={folder}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if marked or (_titled(entry) and _writes_into(entry, folder)):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _titled(entry: Path) -> bool:
    """Whether Ray gave a process a title, which it writes over the environment that the process was started with."""
    return (entry / "cmdline").read_bytes().startswith(b"ray::")


def _writes_into(entry: Path, folder: Path) -> bool:
    for file in (entry / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith(f"{folder}/"):
                return True
    return False


def clear(folder: Path) -> None:
    """End the cluster in a folder and remove the folder; its lock last, so that a removal cut short is taken up by the next sweep."""
    deadline = time.monotonic() + PATIENCE
    while (left := processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for entry in [each for each in folder.iterdir() if each.name != LOCK] if folder.is_dir() else []:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)  # two may clear at once
        else:
            entry.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    clear(Path(sys.argv[1]))
