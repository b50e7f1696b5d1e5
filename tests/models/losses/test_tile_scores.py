"""Scores of a tile are MaxSim, and so are their gradients, where rows are best together too."""

import torch

from mirepoix.models.losses.tile_scores import add_gradients, tile_scores
from mirepoix.models.vectors import Vectors, maxsim


def test_document_rows_that_are_best_together_have_equal_shares_of_the_gradient():
    query_rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 0.0]]], requires_grad=True)
    document_rows = torch.tensor([[[0.8, 0.6], [0.8, -0.6], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]], requires_grad=True)
    queries = Vectors(query_rows, torch.tensor([[True, True], [True, False]]))
    documents = Vectors(document_rows, torch.tensor([[True, True, False], [True, True, True]]))
    gradient = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    expected = torch.autograd.grad((maxsim(queries, documents) * gradient).sum(), [query_rows, document_rows])
    with torch.no_grad():
        scores = tile_scores(queries, documents)
        torch.testing.assert_close(scores.scores_IJ, torch.tensor([[0.8 + 0.6, 1.0 + 1.0], [0.6 * 0.8 + 0.8 * 0.6, 1.0]]))
        found = torch.ones_like(query_rows), torch.zeros_like(document_rows)
        add_gradients(gradient, scores, queries, documents, *found)
    torch.testing.assert_close(found[0], expected[0] + 1)  # it is added to what is there
    torch.testing.assert_close(found[1], expected[1])
    first_row = [0.5 + 3 * 0.6, 1.0 + 3 * 0.8], [0.5, 0.0], [0.0, 0.0]  # a half each of the first query's first row; the rest is one's
    torch.testing.assert_close(found[1][0], torch.tensor(first_row))
