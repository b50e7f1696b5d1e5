"""Runs a command and prints how long it took and how much memory it and all its children had at most.

    python bench/footprint.py make demo

Memory is the proportional set size: what processes share is counted once. It is read from Linux once a second; at the peak the largest
processes are listed.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024
SECONDS = 1.0
LISTED = 8


def children() -> dict[int, list[int]]:
    """The children of every process."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    below, found = children(), [root]
    for process in found:
        found += below.get(process, [])
    return found


def kilobytes(process: int) -> int:
    """The proportional set size of a process; none once it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def name(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:60]
    return "gone"


@dataclass(frozen=True)
class Footprint:
    """Time and memory of a command."""

    seconds: float
    kilobytes: int  # at most, over the whole tree
    fullest: list[tuple[int, str]]  # the largest processes at the peak
    status: int


def measure(command: list[str], **options: Any) -> Footprint:
    """Runs a command to its end."""
    began, most, fullest = time.monotonic(), 0, []
    process = subprocess.Popen(command, **options)
    while process.poll() is None:
        sizes = [(kilobytes(each), each) for each in tree(process.pid)]
        if sum(size for size, _ in sizes) > most:
            most = sum(size for size, _ in sizes)
            fullest = [(size, name(each)) for size, each in sorted(sizes, reverse=True)[:LISTED]]
        time.sleep(SECONDS)
    return Footprint(time.monotonic() - began, most, fullest, process.returncode)


def main(command: list[str]) -> int:
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    found = measure(command)
    duration = f"{found.seconds // 60:.0f} min {found.seconds % 60:.0f} s"
    print(f"\n{duration}, at most {found.kilobytes / MIB:.0f} MiB ({found.kilobytes * 1024 / 1e9:.2f} GB), on {os.cpu_count()} cores")
    for size, name in found.fullest:
        print(f"  {size / MIB:6.0f} MiB  {name}")
    return found.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
