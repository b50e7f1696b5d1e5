"""Values are those of pytrec_eval and ir-measures on graded rankings, and those worked by hand."""

import math
import re

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.components.evaluation.scoring.measures import Measure, measure
from mirepoix.components.evaluation.scoring.metrics import per_query
from mirepoix.models.errors import Refused

DEPTHS = (1, 3, 5, 10, 20)
NAMES = [f"{kind}@{depth}" for kind in ("nDCG", "RR", "R", "P", "Success", "AP") for depth in DEPTHS]
MEASURES = [measure(name) for name in NAMES]
ITEMS = [f"d{n}" for n in range(30)]
rankings = st.permutations(ITEMS).flatmap(lambda order: st.integers(1, len(order)).map(lambda k: order[:k]))
grades = st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 4), min_size=1).filter(lambda found: any(found.values()))
asked = st.lists(st.tuples(rankings, grades), min_size=1, max_size=4)


def values(runs, wanted=MEASURES):
    found = [[relevant.get(item, 0) for item in order] for order, relevant in runs]
    return per_query(wanted, found, [list(relevant.values()) for _, relevant in runs])


@given(asked)
@settings(deadline=None)
def test_pytrec_eval_gives_the_same_for_whole_ids(runs):
    named = {"nDCG": "ndcg_cut", "R": "recall", "P": "P", "Success": "success", "AP": "map_cut"}
    evaluator = pytrec_eval.RelevanceEvaluator(
        {f"q{n}": relevant for n, (_, relevant) in enumerate(runs)}, {f"{each}.{k}" for each in named.values() for k in DEPTHS}
    )
    theirs = evaluator.evaluate({f"q{n}": {item: -float(rank) for rank, item in enumerate(order)} for n, (order, _) in enumerate(runs)})
    ours = values(runs)
    for each in MEASURES:
        if each.kind != "RR":
            expected = [theirs[f"q{n}"][f"{named[each.kind]}_{each.depth}"] for n in range(len(runs))]
            assert ours[each.name] == pytest.approx(expected, abs=1e-12), each.name


@given(asked)
@settings(deadline=None, max_examples=25)
def test_ir_measures_gives_the_same(runs):
    qrels = [ir_measures.Qrel(f"q{n}", item, grade) for n, (_, relevant) in enumerate(runs) for item, grade in relevant.items()]
    run = [ir_measures.ScoredDoc(f"q{n}", item, -float(rank)) for n, (order, _) in enumerate(runs) for rank, item in enumerate(order)]
    ours = values(runs)
    theirs = {
        (str(row.measure), row.query_id): row.value for row in ir_measures.iter_calc(map(ir_measures.parse_measure, NAMES), qrels, run)
    }
    for name, found in ours.items():
        assert list(found) == pytest.approx([theirs[name, f"q{n}"] for n in range(len(runs))], abs=1e-12), name


@given(asked, st.integers(1, 20))
@settings(deadline=None)
def test_exponential_gain_is_two_to_the_grade_less_one(runs, depth):
    def dcg(ordered):
        return sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(ordered[:depth], 1))

    ours = values(runs, [Measure("nDCG", depth, exponential=True)])[f"nDCG(dcg='exp-log2')@{depth}"]
    for value, (order, relevant) in zip(ours, runs, strict=True):
        expected = dcg([relevant.get(item, 0) for item in order]) / dcg(sorted(relevant.values(), reverse=True))
        assert value == pytest.approx(expected, abs=1e-9)


def test_values_worked_by_hand():
    # Grades of the ranking 0, 2, 0, 1; relevant are 2, 1 and one of 3 that was not found.
    found = per_query(
        map(
            measure, ["nDCG@2", "nDCG(dcg='exp-log2')@2", "RR@1", "RR@10", "R@2", "R@10", "P@4", "P@10", "Success@1", "Success@2", "AP@10"]
        ),
        [[0, 2, 0, 1]],
        [[2, 1, 3]],
    )
    log3 = math.log2(3)
    assert {name: value for name, (value,) in found.items()} == pytest.approx(
        {
            "nDCG@2": (2 / log3) / (3 + 2 / log3),
            "nDCG(dcg='exp-log2')@2": (3 / log3) / (7 + 3 / log3),
            "RR@1": 0,
            "RR@10": 1 / 2,
            "R@2": 1 / 3,
            "R@10": 2 / 3,
            "P@4": 2 / 4,
            "P@10": 2 / 10,
            "Success@1": 0,
            "Success@2": 1,
            "AP@10": (1 / 2 + 2 / 4) / 3,
        }
    )


def test_a_query_without_answers_or_results_counts_as_zero():
    found = per_query(MEASURES, [[0, 0], [], [1]], [[], [1], [1]])
    assert all(list(value[:2]) == [0, 0] for value in found.values()) and found["nDCG@1"][2] == 1


def test_a_judged_grade_below_zero_is_none():
    assert per_query([measure("nDCG@5")], [[-1, 1]], [[1, -1]])["nDCG@5"][0] == pytest.approx(1 / math.log2(3))


@pytest.mark.parametrize(
    ("name", "grade", "most"),
    [
        ("nDCG@5", 2_000_000_000, "grades go up to 1,048,576"),
        ("nDCG(dcg='exp-log2')@5", 35, "grades go up to 20 where the gain is 2^g - 1"),
    ],
)
def test_a_grade_whose_gain_would_take_gigabytes_is_refused_for_ndcg_and_is_relevant_for_all_others(name, grade, most):
    with pytest.raises(Refused, match=re.escape(f"the grade {grade}, and for nDCG {most}")):
        per_query([measure(name)], [[grade]], [[grade, 1]])
    assert per_query([measure("R@5")], [[grade]], [[grade, 1]])["R@5"] == pytest.approx([0.5])


def test_the_largest_grade_of_exponential_gain_counts():
    assert per_query([measure("nDCG(dcg='exp-log2')@1")], [[19]], [[20, 19]]) == {
        "nDCG(dcg='exp-log2')@1": pytest.approx([(2**19 - 1) / (2**20 - 1)])
    }


def test_a_long_ranking_takes_its_ranks_from_numpy_arrays_too():
    found = np.zeros(1000, np.int32)
    found[999] = 1
    assert per_query([measure("R@1000"), measure("RR@999"), measure("RR@1000")], [found], [np.ones(1, np.int32)]) == {
        "R@1000": pytest.approx([1.0]),
        "RR@999": pytest.approx([0.0]),
        "RR@1000": pytest.approx([0.001]),
    }
