"""The contrastive loss over the global batch: every rank scores its own queries against the documents of all ranks.

Start at `contrastive`. It takes four steps, and the rest of the file is in their order:

1. `_pooled`                                   gathers what is scored: the positives of all ranks, then their hard negatives
2. `_document_negatives`, `_query_negatives`   mask which documents are negatives of a query, and which queries of a positive: by modality
                                               (MAMCL), by what is known to answer, by kin; `_likely_answers` by the false-negative margin
3. `_cross_entropy`                            contrasts each positive with its negatives
4. `_teacher_scores`, `_distillation`          compare the scores of a pair's own documents with a teacher's

Shapes: B pairs of this rank, P pairs of all ranks, M documents of this rank: B positives, then the hard negatives of each pair in turn; N
documents that are scored against, K documents of one pair, H hashes of a document, R hashes of what is known to answer a query, T rows an
item, D width.

Means are taken over all ranks: the sum of this rank, divided by the count over all ranks, times the number of ranks. So the loss and its
gradients, averaged over the ranks, are those of one process with the whole batch, however unevenly rows and negatives are spread.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F

from mirepoix.models.item import Modality
from mirepoix.models.losses.collectives import gather, gather_vectors, rank_and_world, sizes, total
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import Vectors, maxsim


@dataclass(frozen=True)
class Labels:
    """Labels of a batch of pairs: hard-negative counts, modalities, content hashes, a teacher's scores, known answers."""

    counts_B: torch.Tensor  # how many hard negatives each pair has
    codes_M: torch.Tensor  # modality codes of the documents
    keys_MH: torch.Tensor  # content hashes of the documents; one match makes it the same document: as stored, as augmented for this step
    scores_M: torch.Tensor  # a teacher's scores of the documents, NaN where there is none
    relevant_BR: torch.Tensor | None = None  # hashes of the known answers of each query; shorter rows repeat one of their own

    def to(self, device: torch.device) -> Self:
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None})


@dataclass(frozen=True)
class Contrast:
    """The loss of this rank, and detached figures to monitor it by, all at full vector width."""

    loss: torch.Tensor
    accuracy: torch.Tensor  # share of the rows with negatives whose positive scores above all of them
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor  # mean over the unmasked negatives
    effective_negatives: torch.Tensor  # unmasked negatives per row
    masked_by_margin: torch.Tensor  # documents per row that the margin masks as likely answers
    temperature: torch.Tensor
    rows_without_negatives: torch.Tensor  # rows of this rank without an unmasked negative
    rows_without_teacher: torch.Tensor  # rows of this rank that distillation leaves out
    modalities_C2: torch.Tensor  # by the positive's modality code: the rows of this rank, and those of them without an unmasked negative


FIGURES = tuple(figure.name for figure in fields(Contrast) if figure.name != "modalities_C2")
COUNTS = tuple(name for name in FIGURES if name.startswith("rows_"))
"""The figures that are summed over the ranks; the others are averaged."""


