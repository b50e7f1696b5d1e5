"""Augmentation of training pairs: parts of items are removed at random, so that the encoder also learns from items that lack them.

Each function is `Pair -> Pair` with a rate and a generator, and its result depends on these alone. No item becomes empty; an instruction
is not content and is never removed.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.models.item import Item, Modality, Pair

_PARTS = ((Modality.TEXT, "text"), (Modality.IMAGE, "images"), (Modality.VIDEO, "video"))


def augmented(pair: Pair, config: AugmentConfig, seed: Sequence[int]) -> Pair:
    """The augmented pair, a function of the seed."""
    if config == AugmentConfig():
        return pair
    draw = np.random.default_rng(seed)
    pair = without_captions(pair, config.query_captions, config.document_captions, draw)
    return of_single_modality(pair, config.single_modality, draw)


def without_captions(pair: Pair, of_queries: float, of_documents: float, draw: np.random.Generator) -> Pair:
    """The pair with the text removed from a share of its captioned pictures and clips."""

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
    """The pair with a share of its items of several modalities reduced to one of these, drawn uniformly."""

    def single(item: Item) -> Item:
        drawn, place = draw.random(2)
        present = [name for bit, name in _PARTS if item.modality & bit]
        if drawn >= share or len(present) < 2:
            return item
        chosen = present[int(place * len(present))]
        return replace(item, **{name: type(getattr(item, name))() for name in present if name != chosen})

    return Pair(pair.id, single(pair.query), single(pair.positive), tuple(map(single, pair.negatives)))
