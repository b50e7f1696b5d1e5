"""Runs a command as the parent of all that descends from it: daemons, as Ray's processes, do not become children of init.

    python bench/serving_keeper.py mirepoix serve

So the processes of a server, and what those that ended took, are found below this one in /proc. On SIGTERM the command gets it too; once it
has ended, what it left is killed. Linux.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def children() -> list[int]:
    """The children of this process, adopted ones among them."""
    return [int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def main(command: list[str]) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGTERM))
    status = None
    while status is None:
        with suppress(InterruptedError):
            ended, code = os.wait()
            if ended == server.pid:
                status = server.returncode = os.waitstatus_to_exitcode(code)
    end = time.monotonic() + 10
    while left := children():
        for process in left:
            if time.monotonic() > end:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.05)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
