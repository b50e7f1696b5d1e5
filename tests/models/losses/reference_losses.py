"""Helpers of the tests of the losses: random batches, and the loss as in the papers, in loops over single numbers."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F

from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import Vectors
from tests.keys import filled

D = 5


def vectors(count: int, rows: int = 1, seed: int = 0) -> Vectors:
    """Random vectors in float64 that require gradients; with several rows, some of them padding."""
    draw = torch.Generator().manual_seed(seed)
    rows_NTD = F.normalize(torch.randn(count, rows, D, generator=draw, dtype=torch.float64), dim=-1)
    mask_NT = torch.rand(count, rows, generator=draw) < 0.7
    mask_NT[:, 0] = True
    return Vectors((rows_NTD * mask_NT[..., None]).requires_grad_(), mask_NT)


def toy(pairs: int, negatives: int = 0, rows: int = 1, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Queries, and documents with so many hard negatives a pair."""
    return vectors(pairs, rows, seed), vectors(pairs * (1 + negatives), rows, seed + 1000)


def labels(
    codes: Sequence[int],
    counts: Sequence[int] | None = None,
    keys: Sequence[int | tuple[int, ...]] | None = None,
    scores: Sequence[float] | None = None,
    relevant: Sequence[set[int]] | None = None,
) -> Labels:
    """Labels of as many pairs as counts, or as codes; by default without hard negatives, equal documents or a teacher.

    Codes may be given for the positives alone: a hard negative then has the modality of its pair's positive.
    """
    counts = [0] * len(codes) if counts is None else counts
    documents = len(counts) + sum(counts)
    if len(codes) == len(counts):
        codes = [*codes, *(code for code, count in zip(codes, counts, strict=True) for _ in range(count))]
    return Labels(
        counts_B=torch.tensor(counts),
        codes_M=torch.tensor(codes),
        keys_MH=(torch.arange(documents) if keys is None else torch.tensor(keys)).reshape(documents, -1),
        scores_M=torch.full((documents,), math.nan) if scores is None else torch.tensor(scores),
        relevant_BR=None if relevant is None else filled(relevant),
    )


class Paper:
    """The loss of a batch, written down from the definition."""

    def __init__(self, queries: Vectors, documents: Vectors, batch_labels: Labels, objective: Objective, scale: torch.Tensor | float):
        self.queries, self.documents = queries, documents
        self.codes, self.keys, self.teacher = batch_labels.codes_M.tolist(), batch_labels.keys_MH.tolist(), batch_labels.scores_M.tolist()
        self.relevant = None if batch_labels.relevant_BR is None else [set(row) for row in batch_labels.relevant_BR.tolist()]
        self.objective, self.scale = objective, scale
        self.pairs = range(len(queries))
        self.own: list[list[int]] = []
        place = len(queries)
        for count in batch_labels.counts_B.tolist():
            self.own.append(list(range(place, place + count)))
            place += count
        self.similarity, self.rows, self.negatives = cache(self._similarity), cache(self._rows), cache(self._negatives)

    def _rows(self, vectors: Vectors, item: int, width: int) -> list[torch.Tensor]:
        rows = [vectors.rows_NTD[item, t] for t in range(vectors.mask_NT.shape[1]) if vectors.mask_NT[item, t]]
        return rows if width == D else [row[:width] / (row[:width] @ row[:width]).sqrt() for row in rows]

    def _similarity(self, query: int, document: int, width: int = D) -> torch.Tensor:
        found = self.rows(self.documents, document, width)
        return sum(torch.stack([asked @ row for row in found]).max() for asked in self.rows(self.queries, query, width))

    def likely(self, query: int, document: int) -> bool:
        margin = self.objective.margin
        return margin is not None and self.similarity(query, document).item() > self.similarity(query, query).item() + margin

    def candidate(self, query: int, document: int) -> bool:
        """Whether it would be a negative, whatever its score."""
        if document == query or (not self.objective.in_batch and document not in self.own[query]):
            return False
        if self.objective.modality_mask and self.codes[query] != self.codes[document]:
            return False
        return self.relevant is None or not self.relevant[query].intersection(self.keys[document])

    def _negatives(self, query: int) -> list[int]:
        return [j for j in range(len(self.documents)) if self.candidate(query, j) and not self.likely(query, j)]

    def cross_entropy(self, own: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        weights = [math.exp(self.objective.hardness * other.item()) for other in others]
        whole = (own * self.scale).exp()
        for weight, other in zip(weights, others, strict=True):
            whole = whole + weight / (sum(weights) / len(weights)) * (other * self.scale).exp()
        return -((own * self.scale).exp() / whole).log()

    def contrast(self, width: int) -> torch.Tensor:
        def mean(directions: list[list[int]], score: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
            return sum(self.cross_entropy(score(i, i), [score(i, j) for j in directions[i]]) for i in self.pairs) / len(self.pairs)

        negatives = [self.negatives(i) for i in self.pairs]
        found = mean(negatives, lambda i, j: self.similarity(i, j, width))
        if not self.objective.symmetric:
            return found
        query_negatives = [[q for q in self.pairs if i in negatives[q]] for i in self.pairs]
        return (found + mean(query_negatives, lambda i, j: self.similarity(j, i, width))) / 2

    def taught(self) -> list[int]:
        return [i for i in self.pairs if self.own[i] and not any(math.isnan(self.teacher[j]) for j in [i, *self.own[i]])]

    def distilled(self, width: int) -> torch.Tensor | float:
        total: torch.Tensor | float = 0.0
        for i in self.taught():
            found = [self.similarity(i, j, width) for j in [i, *self.own[i]]]
            teacher_scores = [self.teacher[j] / self.objective.teacher_temperature for j in [i, *self.own[i]]]
            if self.objective.distillation == "kl":
                whole = sum((score * self.scale).exp() for score in found)
                for score, wanted in zip(
                    found, [math.exp(score) / sum(map(math.exp, teacher_scores)) for score in teacher_scores], strict=True
                ):
                    total = total + wanted * (math.log(wanted) - ((score * self.scale).exp() / whole).log())
            else:
                errors = [((found[0] - found[k]) - (teacher_scores[0] - teacher_scores[k])) ** 2 for k in range(1, len(found))]
                total = total + sum(errors) / len(errors)
        return total / max(1, len(self.taught()))

    def loss(self) -> torch.Tensor:
        losses = []
        for width in (D, *self.objective.widths):
            loss = self.contrast(width)
            if self.objective.distillation != "none":
                share = self.objective.distillation_weight
                loss = (1 - share) * loss + share * self.distilled(width)
            losses.append(loss)
        return sum(losses) / len(losses)
