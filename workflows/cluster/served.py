"""The servers that a storage has a record of: where each answers, which release it serves, and which process started it."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirepoix.models.errors import Refused
from mirepoix.serving.heartbeat import SERVED, living, machine, place_of, storage_of
from mirepoix.serving.store import join, read_manifest


@dataclass(frozen=True)
class ServedRelease:
    """A server as its records describe it."""

    url: str
    target: str  # the folder or URI of the release
    here: bool  # whether a process of it is on this machine
    pid: int | None  # of the command `serve` on this machine, with which the server ends

    @property
    def name(self) -> str:
        """Name and version of its release; where these cannot be read, its folder."""
        from mirepoix.serving.release import peek  # pyarrow, which a server that is not there does not ask for

        with suppress(Refused, OSError):
            about, _ = peek(self.target)
            return f"{about.name} {about.version}"
        return self.target


def served_releases(storages: Iterable[str | None]) -> list[ServedRelease]:
    """The servers of some storages that are alive, each once."""
    found: dict[str, ServedRelease] = {}
    for storage in dict.fromkeys(filter(None, storages)):
        with suppress(OSError):  # a storage that cannot be read tells nothing
            for record in living(storage, SERVED):
                url, here, known = record["url"], record["machine"] == machine(), found.get(record["url"])
                pid = record["pid"] if here and record.get("command") else known.pid if known is not None else None
                found[url] = ServedRelease(url, _present(storage, record["target"]), here or (known is not None and known.here), pid)
    return list(found.values())


def _present(storage: str, target: str) -> str:
    """The release of a record, in the storage that has the record: the server may reach that by another path."""
    place = place_of(target)
    here = join(storage, *place.split("/")) if place else target
    return here if read_manifest(here) is not None else target


def server_at(port: int, storages: Iterable[str | None]) -> ServedRelease | None:
    """The server of these storages that listens at a port of this machine, if one does."""
    return next((server for server in served_releases(storages) if server.here and urlsplit(server.url).port == port), None)


def servers_of(releases: Iterable[str]) -> list[ServedRelease]:
    """The servers of these releases, by the records of the storages that they lie in."""
    targets = {place: target for target in releases if (place := place_of(target)) is not None}
    return [server for server in served_releases(map(storage_of, targets.values())) if place_of(server.target) in targets]
