"""The loss over the global batch: every rank scores its own queries against the documents of all ranks.

Read `contrastive` first; it does four things, and the rest of the file stands in their order:

1. `_pooled`                 brings together what is scored: the positives of all ranks, then their hard negatives
2. `_negatives`, `_askers`   say which documents are negatives of which query, and which queries of which document
3. `_cross_entropy`          contrasts a row's positive with its negatives
4. `_lesson`, `_distilled`   bring what a teacher says of a pair's own documents

Shapes: B pairs of this rank, P pairs of all ranks, M documents of this rank: B positives, then the hard negatives of each pair in turn; N
documents that are scored against, K documents of one pair, H hashes of a document, R hashes of what is known to answer a query, T rows an
item, D width.

A mean is one over all ranks: what this rank has, over what there is everywhere, times the number of ranks. So the mean of this loss over
the ranks, and of its gradients, is that of one process with the whole batch, however unevenly what counts is spread.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F

from mirepoix.models.losses.collectives import gather, gather_vectors, rank_and_world, sizes, total
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import Vectors, maxsim


@dataclass(frozen=True)
class Labels:
    """What is known of a batch of pairs and of their documents."""

    counts_B: torch.Tensor  # how many hard negatives each pair has
    codes_M: torch.Tensor  # modality codes of the documents
    keys_MH: torch.Tensor  # content hashes of the documents, any of which tells that one is known: as it is, as this step sees it
    scores_M: torch.Tensor  # a teacher's scores of the documents, NaN where there is none
    relevant_BR: torch.Tensor | None = None  # hashes of what is known to answer each query, rows filled up with any of their own

    def to(self, device: torch.device) -> Self:
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None})


@dataclass(frozen=True)
class Contrast:
    """The loss of this rank, and detached figures that say whether it means anything, all of them of the whole width."""

    loss: torch.Tensor
    accuracy: torch.Tensor  # share of the rows with negatives whose positive beats all of these
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor  # over the negatives that count
    effective_negatives: torch.Tensor  # negatives that count, a row
    masked_by_margin: torch.Tensor  # documents that their score makes answers, a row
    temperature: torch.Tensor
    rows_without_negatives: torch.Tensor  # rows whose query has no negative, of this rank
    rows_without_teacher: torch.Tensor  # rows that distillation leaves out, of this rank


FIGURES = tuple(figure.name for figure in fields(Contrast))
COUNTS = tuple(name for name in FIGURES if name.startswith("rows_"))
"""The figures of which the ranks have a share each; of the others they have parts of a mean."""


def contrastive(queries: Vectors, documents: Vectors, labels: Labels, objective: Objective, scale: torch.Tensor | float) -> Contrast:
    """The loss of B queries with M documents, and its figures; `scale` is one over the temperature.

    InfoNCE, from query to document or in both directions. The modality mask (MAMCL) leaves a query the negatives alone whose modality is
    exactly its positive's, as the paper has it, hard ones as well, its own and other pairs'; UNITE's code leaves hard negatives unmasked on
    a path that its trainer cannot reach. What is known to answer a query, or scores as if it did, is no negative of it in either direction.
    Hard negatives have no query of their own, and stay out of the way from document to query.
    With `widths`, all of this is done at each, but for the choice of the negatives, which the whole vectors make (chosen here).
    """
    pairs = len(queries)
    pool = _pooled(queries, documents, labels, objective)
    label_B = pool.place_M[:pairs]

    def scored(width: int) -> list[torch.Tensor]:
        """Every query with every document; and, if that is contrasted, every positive of this rank with every query."""
        asked, found, asking, positives = (
            vectors if width == vectors.width else vectors.truncated(width)
            for vectors in (queries, pool.documents, pool.queries, documents[:pairs])
        )
        return [maxsim(asked, found), *([maxsim(asking, positives).T] if objective.symmetric else [])]

    whole = scored(queries.width)
    positive_B = whole[0].detach().gather(1, label_B[:, None])[:, 0]
    counts_BN = _negatives(pool, labels, objective)
    likely_BN = counts_BN & _likely(whole[0], positive_B[:, None], objective)
    counts = [counts_BN & ~likely_BN]
    if objective.symmetric:
        counts.append(_askers(pool, labels, objective) & ~_likely(whole[1], gather(positive_B)[None], objective))
    lesson = _lesson(pool, labels) if objective.distillation != "none" else None

    losses = []
    for scores in (whole, *map(scored, objective.widths)):
        directions = [_cross_entropy(*each, label_B, scale, objective.hardness) for each in zip(scores, counts, strict=True)]
        loss = torch.stack(directions).mean()
        if lesson is not None:
            loss = torch.lerp(loss, _distilled(scores[0], lesson, objective, scale), objective.distillation_weight)
        losses.append(loss)
    return _told(torch.stack(losses).mean(), whole[0].detach(), positive_B, counts[0], likely_BN, lesson, scale)


class _Pool(NamedTuple):
    """What is scored with each other, and where this rank's own documents stand in it."""

    queries: Vectors  # of all ranks
    documents: Vectors
    keys_NH: torch.Tensor
    codes_N: torch.Tensor
    place_M: torch.Tensor


