"""Runs a command in a cgroup of its own and says what it took, daemons that left its process tree included.

    python bench/suite.py make test
    python bench/suite.py --then 'cd ../before && make test' make test

Ray's processes become children of init, so `time` counts only a part of what the tests do; a cgroup counts everything that was started in
it. Both are printed: all processes, and those that the command waited for, as `time` would say. Linux with cgroup v2, and the right to make
a group (root, or a delegated folder in MIREPOIX_CGROUPS). With --then, a second command is run after the first and both are compared: for
two commits in one sitting.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def home() -> Path:
    """Where groups are made."""
    given = os.environ.get("MIREPOIX_CGROUPS")
    for folder in map(Path, (given,) if given else MOUNTS):
        if (folder / "cgroup.procs").exists():
            return folder
    raise SystemExit(f"bench/suite.py: no cgroup v2 at {given or ' or '.join(MOUNTS)}; name a folder of one in MIREPOIX_CGROUPS")


@dataclass(frozen=True)
class Cost:
    """CPU seconds of all processes, and seconds of the clock until the command ended."""

    user: float
    system: float
    waited: float  # of user and system together, in the processes that the command or its children waited for
    wall: float
    status: int
    left: int  # processes of the group that outlived the command

    @property
    def cpu(self) -> float:
        return self.user + self.system

    def __str__(self) -> str:
        left = f"; {self.left} processes outlived it" if self.left else ""
        whole = f"{self.cpu:.0f} CPU s ({self.user:.0f} user, {self.system:.0f} system)"
        return f"{whole}, {self.waited:.0f} of them in processes that were waited for; {self.wall:.0f} s of wall time{left}"


def measure(command: list[str]) -> Cost:
    """Runs a command to its end, in a group that is removed after it."""
    group = home() / f"mirepoix-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        join = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        status = subprocess.run(["sh", "-c", join, "sh", *command]).returncode
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        used = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        left = len((group / "cgroup.procs").read_text().split())
        return Cost(int(used["user_usec"]) / 1e6, int(used["system_usec"]) / 1e6, waited, wall, status, left)
    finally:
        with suppress(OSError):  # a group with processes in it stays
            group.rmdir()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--then", metavar="SHELL", help="a second command, run by sh after the first and compared with it")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    if not asked.command:
        parser.error("no command is given")
    first = measure(asked.command)
    print(f"\n{' '.join(asked.command)}: {first}, on {os.cpu_count()} cores", flush=True)
    if asked.then is None:
        return first.status
    second = measure(["sh", "-c", asked.then])
    print(f"\n{asked.then}: {second}")
    ratios = first.cpu / second.cpu, first.waited / second.waited, first.wall / second.wall
    print("first / second: {:.2f} of the CPU seconds, {:.2f} of those that were waited for, {:.2f} of the wall time".format(*ratios))
    return first.status or second.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
