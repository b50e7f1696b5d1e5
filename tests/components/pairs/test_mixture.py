"""Weights of sources and tasks: the last entry that fits, whole parts as repeats, the rest drawn by seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.pairs.mixture import Weight, parsed, repeats, report, resolve_weights
from mirepoix.models.errors import Refused

GROUPS = {("coco", "t->i"), ("coco", "i->t"), ("web", "it->t")}


@pytest.mark.parametrize(
    ("entry", "weight"),
    [
        ("coco:t->i=2", Weight("coco", "t->i", 2.0)),
        ("*:it->t=0.5", Weight("*", "it->t", 0.5)),
        (" coco=.1 ", Weight("coco", "*", 0.1)),
        ("web*:*->t=1e1", Weight("web*", "*->t", 10.0)),
        ("a:b=1", Weight("a:b", "*", 1.0)),
        ("a:b:*=0", Weight("a:b", "*", 0.0)),
    ],
)
def test_an_entry_names_a_source_perhaps_a_task_and_a_weight(entry, weight):
    assert parsed(entry) == weight


@pytest.mark.parametrize("entry", ["coco", "=2", ":t->i=2", ""])
def test_a_malformed_entry_is_refused_with_the_form(entry):
    with pytest.raises(Refused, match=r"write SOURCE:TASK=WEIGHT"):
        parsed(entry)


@pytest.mark.parametrize("weight", ["", "two", "-1", "nan", "inf"])
def test_a_weight_that_is_no_number_of_0_or_more_is_refused(weight):
    with pytest.raises(Refused, match="give a number of 0 or more"):
        parsed(f"coco={weight}")


def test_the_last_entry_that_fits_counts_and_what_none_fits_stands_once():
    assert resolve_weights(["*:*->t=3", "coco=2", "coco:i->t=0.5"], GROUPS) == {
        ("coco", "t->i"): 2,
        ("coco", "i->t"): 0.5,
        ("web", "it->t"): 3,
    }
    assert set(resolve_weights([], GROUPS).values()) == {1.0}


def test_an_entry_that_fits_nothing_is_refused_with_what_there_is():
    with pytest.raises(Refused, match=r"'coco:it->t=2', which matches no pair to train on; there are coco:i->t, coco:t->i, web:it->t"):
        resolve_weights(["coco=1", "coco:it->t=2"], GROUPS)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), weight=st.floats(0, 3.5), seed=st.integers(0, 5))
def test_pairs_of_a_group_stand_as_often_as_each_other_but_for_one_and_as_often_as_their_weight_says(sizes, weight, seed):
    groups = [(f"s{n}", "t->t") for n, size in enumerate(sizes) for _ in range(size)]
    weights = {group: weight if group[0] == "s0" else 1.0 for group in groups}
    counts = repeats(groups, weights, seed)
    own = [count for group, count in zip(groups, counts.tolist(), strict=True) if group[0] == "s0"]
    assert max(own) - min(own) <= 1 and abs(sum(own) - weight * sizes[0]) <= 0.5 + 1e-9
    assert set(counts[sizes[0] :].tolist()) <= {1}
    assert counts.tolist() == repeats(groups, weights, seed).tolist()


def test_what_is_drawn_hangs_on_the_seed():
    groups = [("s", "t->t")] * 50
    drawn = {tuple(repeats(groups, {("s", "t->t"): 0.5}, seed).tolist()) for seed in range(4)}
    assert len(drawn) == 4 and all(Counter(counts) == {0: 25, 1: 25} for counts in drawn)


def test_the_report_has_a_row_for_each_source_and_task():
    groups = [("b", "t->t"), ("a", "t->t"), ("b", "t->t")]
    assert report("adapt", groups, repeats(groups, {("a", "t->t"): 2.0, ("b", "t->t"): 0.0}, 0)) == [
        {"stage": "adapt", "source": "a", "task": "t->t", "before": 1, "after": 2},
        {"stage": "adapt", "source": "b", "task": "t->t", "before": 2, "after": 0},
    ]