def contrastive(queries: Vectors, documents: Vectors, labels: Labels, objective: Objective, scale: torch.Tensor | float) -> Contrast:
    """The loss of B queries with M documents, and its figures; `scale` is one over the temperature.

    InfoNCE, from query to document or in both directions. The modality mask (MAMCL) keeps only the negatives whose modality is exactly that
    of the query's positive; as in the paper this holds for in-batch and hard negatives alike (UNITE's code leaves hard ones unmasked on a
    path that its trainer cannot reach). Known answers of a query, and documents that score above its positive by more than the margin,
    are masked in both directions. From document to query only positives are contrasted, as hard negatives have no query of their own.
    With `widths`, the loss is the mean over all widths; the full vectors decide which negatives are masked (chosen here).
    """
    pairs = len(queries)
    pool = _pooled(queries, documents, labels, objective)
    label_B = pool.place_M[:pairs]

    def scored(width: int) -> list[torch.Tensor]:
        """Scores of every query with every document and, if symmetric, of every positive of this rank with every query."""
        own_queries, found, all_queries, positives = (
            vectors if width == vectors.width else vectors.truncated(width)
            for vectors in (queries, pool.documents, pool.queries, documents[:pairs])
        )
        return [maxsim(own_queries, found), *([maxsim(all_queries, positives).T] if objective.symmetric else [])]

    whole = scored(queries.width)
    positive_B = whole[0].detach().gather(1, label_B[:, None])[:, 0]
    negative_BN = _document_negatives(pool, labels, objective)
    likely_BN = negative_BN & _likely_answers(whole[0], positive_B[:, None], objective)
    negatives = [negative_BN & ~likely_BN]
    if objective.symmetric:
        negatives.append(_query_negatives(pool, labels, objective) & ~_likely_answers(whole[1], gather(positive_B)[None], objective))
    teacher = _teacher_scores(pool, labels) if objective.distillation != "none" else None

    losses = []
    for scores in (whole, *map(scored, objective.widths)):
        directions = [_cross_entropy(*each, label_B, scale, objective.hardness) for each in zip(scores, negatives, strict=True)]
        loss = torch.stack(directions).mean()
        if teacher is not None:
            loss = torch.lerp(loss, _distillation(scores[0], teacher, objective, scale), objective.distillation_weight)
        losses.append(loss)
    codes_B = labels.codes_M[:pairs]
    return _with_figures(torch.stack(losses).mean(), whole[0].detach(), positive_B, negatives[0], likely_BN, teacher, scale, codes_B)


class _Pool(NamedTuple):
    """The queries and documents that are scored against each other, and the positions of this rank's documents among them."""

    queries: Vectors  # of all ranks
    documents: Vectors
    keys_NH: torch.Tensor
    codes_N: torch.Tensor
    place_M: torch.Tensor


def _pooled(queries: Vectors, documents: Vectors, labels: Labels, objective: Objective) -> _Pool:
    """The positives of all ranks and then their hard negatives; without `in_batch` the queries and documents of this rank alone."""
    pairs, device = len(queries), documents.rows_NTD.device
    lengths = len(labels.codes_M), len(labels.keys_MH), len(labels.scores_M), pairs + int(labels.counts_B.sum())
    assert {*lengths} == {len(documents)}, (lengths, len(documents))
    here_M = torch.arange(len(documents), device=device)
    if not objective.in_batch:
        return _Pool(queries, documents, labels.keys_MH, labels.codes_M, here_M)
    rank, world = rank_and_world()
    hard, rows, query_rows = sizes(len(documents) - pairs, documents.rows_NTD.shape[1], queries.rows_NTD.shape[1], device=device)
    parts = [(slice(pairs), [pairs] * world), (slice(pairs, None), hard)]
    all_queries = gather_vectors(queries, [pairs] * world, max(query_rows)) if objective.symmetric else queries
    all_documents = Vectors.cat([gather_vectors(documents[part], shares, max(rows)) for part, shares in parts])
    keys_NH, codes_N = (torch.cat([gather(label[part], shares) for part, shares in parts]) for label in (labels.keys_MH, labels.codes_M))
    return _Pool(
        all_queries,
        all_documents,
        keys_NH,
        codes_N,
        torch.where(here_M < pairs, here_M + rank * pairs, here_M + (world - 1) * pairs + sum(hard[:rank])),
    )


