"""Scores of a tile, and how the vectors are moved by a gradient of them.

Shapes: I queries, J documents, S rows of a query, T rows of a document, D width.
"""

from typing import NamedTuple

import torch

from mirepoix.models.vectors import Vectors


class Scores(NamedTuple):
    """MaxSim of the queries of a tile with its documents."""

    scores_IJ: torch.Tensor
    rows_ISJT: torch.Tensor | None  # the scores of their rows, where an item has several


def tile_scores(queries: Vectors, documents: Vectors) -> Scores:
    """Each query's sum over its rows of the best document row; with one row each, the dot product."""
    (many, asked, _), (some, found, _) = queries.rows_NTD.shape, documents.rows_NTD.shape
    flat_IJ = queries.rows_NTD.flatten(0, 1) @ documents.rows_NTD.flatten(0, 1).T
    if asked == found == 1:
        return Scores(flat_IJ, None)
    rows_ISJT = flat_IJ.view(many, asked, some, found).masked_fill_(~documents.mask_NT, float("-inf"))
    return Scores(rows_ISJT.amax(-1).masked_fill_(~queries.mask_NT[:, :, None], 0.0).sum(1), rows_ISJT)


def add_gradients(
    gradient_IJ: torch.Tensor, scores: Scores, queries: Vectors, documents: Vectors, query_ISD: torch.Tensor, document_JTD: torch.Tensor
) -> None:
    """Adds what a gradient of the scores is for the vectors to those of these; the scores of rows are overwritten.

    Of document rows that are best together, each has an equal share, as `amax` gives it.
    """
    flat = gradient_IJ
    if scores.rows_ISJT is not None:
        rows_ISJT = scores.rows_ISJT
        best_ISJT = rows_ISJT.eq_(rows_ISJT.amax(-1, keepdim=True))
        of_row_ISJ1 = (gradient_IJ[:, None] * queries.mask_NT[:, :, None])[..., None] / best_ISJT.sum(-1, keepdim=True)
        flat = best_ISJT.mul_(of_row_ISJ1).flatten(2).flatten(0, 1)
    query_ISD.view(-1, queries.width).addmm_(flat, documents.rows_NTD.flatten(0, 1))
    document_JTD.view(-1, documents.width).addmm_(flat.T, queries.rows_NTD.flatten(0, 1))
