"""The aliases of releases: which release of a storage each name for one, as @champion, means now, and which it meant before.

releases/aliases.json of the storage decides. An alias belongs to the name of a release, as a storage may hold several models; each alias
has the releases that it named, the last of which it names now, and a log of its changes. A roll back takes the last release off.

Two writers at once: on a local storage a file lock lets one change the file after the other. An object store has no locks and no rename
that fails where a file is: a change is written, and the file read again after a moment. It lists the ids of the last changes; a writer
whose id is not among them was overwritten by another, and makes its change again on what is there now. So a change is lost only where
another writer takes longer than that moment (SETTLE_S) between its reading and its writing, which follow each other at once. A reader sees
the file before a change or after it, on either kind of storage.
"""

import fcntl
import getpass
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mirepoix.models.errors import Refused
from mirepoix.serving import store

CHAMPION = "champion"
HOME, FILE, LOCK = "releases", "aliases.json", ".lock"
FORMAT = 1
SETTLE_S, ATTEMPTS = 0.5, 20
"""After how long a writer looks whether another overwrote it, and how often it tries: 10 to 20 seconds, in which several get their turn."""
LOGGED, IDS = 100, 100
"""Changes of each alias that stay in its log, and ids of changes of all."""
_ALIAS = re.compile(r"(?!latest$)(?![vV]\d+$)[A-Za-z0-9_-]{1,100}")
"""What the model registry of MLflow takes too."""
How = Literal["promoted", "rolled back", "removed"]


@dataclass(frozen=True)
class Named:
    """A release that an alias names or named: its version, its place in the storage, and since when."""

    version: str
    place: str  # artefacts/release/<key>
    digest: str  # of its manifest
    since: float


@dataclass(frozen=True)
class Alias:
    """An alias of the releases of one name; without a release it was removed, and only its log is left."""

    model: str  # the name of its releases
    alias: str
    releases: tuple[Named, ...] = ()  # the last is the one that it names, the one before it that to which a roll back goes
    log: tuple[Mapping[str, Any], ...] = ()

    @property
    def now(self) -> Named | None:
        return self.releases[-1] if self.releases else None

    @property
    def before(self) -> Named | None:
        return self.releases[-2] if len(self.releases) > 1 else None

    def changed(self, how: How, releases: tuple[Named, ...]) -> "Alias":
        """The alias with other releases, and the change in its log."""
        after = releases[-1].version if releases else None
        entry = {"at": time.time(), "by": _who(), "how": how, "from": self.now.version if self.now else None, "to": after}
        return replace(self, releases=releases, log=(*self.log, entry)[-LOGGED:])


Aliases = dict[tuple[str, str], Alias]
"""All that a storage has, by the name of the releases and the alias; with those that were removed."""
Step = Callable[[Aliases], Alias | None]
"""What a change does: the alias as it shall be, from all that there are; None where nothing is to change."""


def read_aliases(storage: str) -> Aliases:
    """The aliases of a storage, one read of a small file; none where there is no file."""
    return _parsed(store.read(_file(storage)), storage)[0]


def known(aliases: Aliases) -> list[Alias]:
    """The aliases that name a release."""
    return [alias for alias in aliases.values() if alias.now]


def shown(alias: Alias, aliases: Aliases) -> str:
    """An alias as it is given: @champion where one name of releases has it, else mirepoix@champion."""
    return f"@{alias.alias}" if sum(other.alias == alias.alias for other in known(aliases)) < 2 else f"{alias.model}@{alias.alias}"


def find_alias(aliases: Aliases, given: str, storage: str) -> Alias:
    """The alias that is meant by @champion, mirepoix@champion or, as an option has it, champion."""
    model, _, name = given.rpartition("@")
    found = [alias for alias in known(aliases) if alias.alias == name and model in ("", alias.model)]
    if len(found) == 1:
        return found[0]
    if found:
        choice = " or ".join(f"{alias.model}@{alias.alias}" for alias in found)
        raise Refused(f"releases of {len(found)} names have the alias @{name} in {storage}; give {choice}")
    there = ", ".join(f"{alias.model}@{alias.alias}" for alias in known(aliases)) or "none"
    raise Refused(
        f"there is no alias {model}@{name} in {storage} (there are: {there}); "
        f"give one to a release: mirepoix releases promote RELEASE --alias {name or CHAMPION}"
    )


