"""Whether the memory of a machine holds a release beside the one that is served, and what is said where it does not."""

import os
from collections.abc import Iterable
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

from mirepoix.models.errors import Refused

OVERHEAD = 400 << 20
"""Bytes of an encoder's process before its weights: the interpreter and torch."""
SPARE = 1.2
"""Memory of an encoder as a multiple of its weights: these, and a fifth for what is computed."""
_MEMINFO = Path("/proc/meminfo")
_OWN = Path("/proc/self/cgroup")
_CGROUPS = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
"""Where a group's limit is, and what it uses: in cgroups of version 2, and of version 1."""


def available(meminfo: Path = _MEMINFO, cgroup: Path = Path("/sys/fs/cgroup"), own: Path = _OWN) -> int | None:
    """Bytes that a new process may take: of the machine, and of the container or service that this process is in; None where neither is
    known."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    except (OSError, KeyError, ValueError):
        pass
    for group, (limit, used) in product(_groups(cgroup, own), _CGROUPS):
        try:
            held = int((group / used).read_text()) - _droppable((group / used).with_name("memory.stat"))
            found.append(int((group / limit).read_text()) - held)
        except (OSError, ValueError):  # another version of cgroups, or no limit ("max")
            continue
    return max(0, min(found)) if found else None


def _groups(cgroup: Path, own: Path) -> list[Path]:
    """The folders of the cgroups that this process is in: its own, as systemd's MemoryMax= limits it, and those above it."""
    try:
        paths = [line.removeprefix("0::/") for line in own.read_text().splitlines() if line.startswith("0::/")]
    except OSError:
        paths = []
    inner = [cgroup / path for path in paths if ".." not in path]  # that would be a group outside of the container
    return [group for path in inner for group in (path, *path.parents) if group.is_relative_to(cgroup)] or [cgroup]


def available_or_all() -> int:
    """The same; all memory of the machine where it is not known."""
    return available() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _droppable(stat: Path) -> int:
    """Bytes of files that a container counts as its own, and that the system drops when it needs the memory."""
    try:
        counts = dict(line.split() for line in stat.read_text().splitlines())
        return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def weights(release: Path) -> int:
    """Bytes of the files of a release's encoder."""
    return sum(file.stat().st_size for file in (release / "encoder").rglob("*") if file.is_file())


def needed(release: Path, encoders: int, overhead: int = OVERHEAD) -> int:
    """Bytes that the encoders of a release take, by the sizes of their files; an index is mapped, and takes what the system can spare."""
    ids = sum(file.stat().st_size for file in (release / "index").glob("*.parquet"))
    return encoders * (int(SPARE * weights(release)) + overhead) + 4 * ids


class Room(NamedTuple):
    """What another release would take of a memory, and what is left there beside the release that answers; in bytes."""

    release: str  # its name and version
    wanted: int
    there: int | None  # None: not known, so it is tried
    opened_s: float  # what it took to open the release that answers
    place: str = ""  # whose memory it is, where there are several

    @property
    def is_enough(self) -> bool:
        return self.there is None or self.wanted <= self.there

    def refusal(self, pause: str = "--pause") -> Refused:
        """Why a swap without a pause is refused; `pause`: what one is asked for with."""
        return Refused(f"{self._short}; with {pause} {self._wait}")

    @property
    def pause(self) -> str:
        """What a swap with a pause is begun with."""
        return f"{self._short}: {self._wait}"

    @property
    def _wait(self) -> str:
        return f"the old one ends first, and requests wait for those under way and about {self.opened_s:.0f} seconds more"

    @property
    def _short(self) -> str:
        where = f" {self.place}" if self.place else ""
        return (
            f"{self.release} needs about {_mib(self.wanted)} beside the release that answers{where}, and {_mib(self.there or 0)} are there"
        )


def shortest(rooms: Iterable[Room]) -> Room | None:
    """Of what several encoders would take, the memory that lacks most; None where there is enough in all. Those of one place share it."""
    short = []
    for _, group in groupby(sorted(rooms, key=lambda room: room.place), key=lambda room: room.place):
        one, *others = group
        known = [room.there for room in (one, *others) if room.there is not None]
        wanted, opened_s = sum(room.wanted for room in (one, *others)), max(room.opened_s for room in (one, *others))
        room = one._replace(wanted=wanted, there=min(known) if known else None, opened_s=opened_s)
        if not room.is_enough:
            short.append(room)
    return max(short, key=lambda room: room.wanted - (room.there or 0)) if short else None


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