def _pooled(queries: Vectors, documents: Vectors, labels: Labels, objective: Objective) -> _Pool:
    """The positives of all ranks and then their hard negatives; if a pair is contrasted with its own alone, what this rank has."""
    pairs, device = len(queries), documents.rows_NTD.device
    told = len(labels.codes_M), len(labels.keys_MH), len(labels.scores_M), pairs + int(labels.counts_B.sum())
    assert {*told} == {len(documents)}, (told, len(documents))
    here_M = torch.arange(len(documents), device=device)
    if not objective.in_batch:
        return _Pool(queries, documents, labels.keys_MH, labels.codes_M, here_M)
    rank, world = rank_and_world()
    hard, rows, query_rows = sizes(len(documents) - pairs, documents.rows_NTD.shape[1], queries.rows_NTD.shape[1], device=device)
    parts = [(slice(pairs), [pairs] * world), (slice(pairs, None), hard)]
    return _Pool(
        gather_vectors(queries, [pairs] * world, max(query_rows)) if objective.symmetric else queries,
        Vectors.cat([gather_vectors(documents[part], shares, max(rows)) for part, shares in parts]),
        *(torch.cat([gather(told_M[part], shares) for part, shares in parts]) for told_M in (labels.keys_MH, labels.codes_M)),
        torch.where(here_M < pairs, here_M + rank * pairs, here_M + (world - 1) * pairs + sum(hard[:rank])),
    )


def _negatives(pool: _Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, N] Which documents are negatives of which query, whatever their scores."""
    pairs, device = len(labels.counts_B), labels.counts_B.device
    row_B = torch.arange(pairs, device=device)
    counts_BN = torch.full((pairs, len(pool.documents)), objective.in_batch, device=device)
    if objective.in_batch:
        counts_BN[row_B, pool.place_M[:pairs]] = False
    else:
        counts_BN[row_B.repeat_interleave(labels.counts_B), pool.place_M[pairs:]] = True
    if objective.modality_mask:
        counts_BN &= labels.codes_M[:pairs, None] == pool.codes_N
    if labels.relevant_BR is not None:
        counts_BN &= ~_known(labels.relevant_BR, pool.keys_NH)
    return counts_BN


def _askers(pool: _Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, P] Which queries of all ranks are negatives of which positive of this rank: those of which it is a negative."""
    pairs, asking = len(labels.counts_B), len(pool.queries)
    asks_BP = pool.place_M[:pairs, None] != torch.arange(asking, device=pool.place_M.device)
    if objective.modality_mask:
        asks_BP &= labels.codes_M[:pairs, None] == pool.codes_N[:asking]
    if labels.relevant_BR is not None:
        asks_BP &= ~_known(_gather_padded(labels.relevant_BR), labels.keys_MH[:pairs]).T
    return asks_BP


def _known(relevant_BR: torch.Tensor, keys_NH: torch.Tensor) -> torch.Tensor:
    """[B, N] Which documents are known to answer which query."""
    keys_U, place_NH = keys_NH.unique(return_inverse=True)
    nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
    hits_BU = torch.zeros(len(relevant_BR), len(keys_U), dtype=torch.int64, device=keys_NH.device)
    hits_BU.scatter_add_(1, nearest_BR, (keys_U[nearest_BR] == relevant_BR).long())
    return (hits_BU > 0)[:, place_NH].any(-1)


