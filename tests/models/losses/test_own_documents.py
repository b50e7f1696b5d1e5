"""Scores of each query with one document; what is made of them is tested with the losses."""

import pytest
import torch

from mirepoix.models.losses import own_documents
from mirepoix.models.losses.own_documents import OwnDocuments, paired_scores
from mirepoix.models.vectors import maxsim
from tests.models.losses.reference_losses import labels, vectors


@pytest.mark.parametrize("block", [2**26, 12], ids=["at once", "two pairs at a time"])
@pytest.mark.parametrize("rows", [(1, 1), (1, 3), (2, 3)])
def test_the_score_of_a_pair_is_its_maxsim(rows, block, monkeypatch):
    monkeypatch.setattr(own_documents, "BLOCK", block)
    queries, documents = vectors(5, rows[0]), vectors(5, rows[1], seed=1)
    found, expected = paired_scores(queries, documents), maxsim(queries, documents).diagonal()
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    leaves = [queries.rows_NTD, documents.rows_NTD]
    for gradient, wanted in zip(*(torch.autograd.grad((each * weights).sum(), leaves) for each in (found, expected)), strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_each_pair_has_its_positive_first_and_then_its_own_hard_negatives():
    own = OwnDocuments.of(vectors(3), vectors(6, seed=1), labels([1] * 3, [2, 0, 1]))
    assert own.pair_M.tolist() == [0, 1, 2, 0, 0, 2]
    assert own.real_BK.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert own.place_BK.tolist() == [[0, 3, 4], [1, 0, 0], [2, 5, 0]]
