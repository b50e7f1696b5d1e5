"""A measure is named as ir-measures names it, and other spellings are read."""

import ir_measures
import pytest

from mirepoix.components.evaluation.scoring.measures import KINDS, Measure, deepest, measure, measures
from mirepoix.models.errors import Refused


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("nDCG@10", "nDCG@10"),
        ("ndcg@10", "nDCG@10"),
        ("ndcg_linear@5", "nDCG@5"),
        ("ndcg_exponential@5", "nDCG(dcg='exp-log2')@5"),
        ("nDCG(dcg='exp-log2')@5", "nDCG(dcg='exp-log2')@5"),
        ('nDCG(dcg="exp-log2")@5', "nDCG(dcg='exp-log2')@5"),
        ("nDCG(dcg='log2')@5", "nDCG@5"),
        ("mrr@10", "RR@10"),
        ("recall@5", "R@5"),
        ("hit@1", "Success@1"),
        ("hit_rate@20", "Success@20"),
        ("map@100", "AP@100"),
        ("precision@5", "P@5"),
        (" P@5 ", "P@5"),
    ],
)
def test_a_spelling_is_read_as_the_name_of_ir_measures(given, name):
    found = measure(given)
    assert found.name == name and measure(found.name) == found


@pytest.mark.parametrize("kind", KINDS)
def test_ir_measures_reads_every_name_and_writes_it_so(kind):
    for each in (Measure(kind, 7), Measure("nDCG", 7, exponential=True)):
        assert str(ir_measures.parse_measure(each.name)) == each.name


@pytest.mark.parametrize(
    "wrong", ["nDCG", "recall@0", "recall@", "F1@5", "R@5x", "RR(dcg='exp-log2')@5", "ndcg_linear(dcg='exp-log2')@5", "R@1000000", "", "@5"]
)
def test_what_is_no_measure_is_refused_with_what_there_is(wrong):
    with pytest.raises(Refused, match=r"evaluate.measures has .*; give one of nDCG@k, RR@k, R@k, P@k, Success@k, AP@k or nDCG\(dcg="):
        measures(["R@5", wrong], "evaluate.measures")


def test_a_measure_that_is_named_twice_is_one_and_the_deepest_decides():
    found = measures(["recall@5", "R@5", "RR@20"], "evaluate.measures")
    assert [each.name for each in found] == ["R@5", "RR@20"] and deepest(found) == 20
