"""Leaks are found by equality and near-equality, and a share of training is held out in groups that share nothing with the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.curation.leakage import ANSWER, CANDIDATE, HELD_OUT, TRAINING, choose_held_out, compared_roles, leaking
from mirepoix.models.errors import Refused

NONE = np.empty((0, 2), np.int64)


def rows(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("leakage", "besides"),
    [
        ("off", []),
        ("queries", [(TRAINING, HELD_OUT)]),
        ("all", [(TRAINING, HELD_OUT), (TRAINING, ANSWER), (CANDIDATE, HELD_OUT), (ANSWER, HELD_OUT)]),
    ],
)
def test_candidates_are_compared_with_each_other_and_training_with_what_is_held_out(leakage, besides):
    among = [(CANDIDATE, CANDIDATE), (ANSWER, ANSWER), (CANDIDATE, ANSWER)]
    wanted = {pair for one, other in [*among, *besides] for pair in ((one, other), (other, one))}
    assert {tuple(pair) for pair in np.argwhere(compared_roles(leakage)).tolist()} == wanted


def test_training_that_equals_or_nearly_equals_what_is_held_out_leaks():
    content = rows(1, 2, 3, 1, 4, 5)
    found = leaking(np.array([[2, 4], [1, 5]]), content, rows(3, 4), rows(0, 1, 2), np.arange(6))
    assert found == {3: 0, 4: 2}


def test_the_first_of_several_origins_is_named():
    preference = rows(2, 1, 0, 3)
    assert leaking(np.array([[0, 3], [3, 1]]), rows(1, 2, 3, 4), rows(3), rows(0, 1, 2), preference) == {3: 1}
    assert leaking(np.array([[0, 3]]), rows(1, 2, 4, 4), rows(3), rows(0, 1, 2), preference) == {3: 2}


def test_training_that_is_near_other_training_does_not_leak():
    assert leaking(np.array([[0, 1]]), rows(1, 2, 3), rows(0, 1), rows(2), np.arange(3)) == {}


def chosen(pairs, share, seed=0, eligible=None):
    queries, answers = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    eligible = np.unique(queries) if eligible is None else rows(*eligible)
    return choose_held_out(queries, answers, np.arange(1000), eligible, {int(row): f"q{row:03d}" for row in eligible}, share, seed)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(100, 160)), min_size=30, max_size=60),
    st.sampled_from([0.2, 0.4]),
    st.integers(0, 5),
)
def test_groups_that_share_an_answer_stay_together_and_the_share_is_kept(pairs, share, seed):
    try:
        moved = set(chosen(pairs, share, seed))
    except Refused:
        return
    answers = [{answer for query, answer in pairs if (query in moved) == side} for side in (True, False)]
    assert not answers[0] & answers[1]
    count = len({query for query, _ in pairs})
    assert 0 < len(moved) <= max(round(share * count), count / 2)
    assert sorted(moved) == chosen(list(reversed(pairs)), share, seed)


def test_another_seed_holds_out_other_queries():
    pairs = [(query, 100 + query) for query in range(50)]
    assert len(chosen(pairs, 0.2, 0)) == 10
    assert chosen(pairs, 0.2, 0) != chosen(pairs, 0.2, 1)


def test_queries_of_equal_content_stay_together():
    content = np.arange(1000)
    content[1] = content[0]
    queries, answers = rows(0, 1, 2, 3), rows(100, 101, 102, 103)
    for seed in range(8):
        moved = choose_held_out(queries, answers, content, queries, {n: f"q{n}" for n in range(4)}, 0.5, seed)
        assert (0 in moved) == (1 in moved)


def test_a_group_with_a_query_of_another_split_is_not_moved():
    pairs = [(0, 100), (1, 100), (2, 101), (3, 102)]
    for seed in range(8):
        assert 0 not in chosen(pairs, 0.7, seed, eligible=(0, 2, 3))


def test_related_rows_stay_together_by_chains_and_uncounted_rows_go_with_them():
    queries, answers = rows(0, 1, 2, 3, 50), rows(100, 101, 102, 103, 104)
    related = np.array([[0, 200], [200, 101], [50, 2]])
    for seed in range(8):
        moved = choose_held_out(
            queries, answers, np.arange(1000), queries, {int(n): f"q{n}" for n in queries}, 0.5, seed, related, uncounted=rows(50)
        )
        assert (0 in moved) == (1 in moved) and (2 in moved) == (50 in moved) and sum(row < 50 for row in moved) == 2


def test_the_smallest_group_is_taken_where_the_share_is_smaller_if_half_of_the_queries_are_left():
    assert len(chosen([(query, 100 + query // 2) for query in range(4)], 0.1)) == 2


def test_a_share_that_no_group_fits_is_refused():
    with pytest.raises(Refused, match=r"held_out is 0.2, 1 of 4 training queries.*the smallest group has 4; raise held_out"):
        chosen([(query, 100) for query in range(4)], 0.2)
