"""The settings of the stages that revise a release, and the items that one is asked to lose."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option

NAMED = 3
"""Most items that a refusal names."""
COMPARED = 20_000
"""Most ids among which those near to an unknown one are looked for."""


@dataclass(frozen=True)
class MergeConfig:
    """Which items the revised release has."""

    release: str = option("", "folder or URI of the release that is revised")
    prefix: str = option("", "put before the ids of the new items, where other items have the same")
    replace: bool = option(False, "new items replace those with the same ids; false: they are refused unless they are equal")
    remove: tuple[str, ...] = option((), "ids of items that are removed")
    remove_listed: str | None = option(None, "file with an id on each line, of items that are removed too; null: none")

    @property
    def removed(self) -> tuple[str, ...]:
        """The ids of all items that are removed."""
        return (*self.remove, *listed_ids(self.remove_listed))


@dataclass(frozen=True)
class ReencodeConfig:
    """How new items are encoded by the encoder of the release."""

    release: str = option("", "folder or URI of the release that is revised")
    embed: EmbedConfig = option(EmbedConfig, "how items are encoded")
    trust_remote_code: bool = option(False, "open a release whose encoder runs code that its checkpoint brought")


@dataclass(frozen=True)
class RevisedConfig:
    """A stage that has no settings of its own: it does as the release did."""

    release: str = option("", "folder or URI of the release that is revised")


def listed_ids(file: str | None) -> tuple[str, ...]:
    """The ids in a file, an id on each line; blank lines are skipped."""
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


def refuse_removal(release: str, ids: Sequence[str], removed: Sequence[str]) -> None:
    """Refuses to remove items that a release does not have, and to remove all; `ids` are those that it has."""
    have = {*ids}
    unknown = [id for id in dict.fromkeys(removed) if id not in have]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ids[:COMPARED], n=NAMED, cutoff=0.5)
        near = near or [id for id in ids if unknown[0].casefold() in id.casefold()][:NAMED]
        hint = f"near to the first are {', '.join(near)}" if near else f"its ids are such as {', '.join(ids[:NAMED])}"
        raise Refused(f"{release} has no item {named(unknown)}; {hint}")
    if not have.difference(removed):
        raise Refused(f"all {len(have)} items of {release} would be removed, and a release needs one; remove fewer")


def named(ids: Sequence[str]) -> str:
    """Some ids in words: the first of them, and how many more there are."""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(map(repr, ids[:NAMED])) + more
