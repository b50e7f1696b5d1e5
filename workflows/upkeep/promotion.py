"""The commands `releases promote`, `rollback`, `unalias` and `sync`: they change the aliases of a storage, and MLflow follows.

A release is looked at before an alias names it: that its files are those of its manifest by name and size. After the change is written it
is looked at again, as `mirepoix gc` may be at work: `gc` takes the lease of a result, reads what the aliases name, and only then deletes.
So either it sees the alias, or the lease or the gap is seen here, and the change is taken back.
"""

import sys
import time

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.heartbeat import place_of
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.storage import refuse_other_folders, release_of, storage_option
from mirepoix.workflows.upkeep.aliases import Alias, Aliases, Named, alias_name, change, find_alias, known, read_aliases
from mirepoix.workflows.upkeep.named import named_release
from mirepoix.workflows.upkeep.registered import follow
from mirepoix.workflows.upkeep.releases import StoredRelease, read_stored_release


def promote_command(storage: str, given: str, alias: str) -> int:
    """Lets an alias name a release."""
    refuse_other_folders(storage)
    name = alias_name(alias)
    release = _whole(storage, _in_storage(storage, given))
    named = Named(release.version, release.place, release.manifest.digest, time.time())
    was: list[Alias] = []

    def step(aliases: Aliases) -> Alias | None:
        known_as = aliases.get((release.name, name), Alias(release.name, name))
        was[:] = [known_as]
        if known_as.now is not None and _same(known_as.now, named):
            return None
        # One that was made again in its place, as by --force, takes the place of the one that is gone.
        again = known_as.now is not None and known_as.now.place == named.place
        return known_as.changed("promoted", (*(known_as.releases[:-1] if again else known_as.releases), named))

    change(storage, step)
    before, shown = was[0].now, f"{release.name}@{name}"
    if before is not None and _same(before, named):
        print(f"{shown} is {release.version} already")
    else:
        _undo_if_removed(storage, release, was[0])
        if before is None:
            print(f"{shown} is now {release.version}")
        else:
            back = f"mirepoix releases rollback{_option(shown, name, storage)}{storage_option(storage)}"
            print(f"{shown} was {before.version} and is now {release.version} (back: {back})")
    return _followed(storage)


def rollback_command(storage: str, given: str) -> int:
    """Lets an alias name again the release that it named before."""
    refuse_other_folders(storage)
    was: list[Alias] = []

    def step(aliases: Aliases) -> Alias:
        alias = find_alias(aliases, _with_at(given), storage)
        shown = f"{alias.model}@{alias.alias}"
        now, before = alias.now, alias.before
        if now is None or before is None:
            other = f"mirepoix releases promote RELEASE --alias {alias.alias}"
            raise Refused(f"{shown} names {now and now.version}, and named no release before; let it name another one: {other}")
        try:
            _whole(storage, before.place, before.digest)
        except Refused as refusal:
            why = f"{shown} would go back to {before.version}, which cannot be served: {refusal}"
            raise Refused(f"{why}; or let it name another one: mirepoix releases promote RELEASE --alias {alias.alias}") from None
        was[:] = [alias]
        return alias.changed("rolled back", alias.releases[:-1])

    change(storage, step)
    now, before = was[0].now, was[0].before
    assert now is not None and before is not None  # else it is refused
    _undo_if_removed(storage, _whole(storage, before.place), was[0])
    print(f"{was[0].model}@{was[0].alias} was {now.version} and is {before.version} again")
    return _followed(storage)


def unalias_command(storage: str, given: str) -> int:
    """Removes an alias; its releases stay as they are."""
    refuse_other_folders(storage)
    was: list[Alias] = []

    def step(aliases: Aliases) -> Alias:
        was[:] = [find_alias(aliases, _with_at(given), storage)]
        return was[0].changed("removed", ())

    change(storage, step)
    alias, now = was[0], was[0].now
    assert now is not None
    again = f"mirepoix releases promote {now.version} --alias {alias.alias}{storage_option(storage)}"
    print(f"{alias.model}@{alias.alias} is removed; it was {now.version} (again: {again})")
    return _followed(storage)


def sync_command(storage: str) -> int:
    """Makes the model registry of MLflow equal to the aliases of a storage; exit status 1 if it cannot be reached."""
    aliases = read_aliases(storage)
    if not aliases:
        print(f"there are no aliases in {storage}, and nothing to write into MLflow")
        return 0
    if warning := follow(storage):
        print(warning, file=sys.stderr)
        return 1
    count = len(known(aliases))
    print(f"the model registry of MLflow has the {count} alias{'es' if count != 1 else ''} of {storage}")
    return 0


def _followed(storage: str) -> int:
    """Lets MLflow follow, with what it missed before; a warning where it cannot. The alias is changed in any case."""
    if warning := follow(storage):
        print(warning, file=sys.stderr)
    return 0


def _with_at(given: str) -> str:
    return given if "@" in given else f"@{given}"


def _option(shown: str, name: str, storage: str) -> str:
    """What `rollback` needs to find an alias; nothing for the one that it takes by itself."""
    only = sum(alias.alias == name for alias in known(read_aliases(storage))) == 1
    return "" if only and name == "champion" else f" --alias {name if only else shown}"


def _in_storage(storage: str, given: str) -> str:
    """The place of a release that is given by any of its names; refused where it lies elsewhere."""
    target = release_of(named_release(given, storage))
    place, manifest = place_of(store.absolute(target)), store.read_manifest(target)
    here = None if place is None else store.read_manifest(store.join(storage, *place.split("/")))
    if place is None or here is None or manifest is None or here.digest != manifest.digest:
        raise Refused(f"{target} is no release of the storage {storage}, whose aliases these are; give --storage the one that it lies in")
    return place


def _same(one: Named, other: Named) -> bool:
    return (one.place, one.digest) == (other.place, other.digest)


def _whole(storage: str, place: str, digest: str | None = None) -> StoredRelease:
    """A release whose files are there, by their sizes, and that is the one of a digest; refused otherwise."""
    store.verify(store.join(storage, *place.split("/")), hashes=False)
    release = read_stored_release(storage, place)
    if release is None:
        raise Refused(f"{place} of {storage} holds no release; `mirepoix releases` lists those there are")
    if digest not in (None, release.manifest.digest):
        raise Refused(f"{place} was made again since, and is {release.version} now")
    return release


def _undo_if_removed(storage: str, release: StoredRelease, was: Alias) -> None:
    """Refuses, and takes the change of an alias back, where `gc` has come before it."""
    gone = read_stored_release(storage, release.place) is None
    if not gone and Driver(storage).deleting(release.place.rpartition("/")[2]) is None:
        return

    def back(aliases: Aliases) -> Alias | None:
        alias = aliases[was.model, was.alias]
        ours = alias.now is not None and alias.now.place == release.place
        return alias.changed("rolled back" if was.now else "removed", was.releases) if ours else None

    change(storage, back)
    raise Refused(f"{release.version} is being removed by `mirepoix gc`; {was.model}@{was.alias} stays as it was")
