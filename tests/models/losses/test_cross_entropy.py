"""The cross-entropy of rows of scores, by numbers worked out by hand."""

import math

import pytest
import torch

from mirepoix.models.losses.cross_entropy import cross_entropy, likely_answers

SCORES = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.4, 0.3]])
PLACES = torch.tensor([0, 1])


def test_it_is_the_sum_over_rows_of_the_positive_against_the_unmasked_negatives():
    negative = torch.tensor([[False, True, False], [False, False, False]])
    assert cross_entropy(SCORES, negative, PLACES, 10.0, 0.0).item() == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)
    negative[1] = torch.tensor([True, False, True])
    second = math.log(1 + math.exp(-2) + math.exp(-1))
    assert cross_entropy(SCORES, negative, PLACES, 10.0, 0.0).item() == pytest.approx(math.log(1 + math.exp(-4)) + second, rel=1e-5)
    weights = math.exp(0.2 * 3), math.exp(0.3 * 3)
    hard = sum(2 * weight / sum(weights) * math.exp(logit) for weight, logit in zip(weights, (-2, -1), strict=True))
    assert cross_entropy(SCORES, negative, PLACES, 10.0, 3.0).item() == pytest.approx(
        math.log(1 + math.exp(-4)) + math.log(1 + hard), rel=1e-5
    )


def test_a_likely_answer_scores_above_the_positive_by_more_than_the_margin():
    assert likely_answers(SCORES, torch.tensor([0.5, 0.4]), 0.2).tolist() == [[False, False, True], [False] * 3]
    assert likely_answers(SCORES, torch.tensor([0.5, 0.4]), -0.15).tolist() == [[True, False, True], [False, True, True]]
    assert not likely_answers(SCORES, torch.tensor([0.5, 0.4]), None).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", [0.7, -0.7, 40.0])
def test_what_is_above_the_margin_by_no_more_than_rounding_is_no_likely_answer(positive, dtype):
    unit = torch.finfo(dtype).eps * max(1, abs(positive))
    scores = torch.tensor([[positive + 0.25 + units * unit for units in (-100, 0, 5, 100)]], dtype=dtype)
    assert likely_answers(scores, torch.tensor([positive], dtype=dtype), 0.25).tolist() == [[False, False, False, True]]
