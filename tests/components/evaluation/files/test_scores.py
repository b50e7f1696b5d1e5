"""Scores are worked by hand, have the names of ir-measures, and count every judged query once."""

import math

import pytest

from mirepoix.components.evaluation.files import scores
from mirepoix.components.evaluation.files.runs import Ranking
from mirepoix.components.evaluation.files.scores import score
from mirepoix.components.evaluation.scoring.measures import Measure, measure


def measures(*names: str) -> list[Measure]:
    return [measure(name) for name in names]


RUN = [
    Ranking("first", ["a", "b", "c"], [3.0, 2.0, 1.0]),
    Ranking("third", ["x", "y", "c"], [0.3, 0.2, 0.1]),
    Ranking("asked", ["a"], [1.0]),
]
QRELS = {"first": {"a": 2, "c": 1, "z": 1}, "third": {"c": 1}, "absent": {"a": 1}}


def test_each_measure_is_that_of_trec_eval():
    found = score(RUN, QRELS, measures("nDCG@3", "R@3", "P@2", "Success@1", "RR@2", "RR@3", "AP@3", "AP@1"))
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    expected = {"nDCG@3": 2.5 / ideal, "R@3": 2 / 3, "P@2": 1 / 2, "Success@1": 1, "RR@2": 1, "RR@3": 1}
    assert found.queries["first"] == pytest.approx(expected | {"AP@3": (1 + 2 / 3) / 3, "AP@1": 1 / 3})
    expected = {"nDCG@3": 1 / 2, "R@3": 1, "P@2": 0, "Success@1": 0, "RR@2": 0, "RR@3": 1 / 3}
    assert found.queries["third"] == pytest.approx(expected | {"AP@3": 1 / 3, "AP@1": 0})


def test_a_judged_query_that_the_run_lacks_counts_as_0_and_an_unjudged_one_does_not_count():
    found = score(RUN, QRELS, measures("RR@10", "Success@1"))
    assert found.means == pytest.approx({"RR@10": (1 + 1 / 3 + 0) / 3, "Success@1": 1 / 3})
    assert list(found.queries) == ["first", "third", "absent"] and found.queries["absent"] == {"RR@10": 0.0, "Success@1": 0.0}
    assert (found.missing, found.unjudged) == (1, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_queries_are_scored_in_batches_of_any_size(size, monkeypatch):
    whole = score(RUN, QRELS, measures("nDCG@10", "R@1"))
    monkeypatch.setattr(scores, "BATCH", size)
    assert score(iter(RUN), QRELS, measures("nDCG@10", "R@1")) == whole
