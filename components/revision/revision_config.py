"""The settings of the stages that revise a release, and the items that one is asked to lose."""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option

NAMED = 3
"""Most items that a refusal names."""
COMPARED = 20_000
"""Most ids, and most sources, among which those near to an unknown one are looked for."""


@dataclass(frozen=True)
class MergeConfig:
    """Which items the revised release has."""

    release: str = option("", "folder or URI of the release that is revised")
    prefix: str = option("", "put before the ids of the new items, where other items have the same")
    replace: bool = option(False, "new items replace those with the same ids; false: they are refused unless they are equal")
    remove: tuple[str, ...] = option((), "ids or sources of items that are removed")
    remove_listed: str | None = option(None, "file with an id or a source on each line, of items that are removed too; null: none")

    @property
    def removed(self) -> tuple[str, ...]:
        """The ids and sources of all items that are removed."""
        return (*self.remove, *listed_ids(self.remove_listed))


@dataclass(frozen=True)
class ReencodeConfig:
    """How new items are encoded by the encoder of the release."""

    release: str = option("", "folder or URI of the release that is revised")
    embed: EmbedConfig = option(EmbedConfig, "how items are encoded")
    trust_remote_code: bool = option(False, "open a release whose encoder runs code that its checkpoint brought")


@dataclass(frozen=True)
class RevisedConfig:
    """A stage that has no settings of its own: it does as the release did.

    Where that lies is passed to the work, and is no field: a config is published with its result, which here goes into a release that is
    given away, and is to tell nothing of the disks of those who made it.
    """


def listed_ids(file: str | None) -> tuple[str, ...]:
    """The ids and sources in a file, one on each line; blank lines are skipped."""
    if file is None:
        return ()
    try:
        return tuple(line.strip() for line in Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            f"the ids in {file} cannot be read ({getattr(error, 'strerror', None) or error}); give a text file in UTF-8"
        ) from error


def listed_fingerprint(file: str) -> str:
    """A hash of the ids in a file."""
    return hashlib.sha256("\n".join(listed_ids(file)).encode()).hexdigest()


def items_to_remove(release: str, ids: Sequence[str], given: Sequence[str], sources: Callable[[], Mapping[str, list[str]]]) -> set[str]:
    """The ids of the items that are given, each by its own id, or by its source, which may be that of several.

    Both are taken exactly as a search shows them; what is the id of one item and the source of another is the id. `ids` are those that
    the release has, and `sources` gives the ids of each source; it is asked only where something is no id. Refuses what the release does
    not have, and to remove all.
    """
    have = {*ids}
    others = [name for name in dict.fromkeys(given) if name not in have]
    by_source = sources() if others else {}
    if unknown := [name for name in others if name not in by_source]:
        raise Refused(f"{release} has no item {named(unknown)}; {_hint(unknown[0], ids, [*by_source])}")
    removed = have.intersection(given).union(*(by_source[name] for name in others))
    if removed == have:
        raise Refused(f"all {len(have)} items of {release} would be removed, and a release needs one; remove fewer")
    return removed


def _hint(name: str, ids: Sequence[str], sources: Sequence[str]) -> str:
    """What may have been meant instead of a name that is neither an id nor a source."""
    folder = name.rstrip("/")
    if within := [source for source in sources if source.startswith((f"{folder}/", f"{folder}:"))]:
        return f"what is below {folder} is given one by one: {', '.join(within[:NAMED])}"
    near = difflib.get_close_matches(name, [*ids[:COMPARED], *sources[:COMPARED]], n=NAMED, cutoff=0.5)
    near = near or [known for known in (*ids, *sources) if name.casefold() in known.casefold()][:NAMED]
    return f"near to the first are {', '.join(near)}" if near else f"its ids are such as {', '.join(ids[:NAMED])}"


def named(ids: Sequence[str]) -> str:
    """Some ids in words: the first of them, and how many more there are."""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(map(repr, ids[:NAMED])) + more
