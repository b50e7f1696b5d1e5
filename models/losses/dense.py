"""The contrast with the documents of all ranks, from all scores at once: its memory grows with the square of the batch.

It is the reference that `tiled.py` is tested against, and is used for small batches, where it is faster.

Shapes: B pairs of this rank, P pairs of all ranks, N documents of all ranks, U unique hashes of these, H hashes of a document, R hashes of
what is known to answer a query.
"""

import torch

from mirepoix.models.losses.collectives import gather, gather_vectors, rank_and_world, sizes
from mirepoix.models.losses.cross_entropy import cross_entropy, likely_answers
from mirepoix.models.losses.figures import RowStatistics
from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.pool import Pool
from mirepoix.models.vectors import Vectors, maxsim


def dense_contrast(
    queries: Vectors, documents: Vectors, pool: Pool, labels: Labels, objective: Objective, scale: torch.Tensor | float
) -> tuple[torch.Tensor, RowStatistics]:
    """The loss of this rank's queries with all documents and, if symmetric, of this rank's positives with all queries."""
    pairs, positives = len(queries), documents[: len(queries)]
    all_queries = gather_vectors(queries, pool.sizes.pairs, max(pool.sizes.query_rows)) if objective.symmetric else queries

    def scored(width: int) -> list[torch.Tensor]:
        """Scores of every query with every document and, if symmetric, of every positive of this rank with every query."""
        own_queries, found, asking, own_positives = (
            vectors if width == vectors.width else vectors.truncated(width) for vectors in (queries, pool.documents, all_queries, positives)
        )
        return [maxsim(own_queries, found), *([maxsim(asking, own_positives).T] if objective.symmetric else [])]

    whole = scored(queries.width)
    positive_B = whole[0].detach().gather(1, pool.place_B[:, None])[:, 0]
    negative_BN = _document_negatives(pool, labels, objective)
    likely_BN = negative_BN & likely_answers(whole[0], positive_B, objective.margin)
    negatives, places = [negative_BN & ~likely_BN], [pool.place_B]
    if objective.symmetric:
        likely_BP = likely_answers(whole[1].T, gather(positive_B, pool.sizes.pairs), objective.margin).T
        negatives.append(_query_negatives(pool, labels, objective) & ~likely_BP)
        places.append(torch.arange(pool.first, pool.first + pairs, device=positive_B.device))
    losses = [
        torch.stack([cross_entropy(*each, scale, objective.hardness) for each in zip(scores, negatives, places, strict=True)]).mean()
        for scores in (whole, *map(scored, objective.widths))
    ]
    loss = torch.stack(losses).mean() * rank_and_world()[1] / sum(pool.sizes.pairs)
    candidates_B = torch.full_like(pool.place_B, len(pool.documents) - 1)
    return loss, RowStatistics.of(whole[0], negatives[0], likely_BN, pool.place_B, candidates_B)


def _document_negatives(pool: Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, N] True where a document is a negative of a query, before scores are looked at."""
    pairs, device = len(labels.counts_B), labels.counts_B.device
    negative_BN = torch.arange(len(pool.documents), device=device) != pool.place_B[:, None]
    if objective.modality_mask:
        negative_BN &= labels.codes_M[:pairs, None] == pool.codes_N
    if labels.relevant_BR is not None:
        negative_BN &= ~_known_answers(labels.relevant_BR, pool.keys_NH)
    return negative_BN


def _query_negatives(pool: Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, P] True where query p of all ranks is a negative of positive b of this rank."""
    pairs = len(labels.counts_B)
    negative_BP = pool.place_B[:, None] != pool.place_P
    if objective.modality_mask:
        negative_BP &= labels.codes_M[:pairs, None] == pool.codes_N[pool.place_P]
    if labels.relevant_BR is not None:
        negative_BP &= ~_known_answers(_gather_padded(labels.relevant_BR, pool), labels.keys_MH[:pairs]).T
    return negative_BP


def _known_answers(relevant_BR: torch.Tensor, keys_NH: torch.Tensor) -> torch.Tensor:
    """[B, N] True where a document is known to answer a query."""
    keys_U, place_NH = keys_NH.unique(return_inverse=True)
    nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
    hits_BU = torch.zeros(len(relevant_BR), len(keys_U), dtype=torch.int64, device=keys_NH.device)
    hits_BU.scatter_add_(1, nearest_BR, (keys_U[nearest_BR] == relevant_BR).long())
    return (hits_BU > 0)[:, place_NH].any(-1)


def _gather_padded(relevant_BR: torch.Tensor, pool: Pool) -> torch.Tensor:
    """The rows of all ranks, padded to the width of the widest by repeating each row's first hash."""
    (widths,) = sizes(relevant_BR.shape[1], device=relevant_BR.device)
    padding = relevant_BR[:, :1].expand(-1, max(widths) - relevant_BR.shape[1])
    return gather(torch.cat([relevant_BR, padding], 1), pool.sizes.pairs)
