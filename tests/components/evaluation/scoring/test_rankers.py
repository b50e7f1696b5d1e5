"""Rankers return places among the ids of the whole corpus, also where they know only some of it."""

import numpy as np
import pytest

from mirepoix.components.evaluation.scoring.rankers import ByChance, ByVectors, ByWords
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.bm25 import build_sparse
from mirepoix.serving.search.dense import build

BASIS = np.eye(4, dtype=np.float32)


def ranked(found):
    return [places.tolist() for places, _ in found]


@pytest.fixture
def some():
    """Vectors of the items at the places 1, 3, 4 and 8, for the queries 0 and 2."""
    index = build(BASIS, ["b", "d", "e", "i"], [1] * 4)
    return ByVectors(index, RaggedRows.single(BASIS[[2, 0]]), np.array([0, -1, 1]), np.array([1, 3, 4, 8]))


def test_items_without_a_vector_are_not_ranked_and_a_query_without_one_finds_nothing(some):
    assert ranked(some.rank(np.array([0, 1, 2]), 2, None)) == [[4, 1], [], [1, 3]]
    assert ranked(some.rank(np.array([2, 1]), 9, np.array([0, 3, 8]))) == [[3, 8], []]


def test_the_score_of_what_has_no_vector_is_negative_infinity(some):
    assert some.scores(2, np.array([0, 1, 8, 9])).tolist() == [-np.inf, 1, 0, -np.inf]
    assert some.scores(1, np.array([1])).tolist() == [-np.inf]


def test_all_vectors_are_ranked_by_their_own_places():
    ranker = ByVectors(build(BASIS, list("abcd"), [1] * 4), RaggedRows.single(BASIS[[3]]), np.array([0]))
    assert ranked(ranker.rank(np.array([0]), 2, None)) == [[3, 0]] and ranker.scores(0, np.array([3, 1])).tolist() == [1, 0]


def test_words_rank_what_shares_one():
    ranker = ByWords(build_sparse(["red star", "blue disc", "red disc"], list("abc"), [1] * 3), ["red", "a blue one", "none"])
    assert ranked(ranker.rank(np.array([0, 1, 2]), 5, None)) == [[0, 2], [1], []]
    assert ranked(ranker.rank(np.array([0]), 5, np.array([1, 2]))) == [[2]]
    assert (ranker.scores(0, np.array([1, 2])) > 0).tolist() == [False, True]


def test_chance_draws_each_query_an_order_of_its_own_by_seed():
    first, again = (ranked(ByChance(50, 0).rank(np.array([0, 1]), 50, None)) for _ in range(2))
    assert first[0] != first[1] and sorted(first[0]) == list(range(50)) and first == again
    assert first != ranked(ByChance(50, 1).rank(np.array([0, 1]), 50, None))
    assert sorted(ranked(ByChance(50, 0).rank(np.array([7]), 2, np.array([4, 9])))[0]) == [4, 9]
    assert len(set(ByChance(50, 0).scores(3, np.arange(5)).tolist())) == 5
