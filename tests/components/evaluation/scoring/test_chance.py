"""What chance has is the mean over all orders of the candidates."""

import itertools

import pytest

from mirepoix.components.evaluation.scoring.chance import expected
from mirepoix.components.evaluation.scoring.measures import measure
from mirepoix.components.evaluation.scoring.metrics import per_query

NAMES = ["nDCG@3", "nDCG(dcg='exp-log2')@2", "RR@2", "RR@10", "R@2", "R@10", "P@3", "P@10", "Success@1", "Success@3", "AP@3", "AP@10"]


@pytest.mark.parametrize("grades", [[1], [1, 2], [3, 1, 1], [1] * 6, []])
@pytest.mark.parametrize("elsewhere", [[], [2], [1, 3]])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_mean_of_the_measure_over_all_orders(grades, elsewhere, name):
    orders = sorted(set(itertools.permutations([*grades, *[0] * (6 - len(grades))])))
    weights = len(list(itertools.permutations(range(6)))) / len(orders)  # each distinct order stands for equally many
    values = per_query([measure(name)], orders, [[*grades, *elsewhere]] * len(orders))[measure(name).name]
    assert weights >= 1 and expected(measure(name), 6, grades, [*grades, *elsewhere]) == pytest.approx(values.mean(), abs=1e-12)


def test_values_worked_by_hand():
    # One of four candidates is relevant.
    found = {name: expected(measure(name), 4, [1], [1]) for name in ("Success@1", "RR@10", "R@2", "P@2")}
    assert found == pytest.approx({"Success@1": 1 / 4, "RR@10": (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, "R@2": 1 / 2, "P@2": 1 / 4})


def test_no_candidates_have_nothing():
    assert expected(measure("R@5"), 0, [], [1]) == 0