def _document_negatives(pool: _Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, N] True where a document is a negative of a query, before scores are looked at."""
    pairs, device = len(labels.counts_B), labels.counts_B.device
    row_B = torch.arange(pairs, device=device)
    negative_BN = torch.full((pairs, len(pool.documents)), objective.in_batch, device=device)
    if objective.in_batch:
        negative_BN[row_B, pool.place_M[:pairs]] = False
    else:
        negative_BN[row_B.repeat_interleave(labels.counts_B), pool.place_M[pairs:]] = True
    if objective.modality_mask:
        negative_BN &= labels.codes_M[:pairs, None] == pool.codes_N
    if labels.relevant_BR is not None:
        negative_BN &= ~_known_answers(labels.relevant_BR, pool.keys_NH)
    return negative_BN


def _query_negatives(pool: _Pool, labels: Labels, objective: Objective) -> torch.Tensor:
    """[B, P] True where query p of all ranks is a negative of positive b of this rank."""
    pairs, queries = len(labels.counts_B), len(pool.queries)
    negative_BP = pool.place_M[:pairs, None] != torch.arange(queries, device=pool.place_M.device)
    if objective.modality_mask:
        negative_BP &= labels.codes_M[:pairs, None] == pool.codes_N[:queries]
    if labels.relevant_BR is not None:
        negative_BP &= ~_known_answers(_gather_padded(labels.relevant_BR), labels.keys_MH[:pairs]).T
    return negative_BP


def _known_answers(relevant_BR: torch.Tensor, keys_NH: torch.Tensor) -> torch.Tensor:
    """[B, N] True where a document is known to answer a query."""
    keys_U, place_NH = keys_NH.unique(return_inverse=True)
    nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
    hits_BU = torch.zeros(len(relevant_BR), len(keys_U), dtype=torch.int64, device=keys_NH.device)
    hits_BU.scatter_add_(1, nearest_BR, (keys_U[nearest_BR] == relevant_BR).long())
    return (hits_BU > 0)[:, place_NH].any(-1)


def _gather_padded(relevant_BR: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, padded to the width of the widest by repeating each row's first hash."""
    (widths,) = sizes(relevant_BR.shape[1], device=relevant_BR.device)
    padding = relevant_BR[:, :1].expand(-1, max(widths) - relevant_BR.shape[1])
    return gather(torch.cat([relevant_BR, padding], 1))


def _likely_answers(scores: torch.Tensor, positives: torch.Tensor, objective: Objective) -> torch.Tensor:
    """True where a document scores above a query's positive by more than the margin: it likely answers the query as well."""
    if objective.margin is None:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores.detach() > positives + objective.margin


def _cross_entropy(
    scores_BN: torch.Tensor, negative_BN: torch.Tensor, label_B: torch.Tensor, scale: torch.Tensor | float, hardness: float
) -> torch.Tensor:
    """Cross-entropy of each row's positive against its unmasked negatives; 0 where there are none.

    `hardness` is the beta of Robinson et al. (Contrastive Learning with Hard Negative Samples, 2021) without their debiasing: a negative
    has the weight exp(hardness x similarity), normalised to a mean of 1 in its row. Chosen here: the weights are of the similarity before
    it is scaled, so that a learned temperature does not change them, and carry no gradient.
    """
    logits_BN = scores_BN * scale
    if hardness:
        log_weight_BN = hardness * scores_BN.detach()
        log_mean_B1 = (
            log_weight_BN.masked_fill(~negative_BN, float("-inf")).logsumexp(1, keepdim=True)
            - negative_BN.sum(1, keepdim=True).to(log_weight_BN.dtype).log()
        )
        logits_BN = logits_BN + torch.where(negative_BN, log_weight_BN - log_mean_B1, 0.0)
    kept_BN = negative_BN.scatter(1, label_B[:, None], True)
    return F.cross_entropy(logits_BN.masked_fill(~kept_BN, float("-inf")), label_B)


class _TeacherScores(NamedTuple):
    """A teacher's scores of each pair's own documents, the positive first."""

    place_BK: torch.Tensor  # positions of the documents in the pool
    real_BK: torch.Tensor  # False is padding: pairs differ in their number of documents
    scores_BK: torch.Tensor
    complete_B: torch.Tensor  # no score is missing, and there is a negative to compare with
    rows: torch.Tensor  # number of complete rows of all ranks


