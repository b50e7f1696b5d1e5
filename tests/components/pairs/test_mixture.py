"""Weights of sources and tasks: the last matching entry, whole parts as repeats, fractions drawn by seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.pairs.mixture import repeats, report, resolve_weights
from mirepoix.models.errors import Refused

GROUPS = {("coco", "t->i"), ("coco", "i->t"), ("web", "it->t")}


def test_the_last_matching_entry_counts_and_without_one_the_weight_is_1():
    assert resolve_weights(["*:*->t=3", "coco=2", "coco:i->t=0.5"], GROUPS) == {
        ("coco", "t->i"): 2,
        ("coco", "i->t"): 0.5,
        ("web", "it->t"): 3,
    }
    assert set(resolve_weights([], GROUPS).values()) == {1.0}


def test_an_entry_that_matches_nothing_is_refused_with_the_groups_there_are():
    with pytest.raises(Refused, match=r"'coco:it->t=2', which matches no pair to train on; there are coco:i->t, coco:t->i, web:it->t"):
        resolve_weights(["coco=1", "coco:it->t=2"], GROUPS)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), weight=st.floats(0, 3.5), seed=st.integers(0, 5))
def test_repeats_of_a_group_differ_by_at_most_one_and_sum_to_the_weight(sizes, weight, seed):
    groups = [(f"s{n}", "t->t") for n, size in enumerate(sizes) for _ in range(size)]
    weights = {group: weight if group[0] == "s0" else 1.0 for group in groups}
    counts = repeats(groups, weights, seed)
    own = [count for group, count in zip(groups, counts.tolist(), strict=True) if group[0] == "s0"]
    assert max(own) - min(own) <= 1 and abs(sum(own) - weight * sizes[0]) <= 0.5 + 1e-9
    assert set(counts[sizes[0] :].tolist()) <= {1}
    assert counts.tolist() == repeats(groups, weights, seed).tolist()


def test_draws_depend_on_the_seed():
    groups = [("s", "t->t")] * 50
    drawn = {tuple(repeats(groups, {("s", "t->t"): 0.5}, seed).tolist()) for seed in range(4)}
    assert len(drawn) == 4 and all(Counter(counts) == {0: 25, 1: 25} for counts in drawn)


def test_the_report_has_a_row_for_each_source_and_task():
    groups = [("b", "t->t"), ("a", "t->t"), ("b", "t->t")]
    assert report("adapt", groups, repeats(groups, {("a", "t->t"): 2.0, ("b", "t->t"): 0.0}, 0)) == [
        {"stage": "adapt", "source": "a", "task": "t->t", "before": 1, "after": 2},
        {"stage": "adapt", "source": "b", "task": "t->t", "before": 2, "after": 0},
    ]
