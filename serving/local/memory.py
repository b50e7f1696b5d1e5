"""Whether the memory of this machine holds a release beside the one that is served."""

from pathlib import Path

OVERHEAD = 400 << 20
"""Bytes of an encoder's process before its weights: the interpreter and torch."""
SPARE = 1.2
"""What is computed with beside the weights, as their multiple."""
_MEMINFO, _CGROUPS = (
    Path("/proc/meminfo"),
    (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")),
)


def available(meminfo: Path = _MEMINFO, cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a new process may take: of the machine, and of the container that this process is in; None where neither is known."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    except (OSError, KeyError, ValueError):
        pass
    for limit, used in _CGROUPS:
        try:
            found.append(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()))
        except (OSError, ValueError):  # another version of cgroups, or no limit ("max")
            continue
    return min(found) if found else None


def needed(release: Path, encoders: int) -> int:
    """Bytes that the encoders of a release take, by the sizes of their files; an index is mapped, and takes what the system can spare."""
    weights = sum(file.stat().st_size for file in (release / "encoder").rglob("*") if file.is_file())
    ids = sum(file.stat().st_size for file in (release / "index").glob("*.parquet"))
    return encoders * (int(SPARE * weights) + OVERHEAD) + 4 * ids
