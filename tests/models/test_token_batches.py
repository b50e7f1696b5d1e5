"""Batches within a budget of tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.models.token_batches import Padding, fill

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


def test_items_of_similar_length_share_a_batch_and_the_longest_come_first():
    assert fill([5, 90, 7, 100, 6], 200, 8) == [[3, 1], [2, 4, 0]]


def test_a_batch_has_at_most_so_many_items_and_one_that_is_longer_than_the_budget_is_alone():
    assert fill([10, 500, 10, 10], 100, 2) == [[1], [0, 2], [3]]
    assert fill([], 100, 2) == []


@given(LENGTHS, st.integers(1, 800), st.integers(1, 12))
def test_every_item_is_in_one_batch_and_every_batch_of_several_is_within_the_budget(lengths, budget, most):
    batches = fill(lengths, budget, most)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget
    sizes = [lengths[place] for batch in batches for place in batch]
    assert sizes == sorted(sizes, reverse=True)


@given(LENGTHS, st.integers(1, 800), st.integers(1, 12))
def test_no_two_neighbouring_batches_would_fit_into_one(lengths, budget, most):
    batches = fill(lengths, budget, most)
    for batch, following in pairwise(batches):
        count = len(batch) + 1
        assert count > most or count * lengths[batch[0]] > budget, following


@given(LENGTHS, st.integers(1, 800), st.integers(1, 12))
def test_batches_depend_on_the_lengths_alone_and_items_of_one_length_keep_their_order(lengths, budget, most):
    batches = fill(lengths, budget, most)
    assert batches == fill([*lengths], budget, most)
    order = [place for batch in batches for place in batch]
    for one, other in pairwise(order):
        assert lengths[one] > lengths[other] or one < other


def test_the_share_of_padding_is_that_of_all_places_of_the_batches():
    for lengths, batches, share in (([1, 3, 4], [[2, 1, 0]], 4 / 12), ([1, 3, 4], [[2], [1], [0]], 0), ([], [], 0)):
        padding = Padding()
        padding.add(lengths, batches)
        assert padding.share == pytest.approx(share)


def test_padding_of_several_parts_adds_up():
    whole, part = Padding(), Padding()
    whole.add([4, 2], [[0, 1]])
    part.add([10, 5, 9], [[0, 1], [2]])
    whole += part
    assert (whole.tokens, whole.places) == (30, 37) and whole.share == pytest.approx(7 / 37)
