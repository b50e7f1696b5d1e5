"""Pairs that lose a part of their content in training: a missing caption, picture or text is then nothing new at search time.

Each function is `Pair -> Pair` with a share and a generator; what it draws hangs on the generator alone. An item is never left empty,
and an instruction, which is no content, stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, Pair
from mirepoix.models.options import option

_PARTS = ((Modality.TEXT, "text"), (Modality.IMAGE, "images"), (Modality.VIDEO, "video"))


@dataclass(frozen=True)
class AugmentConfig:
    """What pairs lose in training; drawn anew in each epoch."""

    document_captions: float = option(0.0, "share of the documents with text beside a picture or clip that lose the text")
    query_captions: float = option(
        0.0,
        "share of the queries with text beside a picture or clip that lose the text; where that is a caption, and not the question; two of "
        "one picture are alike then, and the answers of each still negatives of the other",
    )
    single_modality: float = option(
        0.0, "share of the items of several modalities, queries and documents, of which one alone is left, each as likely"
    )

    def __post_init__(self) -> None:
        for name in ("document_captions", "query_captions", "single_modality"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"{name} is {getattr(self, name)}; it is a share, give a number from 0 to 1")


def augmented(pair: Pair, config: AugmentConfig, seed: Sequence[int]) -> Pair:
    """The pair as training sees it this time, a function of the seed."""
    if config == AugmentConfig():
        return pair
    draw = np.random.default_rng(seed)
    pair = without_captions(pair, config.query_captions, config.document_captions, draw)
    return of_single_modality(pair, config.single_modality, draw)


def without_captions(pair: Pair, of_queries: float, of_documents: float, draw: np.random.Generator) -> Pair:
    """The pair with the text taken from a share of its captioned pictures and clips."""

    def bare(item: Item, share: float) -> Item:
        drawn = draw.random() < share
        return replace(item, text="") if drawn and item.text and (item.images or item.video) else item

    return Pair(
        pair.id,
        bare(pair.query, of_queries),
        bare(pair.positive, of_documents),
        tuple(bare(item, of_documents) for item in pair.negatives),
    )


def of_single_modality(pair: Pair, share: float, draw: np.random.Generator) -> Pair:
    """The pair with a share of its items of several modalities replaced by one of these alone."""

    def single(item: Item) -> Item:
        drawn, place = draw.random(2)
        here = [name for bit, name in _PARTS if item.modality & bit]
        if drawn >= share or len(here) < 2:
            return item
        kept = here[int(place * len(here))]
        return replace(item, **{name: type(getattr(item, name))() for name in here if name != kept})

    return Pair(pair.id, single(pair.query), single(pair.positive), tuple(map(single, pair.negatives)))