def _gather_padded(relevant_BR: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, made as wide as the widest anywhere by repeating each row's first."""
    (widths,) = sizes(relevant_BR.shape[1], device=relevant_BR.device)
    padding = relevant_BR[:, :1].expand(-1, max(widths) - relevant_BR.shape[1])
    return gather(torch.cat([relevant_BR, padding], 1))


def _likely(scores: torch.Tensor, positives: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Which documents score so much more than a query's positive that they are taken for its answers."""
    if objective.margin is None:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores.detach() > positives + objective.margin


def _cross_entropy(
    scores_BN: torch.Tensor, counts_BN: torch.Tensor, label_B: torch.Tensor, scale: torch.Tensor | float, hardness: float
) -> torch.Tensor:
    """Of each row's own against what counts beside it; where nothing does, it is zero.

    `hardness` is the beta of Robinson et al. (Contrastive Learning with Hard Negative Samples, 2021) without their debiasing: a negative
    weighs exp(hardness x similarity), on average 1 in its row. Chosen here: the weights are of the similarity before it is scaled, so that
    a temperature that learns does not change them, and carry no gradient.
    """
    logits_BN = scores_BN * scale
    if hardness:
        pull_BN = hardness * scores_BN.detach()
        mean_B1 = (
            pull_BN.masked_fill(~counts_BN, float("-inf")).logsumexp(1, keepdim=True)
            - counts_BN.sum(1, keepdim=True).to(pull_BN.dtype).log()
        )
        logits_BN = logits_BN + torch.where(counts_BN, pull_BN - mean_B1, 0.0)
    seen_BN = counts_BN.scatter(1, label_B[:, None], True)
    return F.cross_entropy(logits_BN.masked_fill(~seen_BN, float("-inf")), label_B)


class _Lesson(NamedTuple):
    """What a teacher says of each pair's own documents, the positive first."""

    place_BK: torch.Tensor  # among the documents of the pool
    there_BK: torch.Tensor  # pairs have unlike numbers of documents
    scores_BK: torch.Tensor
    taught_B: torch.Tensor  # no score is missing, and there is a negative to compare with
    rows: torch.Tensor  # that are taught, of all ranks


def _lesson(pool: _Pool, labels: Labels) -> _Lesson:
    pairs, counts_B = len(labels.counts_B), labels.counts_B
    column_K = torch.arange(1 + int(counts_B.max()), device=counts_B.device)
    there_BK = column_K <= counts_B[:, None]
    own_BK = (pairs - 1 + counts_B.cumsum(0) - counts_B)[:, None] + column_K
    own_BK[:, 0] = torch.arange(pairs, device=own_BK.device)
    own_BK = own_BK.where(there_BK, 0)
    scores_BK = labels.scores_M[own_BK]
    taught_B = (counts_B > 0) & ~(scores_BK.isnan() & there_BK).any(1)
    return _Lesson(pool.place_M[own_BK], there_BK, scores_BK.where(there_BK & taught_B[:, None], 0.0), taught_B, total(taught_B.sum()))


def _distilled(scores_BN: torch.Tensor, lesson: _Lesson, objective: Objective, scale: torch.Tensor | float) -> torch.Tensor:
    """How far the scores of each pair's own documents are from the teacher's.

    "kl": the divergence of the softmax of similarities from that of the teacher's scores, each at its temperature. "margin_mse": the
    squared difference of the two's distances between positive and negative, a mean over a pair's negatives (Hofstaetter et al., 2020);
    chosen here: of similarities as they are, to whose range `teacher_temperature` brings the teacher's scores.
    """
    there_BK, student_BK = lesson.there_BK, scores_BN.gather(1, lesson.place_BK)
    teacher_BK = lesson.scores_BK.to(student_BK.dtype) / objective.teacher_temperature
    if objective.distillation == "kl":
        wanted_BK = teacher_BK.masked_fill(~there_BK, float("-inf")).softmax(1)
        found_BK = (student_BK * scale).masked_fill(~there_BK, float("-inf")).log_softmax(1).masked_fill(~there_BK, 0.0)
        row_B = (torch.xlogy(wanted_BK, wanted_BK) - wanted_BK * found_BK).sum(1)
    else:
        error_BK = (student_BK[:, :1] - student_BK) - (teacher_BK[:, :1] - teacher_BK)  # the positive's is zero
        row_B = (error_BK.square() * there_BK).sum(1) / (there_BK.sum(1) - 1).clamp(min=1)
    return row_B.masked_fill(~lesson.taught_B, 0.0).sum() * rank_and_world()[1] / lesson.rows.clamp(min=1)


def _told(
    loss: torch.Tensor,
    similarity_BN: torch.Tensor,
    positive_B: torch.Tensor,
    counts_BN: torch.Tensor,
    likely_BN: torch.Tensor,
    lesson: _Lesson | None,
    scale: torch.Tensor | float,
) -> Contrast:
    count_B = counts_BN.sum(1)
    some_B = count_B > 0
    hardest_B = similarity_BN.masked_fill(~counts_BN, float("-inf")).amax(1)
    rows, negatives = total(torch.stack([some_B.sum(), count_B.sum()])).clamp(min=1) / rank_and_world()[1]
    return Contrast(
        loss=loss,
        accuracy=((positive_B > hardest_B) & some_B).sum() / rows,
        positive_similarity=positive_B.mean(),
        negative_similarity=similarity_BN.masked_fill(~counts_BN, 0.0).sum() / negatives,
        effective_negatives=count_B.float().mean(),
        masked_by_margin=likely_BN.sum(1).float().mean(),
        temperature=1 / torch.as_tensor(scale, device=similarity_BN.device).detach(),
        rows_without_negatives=(~some_B).sum(),
        rows_without_teacher=(~lesson.taught_B).sum() if lesson else torch.zeros_like(some_B, dtype=torch.int64).sum(),
    )
