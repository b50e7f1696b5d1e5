"""Selection of hard negatives from the hits of a search: which hits are used, and why the others are not."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.models.item import Item, content_hash
from mirepoix.serving.search.hits import Hit


class Mark(NamedTuple):
    """Hashes of an item's text and of its pictures and frames, 0 where it has none; items with equal marks are copies."""

    text: int
    pictures: int


def mark(item: Item) -> Mark:
    text, pictures = replace(item, images=(), video=()), replace(item, text="")
    return Mark(_key(text) if item.text else 0, _key(pictures) if item.images or item.video else 0)


def _key(item: Item) -> int:
    return int.from_bytes(content_hash(item)[:8], "little") | 1  # never 0


@dataclass
class Answers:
    """The known answers of a query, and what their near-duplicates can be recognised by."""

    ids: set[str]
    kin: set[str] = field(default_factory=set)
    marks: set[Mark] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.texts = {found.text for found in self.marks if found.text}
        self.pictures = {found.pictures for found in self.marks if found.pictures}

    def likely(self, id: str, found: Mark) -> str | None:
        """Why an item is likely an answer too; None if it is not."""
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


def filter_hits(
    hits: Sequence[Hit],
    config: MineConfig,
    answers: Answers,
    marks: Callable[[str], Mark | None],
    own: Collection[str],
    held_out: Collection[str],
    positive: float,
) -> tuple[list[Found], Counter[str]]:
    """The hits of a query that can be negatives of one of its pairs, best first, and the counts of the others by reason.

    `marks` gives the mark of a corpus item, `own` are the negatives that the pair already has, `held_out` are answers to queries of other
    splits than train, and `positive` is the score of the pair's positive.
    """
    # margin * positive would lie above a positive score below zero.
    most = np.inf if config.margin is None else positive - (1 - config.margin) * abs(positive)
    dropped: Counter[str] = Counter()
    kept, rank = [], 0
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


def pick_negatives(
    found: Sequence[Found], config: MineConfig, pictured: Callable[[str], bool], own: Sequence[str], draw: np.random.Generator
) -> list[Found]:
    """As many negatives as the pair lacks, in addition to its own, to have `config.negatives`."""
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
