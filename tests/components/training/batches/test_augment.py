"""Augmentation removes parts of pairs at the given rates, by seed, and never all of an item."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.training.batches.augment import augmented, of_single_modality, without_captions
from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.models.item import Item, Modality, Pair

TEXT, IMAGE, VIDEO = Modality.TEXT, Modality.IMAGE, Modality.VIDEO
CAPTIONED = Item("d", text="a red flag", images=(b"png",), source="s", line=3)
ASKING = Item("q", text="which is it", images=(b"jpg",), instruction="Find it.")
WORDS, CLIP = Item("w", text="words"), Item("c", text="a clip", video=(b"1", b"2"))


def many(change, **items) -> list[Pair]:
    pair = Pair("p", items.get("query", ASKING), items.get("positive", CAPTIONED), items.get("negatives", (WORDS, CLIP)))
    return [change(pair, np.random.default_rng(seed)) for seed in range(400)]


def test_captions_are_removed_from_the_given_share_of_documents_and_from_no_query():
    pairs = many(lambda pair, draw: without_captions(pair, 0.0, 0.25, draw))
    assert 70 < sum(not pair.positive.text for pair in pairs) < 130
    assert 70 < sum(not pair.negatives[1].text for pair in pairs) < 130
    assert all(pair.query == ASKING and pair.negatives[0] == WORDS for pair in pairs)
    bare = next(pair.positive for pair in pairs if not pair.positive.text)
    assert (bare.images, bare.modality, bare.source, bare.line) == (CAPTIONED.images, IMAGE, "s", 3)


def test_captions_of_queries_have_a_rate_of_their_own():
    pairs = many(lambda pair, draw: without_captions(pair, 0.5, 0.0, draw))
    assert 160 < sum(not pair.query.text for pair in pairs) < 240
    assert all(pair.query.instruction == "Find it." and pair.positive == CAPTIONED for pair in pairs)


def test_each_modality_of_an_item_is_equally_likely_to_remain():
    whole = Item("a", text="t", images=(b"i",), video=(b"v",), instruction="Find it.")
    found = Counter(pair.query.modality for pair in many(lambda pair, draw: of_single_modality(pair, 1.0, draw), query=whole))
    assert set(found) == {TEXT, IMAGE, VIDEO} and min(found.values()) > 100
    shared = Counter(pair.positive.modality for pair in many(lambda pair, draw: of_single_modality(pair, 0.4, draw)))
    assert set(shared) == {TEXT, IMAGE, TEXT | IMAGE} and 210 < shared[TEXT | IMAGE] < 270


CONTENTS = st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any)
SHARES = st.sampled_from([0.0, 0.3, 1.0])


@given(st.lists(CONTENTS, min_size=2, max_size=4), SHARES, SHARES, SHARES, st.integers(0, 99))
def test_no_item_becomes_empty_nothing_is_added_and_ids_and_instructions_stay(contents, queries, documents, single, seed):
    items = [
        Item(str(n), "text" * t, (b"i",) * i, (b"v",) * v, instruction="Find it.", source="s", line=n)
        for n, (t, i, v) in enumerate(contents)
    ]
    pair = Pair("p", items[0], items[1], tuple(items[2:]))
    made = augmented(pair, AugmentConfig(documents, queries, single), (seed,))
    assert made == augmented(pair, AugmentConfig(documents, queries, single), (seed,))
    for before, after in zip(items, (made.query, made.positive, *made.negatives), strict=True):
        assert after.modality and not after.modality & ~before.modality
        assert (after.id, after.instruction, after.source, after.line) == (before.id, "Find it.", "s", before.line)
        if before.modality in (TEXT, IMAGE, VIDEO):
            assert after == before
        elif single == 1.0:
            assert after.modality in (TEXT, IMAGE, VIDEO)


def test_with_rates_of_zero_a_pair_is_unchanged():
    pair = Pair("p", ASKING, CAPTIONED)
    assert augmented(pair, AugmentConfig(), (0,)) is pair


def test_the_draws_of_one_rate_do_not_depend_on_another_rate():
    pair = Pair("p", ASKING, CAPTIONED, (CLIP,))
    alone = [augmented(pair, AugmentConfig(document_captions=0.5), (seed,)) for seed in range(50)]
    beside = [augmented(pair, AugmentConfig(document_captions=0.5, query_captions=0.5), (seed,)) for seed in range(50)]
    assert [pair.positive for pair in alone] == [pair.positive for pair in beside]
