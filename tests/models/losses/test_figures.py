"""Figures of rows, by numbers worked out by hand; that they are right on several ranks is tested with the losses."""

import pytest
import torch

from mirepoix.models.losses.figures import FIGURES, RowStatistics, contrast_of


def test_figures_are_means_over_rows_and_modalities_count_rows():
    rows = RowStatistics.of(
        torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.4, 0.3], [0.0, 0.0, 0.7]]),
        torch.tensor([[False, True, True], [True, False, False], [False, False, False]]),
        torch.tensor([[False, False, False], [False, False, True], [False, False, False]]),
        torch.tensor([0, 1, 2]),
        torch.tensor([2, 2, 2]),
    )
    contrast = contrast_of(torch.tensor(1.5), rows, torch.tensor([1, 1, 6]), 3, torch.tensor(0), 20.0)
    assert {name: float(getattr(contrast, name)) for name in FIGURES} == pytest.approx(
        {
            "loss": 1.5,
            "accuracy": 1 / 2,  # the third row has no negative
            "positive_similarity": (0.5 + 0.4 + 0.7) / 3,
            "negative_similarity": (0.1 + 0.9 + 0.2) / 3,
            "effective_negatives": 1.0,
            "share_masked": (0 + 1 / 2 + 1) / 3,
            "masked_by_margin": 1 / 3,
            "temperature": 0.05,
            "rows_without_negatives": 1.0,
            "rows_without_teacher": 0.0,
        }
    )
    assert contrast.modalities_C2.tolist() == [[0, 0], [2, 0], [0, 0], [0, 0], [0, 0], [0, 0], [1, 1], [0, 0]]
