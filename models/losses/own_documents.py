"""Each query with its pair's own documents alone: the contrast without other pairs, and the distillation of a teacher's scores.

Shapes: B pairs of this rank, M documents of this rank, K documents of one pair, the positive first; W widths, H hashes of a document, U
unique ones, R hashes of what is known to answer a query, S rows of a query, T rows of a document, D width.
"""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from mirepoix.models.losses.collectives import rank_and_world, total
from mirepoix.models.losses.cross_entropy import cross_entropy, likely_answers
from mirepoix.models.losses.figures import RowStatistics
from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import BLOCK, Vectors


def paired_scores(queries: Vectors, documents: Vectors) -> torch.Tensor:
    """The MaxSim of each query with the document at its place."""
    if queries.rows_NTD.shape[1] == 1 and documents.rows_NTD.shape[1] == 1:
        return (queries.rows_NTD[:, 0] * documents.rows_NTD[:, 0]).sum(-1)
    size = max(1, BLOCK // (queries.rows_NTD.shape[1] * documents.rows_NTD.shape[1]))
    if size >= len(queries):
        return _summed(queries, documents)
    blocks = [slice(start, start + size) for start in range(0, len(queries), size)]
    return torch.cat([checkpoint(_summed, queries[b], documents[b], use_reentrant=False, preserve_rng_state=False) for b in blocks])


def _summed(queries: Vectors, documents: Vectors) -> torch.Tensor:
    scores_MST = torch.einsum("msd,mtd->mst", queries.rows_NTD, documents.rows_NTD)
    best_MS = scores_MST.masked_fill(~documents.mask_NT[:, None], float("-inf")).amax(-1)
    return best_MS.masked_fill(~queries.mask_NT, 0.0).sum(1)


@dataclass(frozen=True)
class OwnDocuments:
    """The queries and documents of this rank, and the positions of each pair's documents among these."""

    queries: Vectors
    documents: Vectors
    pair_M: torch.Tensor  # the pair of each document
    place_BK: torch.Tensor
    real_BK: torch.Tensor  # False is padding: pairs differ in their number of documents

    @classmethod
    def of(cls, queries: Vectors, documents: Vectors, labels: Labels) -> "OwnDocuments":
        pairs, counts_B = len(queries), labels.counts_B
        row_B, column_K = torch.arange(pairs, device=counts_B.device), torch.arange(1 + int(counts_B.max()), device=counts_B.device)
        real_BK = column_K <= counts_B[:, None]
        place_BK = (pairs - 1 + counts_B.cumsum(0) - counts_B)[:, None] + column_K
        place_BK[:, 0] = row_B
        return cls(queries, documents, torch.cat([row_B, row_B.repeat_interleave(counts_B)]), place_BK.where(real_BK, 0), real_BK)

    def scored(self, width: int) -> torch.Tensor:
        """[B, K] scores at the first dimensions; padding has any."""
        queries, documents = (vectors if width == vectors.width else vectors.truncated(width) for vectors in (self.queries, self.documents))
        return paired_scores(queries[self.pair_M], documents)[self.place_BK]


def own_contrast(
    own: OwnDocuments, labels: Labels, objective: Objective, scale: torch.Tensor | float, pairs: int
) -> tuple[torch.Tensor, RowStatistics]:
    """InfoNCE of each query with its own documents (UniVL-DR's second stage); `pairs` is the number of pairs of all ranks."""
    place_B = torch.zeros_like(labels.counts_B)
    negative_BK = own.real_BK.clone()
    negative_BK[:, 0] = False
    if labels.relevant_BR is not None:
        negative_BK &= ~_known_answers(labels.relevant_BR, labels.keys_MH, own.pair_M)[own.place_BK]
    whole_BK = own.scored(own.queries.width)
    likely_BK = negative_BK & likely_answers(whole_BK, whole_BK[:, 0], objective.margin)
    negative_BK = negative_BK & ~likely_BK
    scores = [whole_BK, *map(own.scored, objective.widths)]
    losses = [cross_entropy(scores_BK, negative_BK, place_B, scale, objective.hardness) for scores_BK in scores]
    loss = torch.stack(losses).mean() * rank_and_world()[1] / pairs
    return loss, RowStatistics.of(whole_BK, negative_BK, likely_BK, place_B, labels.counts_B)


def _known_answers(relevant_BR: torch.Tensor, keys_MH: torch.Tensor, pair_M: torch.Tensor) -> torch.Tensor:
    """[M] True where a document is known to answer the query of its own pair."""
    keys_U, key_MH = keys_MH.unique(return_inverse=True)
    nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
    row_B = torch.arange(len(relevant_BR), device=pair_M.device)
    known = (row_B[:, None] * len(keys_U) + nearest_BR)[keys_U[nearest_BR] == relevant_BR]
    return torch.isin(pair_M[:, None] * len(keys_U) + key_MH, known).any(1)


def distillation(own: OwnDocuments, labels: Labels, objective: Objective, scale: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each query's scores of its own documents against a teacher's, a mean over all widths; and how many rows it leaves out.

    It leaves out a pair of which a score is missing, or that has no hard negative.

    "kl": KL divergence of the softmax of similarities from that of the teacher's scores, each at its own temperature. "margin_mse": squared
    error of the difference between positive and negative, a mean over a pair's negatives (Hofstaetter et al., 2020); chosen here: of
    similarities that are not scaled, so `teacher_temperature` has to bring the teacher's scores to their range.
    """
    scores_BK = labels.scores_M[own.place_BK]
    complete_B = (labels.counts_B > 0) & ~(scores_BK.isnan() & own.real_BK).any(1)
    teacher_BK = scores_BK.where(own.real_BK & complete_B[:, None], 0.0)
    widths = (own.queries.width, *objective.widths)
    row_WB = [_divergence(own.scored(width), teacher_BK, own.real_BK, objective, scale) for width in widths]
    loss = torch.stack(row_WB).mean(0).masked_fill(~complete_B, 0.0).sum()
    return loss * rank_and_world()[1] / total(complete_B.sum()).clamp(min=1), (~complete_B).sum()


def _divergence(
    student_BK: torch.Tensor, scores_BK: torch.Tensor, real_BK: torch.Tensor, objective: Objective, scale: torch.Tensor | float
) -> torch.Tensor:
    """[B] the student's distance from its teacher."""
    teacher_BK = scores_BK.to(student_BK.dtype) / objective.teacher_temperature
    if objective.distillation == "kl":
        target_BK = teacher_BK.masked_fill(~real_BK, float("-inf")).softmax(1)
        predicted_BK = (student_BK * scale).masked_fill(~real_BK, float("-inf")).log_softmax(1).masked_fill(~real_BK, 0.0)
        return (torch.xlogy(target_BK, target_BK) - target_BK * predicted_BK).sum(1)
    error_BK = (student_BK[:, :1] - student_BK) - (teacher_BK[:, :1] - teacher_BK)  # the positive's is zero
    return (error_BK.square() * real_BK).sum(1) / (real_BK.sum(1) - 1).clamp(min=1)