def aliased_release(given: str, storage: str) -> str:
    """The folder of the release that an alias of a storage names now, given as @champion or mirepoix@champion."""
    now = find_alias(read_aliases(storage), given, storage).now
    assert now is not None  # those without a release are not found
    return store.join(storage, *now.place.split("/"))


def alias_name(given: str) -> str:
    """The alias in an option, without the @ that may stand before it; refused where it could be taken for something else."""
    name = given.removeprefix("@")
    if not _ALIAS.fullmatch(name):
        raise Refused(f"alias is {given!r}; give letters, digits, - and _, but not latest, and not v with a number, which are taken")
    return name


def named_places(storage: str) -> dict[str, list[str]]:
    """The releases that `gc` keeps for aliases, by their place: those that an alias names, and the one before each."""
    aliases, found = read_aliases(storage), dict[str, list[str]]()
    for alias in known(aliases):
        for named, what in ((alias.now, shown(alias, aliases)), (alias.before, f"roll back of {shown(alias, aliases)}")):
            if named is not None:
                found.setdefault(named.place, []).append(what)
    return found


def shown_by_place(storage: str) -> dict[str, list[str]]:
    """The aliases of each release, by its place."""
    aliases, found = read_aliases(storage), dict[str, list[str]]()
    for alias in known(aliases):
        if alias.now is not None:
            found.setdefault(alias.now.place, []).append(shown(alias, aliases))
    return found


def change(storage: str, step: Step) -> Aliases:
    """Changes one alias in the file of a storage; returns all aliases as they are then.

    `step` may be called several times, as another writer may come between; what it refuses is not written.
    """
    if store.is_local(storage):
        with _turn(storage):
            return _written(storage, step)[0]
    for _ in range(ATTEMPTS):
        aliases, id = _written(storage, step)
        if not id:
            return aliases
        time.sleep(SETTLE_S * (1 + secrets.randbelow(100) / 100))  # of several writers, not all again at once
        aliases, ids = _parsed(store.read(_file(storage)), storage)
        if id in ids:
            return aliases
    raise Refused(f"other processes change the aliases of {storage} all the time; nothing is changed here: try again")


def _written(storage: str, step: Step) -> tuple[Aliases, str]:
    """The aliases after a step, and the id of the change; no id where there was nothing to change."""
    aliases, ids = _parsed(store.read(_file(storage)), storage)
    alias = step(aliases)
    if alias is None:
        return aliases, ""
    id = secrets.token_hex(8)
    aliases = {**aliases, (alias.model, alias.alias): alias}
    store.write(_file(storage), _dumped(aliases, [*ids, id][-IDS:]))
    return aliases, id


@contextmanager
def _turn(storage: str) -> Iterator[None]:
    home = store.local_path(storage) / HOME
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file(storage: str) -> str:
    return store.join(storage, HOME, FILE)


def _dumped(aliases: Aliases, ids: list[str]) -> bytes:
    models: dict[str, dict[str, Any]] = {}
    for alias in sorted(aliases.values(), key=lambda alias: (alias.model, alias.alias)):
        told = {"releases": [asdict(release) for release in alias.releases], "log": list(alias.log)}
        models.setdefault(alias.model, {})[alias.alias] = told
    return json.dumps({"format": FORMAT, "aliases": models, "changes": ids}, indent=1).encode() + b"\n"


def _parsed(text: bytes | None, storage: str) -> tuple[Aliases, list[str]]:
    """The aliases in the text of a file, and the ids of the last changes."""
    if text is None:
        return {}, []
    try:
        content = json.loads(text)
        if content["format"] > FORMAT:
            raise Refused(f"{_file(storage)} was written by a later version; use that version with {storage}")
        aliases = [
            Alias(model, alias, tuple(Named(**release) for release in told["releases"]), tuple(told["log"]))
            for model, own in content["aliases"].items()
            for alias, told in own.items()
        ]
        return {(alias.model, alias.alias): alias for alias in aliases}, [*map(str, content["changes"])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise Refused(f"{_file(storage)} cannot be read ({why}); restore it from a backup, or delete it: no alias is left then") from error


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return socket.gethostname()
