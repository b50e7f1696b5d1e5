"""Which of the things that a search found are hard negatives of a pair, and why the others are not."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from mirepoix.components.embedding.embed import EmbedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.search.dense import Hit


@dataclass(frozen=True)
class MineConfig:
    """How hard negatives are found."""

    negatives: int = option(2, "hard negatives that a pair is to have")
    own: Literal["keep", "replace"] = option("keep", "the source's own: keep: they stand first and count; replace: mined ones stand alone")
    first: int = option(1, "rank from which on results are taken; known answers have none")
    last: int = option(100, "rank up to which results are taken")
    margin: float | None = option(0.95, "highest score of a negative, as a share of the positive's (NV-Retriever); null: any")
    max_score: float | None = option(None, "highest score of a negative; null: any")
    strategy: Literal["top", "random"] = option("top", "take the best of what is left, or draw from it by seed")
    balanced: bool = option(False, "as many texts as pictures or clips (MARVEL, UniVL-DR); where one lacks, the other")
    drop_likely_answers: bool = option(True, "leave out kin of an answer, and what has the text or the pictures of one")
    release: str | None = option(None, "folder or URI of a release whose encoder and index are used; null: those that this run made")
    fingerprint: str | None = option(None, "digest of that release, filled in when the run starts")
    batch_size: int = option(256, "queries that are searched for at a time")
    encode: EmbedConfig = option(EmbedConfig, "how the training queries are encoded")

    def __post_init__(self) -> None:
        for name in ("negatives", "first", "batch_size"):
            if getattr(self, name) < 1:
                raise Refused(f"mine.{name} is {getattr(self, name)}; give 1 or more")
        if self.last < self.first:
            raise Refused(f"mine.last is {self.last} and mine.first {self.first}; give a last rank that is not before the first")
        if self.margin is not None and not 0 < self.margin <= 1:
            raise Refused(
                f"mine.margin is {self.margin}; it is a share of the positive's score, give a number above 0 and up to 1, or null"
            )
        refuse_unknown(self, "mine.")


class Mark(NamedTuple):
    """Hashes of an item's text and of its pictures and frames, 0 where it has none; equal marks are copies."""

    text: int
    pictures: int


def mark(item: Item) -> Mark:
    return Mark(
        _hash([item.text.encode()]) if item.text else 0, _hash([b"i", *item.images, b"v", *item.video]) if item.images or item.video else 0
    )


def _hash(parts: Iterable[bytes]) -> int:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(whole.digest(), "little") | 1


@dataclass
class Answers:
    """What is known to answer a query, and what may therefore be an answer too."""

    ids: set[str]
    kin: set[str] = field(default_factory=set)
    marks: set[Mark] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.texts = {found.text for found in self.marks if found.text}
        self.pictures = {found.pictures for found in self.marks if found.pictures}

    def likely(self, id: str, found: Mark) -> str | None:
        """Why an item may be an answer too, if it may."""
        if id in self.kin:
            return "kin of an answer"
        if found.text in self.texts:
            return "text of an answer"
        return "pictures of an answer" if found.pictures in self.pictures else None


class Found(NamedTuple):
    """A hard negative."""

    id: str
    rank: int
    score: float


def sifted(
    hits: Sequence[Hit],
    config: MineConfig,
    answers: Answers,
    marks: Callable[[str], Mark | None],
    own: Collection[str],
    held_out: Collection[str],
    positive: float,
) -> tuple[list[Found], Counter[str]]:
    """What of a query's hits may be a negative of one of its pairs, best first, and how many of the others were dropped for which reason.

    `marks` knows all that is in the corpus, `own` are negatives that the pair has, `held_out` answer queries of other splits than train,
    `positive` is the score of the pair's positive.
    """
    # A share of a score below zero would lie above it.
    most = np.inf if config.margin is None else positive - (1 - config.margin) * abs(positive)
    kept, dropped, rank = [], Counter(), 0
    for id, score in hits:
        if id in answers.ids:
            dropped["known answer"] += 1
            continue
        rank += 1
        if rank > config.last:
            break
        found = marks(id)
        if found is None:
            why = "not in the corpus"
        elif id in held_out:
            why = "answers a held-out query"
        elif id in own:
            why = "own negative of the pair"
        elif found in answers.marks:
            why = "copy of an answer"
        elif config.drop_likely_answers and (likely := answers.likely(id, found)):
            why = likely
        elif rank < config.first:
            why = "before the first rank"
        elif config.max_score is not None and score > config.max_score:
            why = "score above max_score"
        elif score > most:
            why = "score above the margin"
        else:
            kept.append(Found(id, rank, score))
            continue
        dropped[why] += 1
    return kept, dropped


def chosen(
    found: Sequence[Found], config: MineConfig, pictured: Callable[[str], bool], own: Sequence[str], draw: np.random.Generator
) -> list[Found]:
    """So many of them that, with its own, the pair has the negatives that it is to have."""
    missing = config.negatives - len(own)
    if missing <= 0:
        return []
    pool = [found[place] for place in draw.permutation(len(found))] if config.strategy == "random" else list(found)
    if not config.balanced:
        return pool[:missing]
    sides = {side: [entry for entry in pool if pictured(entry.id) == side] for side in (False, True)}
    counts = Counter(pictured(id) for id in own)
    order = {entry.id: place for place, entry in enumerate(pool)}
    picks: list[Found] = []
    while len(picks) < missing and any(sides.values()):
        side = min((side for side in sides if sides[side]), key=lambda side: (counts[side], order[sides[side][0].id]))
        picks.append(sides[side].pop(0))
        counts[side] += 1
    return picks
