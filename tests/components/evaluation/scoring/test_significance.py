"""An interval gives the uncertainty of a mean, and a paired test that of a difference."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.evaluation.scoring import significance
from mirepoix.components.evaluation.scoring.significance import corrected, interval, paired_test

groups = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=40), min_size=1, max_size=5)


@given(groups, st.integers(0, 9))
def test_an_interval_holds_the_mean_and_is_the_same_for_the_same_seed(values, seed):
    low, high = interval(values, 500, seed)
    mean = np.mean([np.mean(group) for group in values])
    assert low - 1e-9 <= mean <= high + 1e-9
    assert (low, high) == interval(values, 500, seed)


def test_another_seed_draws_others():
    values = [list(np.linspace(0, 1, 30))]
    assert interval(values, 200, 0) != interval(values, 200, 1)


def test_more_queries_make_it_narrower_as_their_root():
    random = np.random.default_rng(0)
    widths = {}
    for count in (25, 100, 400):
        low, high = interval([random.integers(0, 2, count).tolist()], 2000, 0)
        widths[count] = high - low
        assert widths[count] == pytest.approx(2 * 1.96 * 0.5 / count**0.5, rel=0.2)
    assert widths[25] > widths[100] > widths[400]


def test_equal_queries_leave_no_doubt():
    assert interval([[0.25] * 10, [0.75] * 4], 100, 0) == pytest.approx((0.5, 0.5))


def test_groups_count_alike_however_many_queries_they_have():
    low, high = interval([[1.0] * 1000, [0.0] * 10], 100, 0)
    assert (low, high) == pytest.approx((0.5, 0.5))


def test_what_is_drawn_at_a_time_decides_nothing(monkeypatch):
    values, differences = [list(np.linspace(0, 1, 30))], [list(np.linspace(-0.4, 1, 30))]
    whole = interval(values, 200, 0), paired_test(differences, 200, 0)
    monkeypatch.setattr(significance, "AT_ONCE", 100)
    assert (interval(values, 200, 0), paired_test(differences, 200, 0)) == whole


def test_a_p_value_is_the_share_of_all_swaps_that_are_as_far_from_zero():
    differences = [0.5, 0.25, -0.125, 0.5, 0.125, 0.0, 0.375]
    means = [
        np.mean([sign * value for sign, value in zip(signs, differences, strict=True)]) for signs in itertools.product((1, -1), repeat=7)
    ]
    exact = np.mean(np.abs(means) >= abs(np.mean(differences)) - 1e-12)
    assert paired_test([differences], 50_000, 0) == pytest.approx(exact, abs=0.01) and 0.03 < exact < 0.2


def test_equal_systems_have_a_p_value_of_one_and_far_ones_the_least_that_the_draws_allow():
    assert paired_test([[0.0] * 5, [0.0]], 100, 0) == 1.0
    assert paired_test([[1.0] * 50], 999, 0) == pytest.approx(1 / 1000)


def test_p_values_of_equal_systems_are_spread_evenly():
    random = np.random.default_rng(3)
    found = [paired_test([random.normal(size=40)], 400, seed) for seed in range(200)]
    assert np.mean(np.array(found) <= 0.05) < 0.1 and 0.4 < np.mean(found) < 0.6


def test_holms_correction_worked_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5, none below the one before.
    assert corrected([0.02, 0.01, 0.5, 0.03]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert corrected([0.9, 0.8]) == [1.0, 1.0] and corrected([]) == []