def _teacher_scores(pool: _Pool, labels: Labels) -> _TeacherScores:
    pairs, counts_B = len(labels.counts_B), labels.counts_B
    column_K = torch.arange(1 + int(counts_B.max()), device=counts_B.device)
    real_BK = column_K <= counts_B[:, None]
    own_BK = (pairs - 1 + counts_B.cumsum(0) - counts_B)[:, None] + column_K
    own_BK[:, 0] = torch.arange(pairs, device=own_BK.device)
    own_BK = own_BK.where(real_BK, 0)
    scores_BK = labels.scores_M[own_BK]
    complete_B = (counts_B > 0) & ~(scores_BK.isnan() & real_BK).any(1)
    return _TeacherScores(
        pool.place_M[own_BK], real_BK, scores_BK.where(real_BK & complete_B[:, None], 0.0), complete_B, total(complete_B.sum())
    )


def _distillation(scores_BN: torch.Tensor, teacher: _TeacherScores, objective: Objective, scale: torch.Tensor | float) -> torch.Tensor:
    """The distillation loss of the scores of each pair's own documents against the teacher's.

    "kl": KL divergence of the softmax of similarities from that of the teacher's scores, each at its own temperature. "margin_mse": squared
    error of the difference between positive and negative, a mean over a pair's negatives (Hofstaetter et al., 2020); chosen here: of
    similarities that are not scaled, so `teacher_temperature` has to bring the teacher's scores to their range.
    """
    real_BK, student_BK = teacher.real_BK, scores_BN.gather(1, teacher.place_BK)
    teacher_BK = teacher.scores_BK.to(student_BK.dtype) / objective.teacher_temperature
    if objective.distillation == "kl":
        target_BK = teacher_BK.masked_fill(~real_BK, float("-inf")).softmax(1)
        predicted_BK = (student_BK * scale).masked_fill(~real_BK, float("-inf")).log_softmax(1).masked_fill(~real_BK, 0.0)
        row_B = (torch.xlogy(target_BK, target_BK) - target_BK * predicted_BK).sum(1)
    else:
        error_BK = (student_BK[:, :1] - student_BK) - (teacher_BK[:, :1] - teacher_BK)  # the positive's is zero
        row_B = (error_BK.square() * real_BK).sum(1) / (real_BK.sum(1) - 1).clamp(min=1)
    return row_B.masked_fill(~teacher.complete_B, 0.0).sum() * rank_and_world()[1] / teacher.rows.clamp(min=1)


def _with_figures(
    loss: torch.Tensor,
    similarity_BN: torch.Tensor,
    positive_B: torch.Tensor,
    negative_BN: torch.Tensor,
    likely_BN: torch.Tensor,
    teacher: _TeacherScores | None,
    scale: torch.Tensor | float,
    codes_B: torch.Tensor,
) -> Contrast:
    count_B = negative_BN.sum(1)
    contrasted_B = count_B > 0
    hardest_B = similarity_BN.masked_fill(~negative_BN, float("-inf")).amax(1)
    rows, negatives = total(torch.stack([contrasted_B.sum(), count_B.sum()])).clamp(min=1) / rank_and_world()[1]
    return Contrast(
        loss=loss,
        accuracy=((positive_B > hardest_B) & contrasted_B).sum() / rows,
        positive_similarity=positive_B.mean(),
        negative_similarity=similarity_BN.masked_fill(~negative_BN, 0.0).sum() / negatives,
        effective_negatives=count_B.float().mean(),
        masked_by_margin=likely_BN.sum(1).float().mean(),
        temperature=1 / torch.as_tensor(scale, device=similarity_BN.device).detach(),
        rows_without_negatives=(~contrasted_B).sum(),
        rows_without_teacher=(~teacher.complete_B).sum() if teacher else torch.zeros_like(contrasted_B, dtype=torch.int64).sum(),
        modalities_C2=torch.stack([torch.bincount(codes, minlength=1 + sum(Modality)) for codes in (codes_B, codes_B[~contrasted_B])], 1),
    )
