"""The contrastive loss over the global batch: every rank scores its own queries against the documents of all ranks.

Shapes: B pairs of this rank, P pairs of all ranks, K hard negatives a pair, M = B + B*K documents of this rank, N = P + P*K of all,
R documents that are known to answer a query, T rows an item, D width.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F

from mirepoix.models.vectors import Vectors, maxsim


@dataclass(frozen=True)
class Contrast:
    """The loss of this rank, and detached figures that say whether it means anything."""

    loss: torch.Tensor
    accuracy: torch.Tensor  # share of the rows with negatives whose positive beats all of these
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor  # over the negatives that count
    effective_negatives: torch.Tensor  # negatives that count, a row
    rows_without_negatives: torch.Tensor  # rows from which nothing is learnt


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather(local: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks, of equal shape, behind each other in rank order; each row's gradient flows back to its rank."""
    if not dist.is_initialized():
        return local
    return _Gather.apply(local)


def gather_vectors(local: Vectors) -> Vectors:
    """The vectors of all ranks, each rank with as many items, padded to the largest number of rows anywhere."""
    if not dist.is_initialized():
        return local
    most = torch.tensor(local.rows_NTD.shape[1], device=local.rows_NTD.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    missing = int(most) - local.rows_NTD.shape[1]
    mask_NT = gather(F.pad(local.mask_NT, (0, missing)).to(torch.uint8)).bool()
    return Vectors(gather(F.pad(local.rows_NTD, (0, 0, 0, missing))), mask_NT)


def contrastive(
    queries: Vectors,
    documents: Vectors,
    codes_B: torch.Tensor,
    keys_M: torch.Tensor,
    *,
    temperature: float,
    modality_mask: bool = False,
    symmetric: bool = False,
    relevant_BR: torch.Tensor | None = None,
) -> Contrast:
    """InfoNCE of B queries against documents: the B positives in the order of the queries, then the K hard negatives of each pair in turn.

    `codes_B` are the modality codes of the positives. With `modality_mask` another pair's positive is a negative only if its code is
    exactly that of the row's own positive (MAMCL); hard negatives were chosen for their row, and are not masked so.
    `keys_M` are content hashes of the documents, `relevant_BR` those of what is known to answer each query, rows filled up with any of
    their own: such a document is no negative of that query, whichever pair brought it.
    `symmetric` adds the way from document to query, under the same masks; hard negatives have no query of their own and stay out of it.
    The mean of this loss over the ranks, and so of its gradients, is that of one process with the whole batch.
    """
    pairs = len(queries)
    negatives, rest = divmod(len(documents) - pairs, pairs)
    assert rest == 0 and negatives >= 0 and len(codes_B) == pairs and len(keys_M) == len(documents), (pairs, len(documents), len(keys_M))
    rank = dist.get_rank() if dist.is_initialized() else 0
    device = documents.rows_NTD.device

    positives = gather_vectors(documents[:pairs])
    everyone = len(positives)
    keys_N = gather(keys_M[:pairs])
    columns = positives
    if negatives:
        columns = Vectors.cat([positives, gather_vectors(documents[pairs:])])
        keys_N = torch.cat([keys_N, gather(keys_M[pairs:])])

    label_B = torch.arange(pairs, device=device) + rank * pairs
    own_BN = F.one_hot(label_B, len(columns)).bool()
    counts_BN = ~own_BN
    if modality_mask:
        counts_BN[:, :everyone] &= codes_B[:, None] == gather(codes_B)[None, :]
    if relevant_BR is not None:
        counts_BN &= ~_known(relevant_BR, keys_N)

    similarity_BN = maxsim(queries, columns)
    loss = _cross_entropy(similarity_BN, counts_BN | own_BN, label_B, temperature)
    if symmetric:
        others_BP = ~own_BN[:, :everyone]
        if modality_mask:
            others_BP &= codes_B[:, None] == gather(codes_B)[None, :]
        if relevant_BR is not None:
            others_BP &= ~_known(_gather_padded(relevant_BR), keys_M[:pairs]).T
        similarity_PB = maxsim(gather_vectors(queries), documents[:pairs])
        loss = (loss + _cross_entropy(similarity_PB.T, others_BP | own_BN[:, :everyone], label_B, temperature)) / 2
    return _contrast(loss, similarity_BN.detach(), own_BN, counts_BN)


def _known(relevant_BR: torch.Tensor, keys_N: torch.Tensor) -> torch.Tensor:
    """[B, N] Which documents are known to answer which query."""
    keys_U, place_N = keys_N.unique(return_inverse=True)
    nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
    hits_BU = torch.zeros(len(relevant_BR), len(keys_U), dtype=torch.int64, device=keys_N.device)
    hits_BU.scatter_add_(1, nearest_BR, (keys_U[nearest_BR] == relevant_BR).long())
    return hits_BU[:, place_N] > 0


def _gather_padded(relevant_BR: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, made as wide as the widest anywhere by repeating each row's first."""
    if not dist.is_initialized():
        return relevant_BR
    most = torch.tensor(relevant_BR.shape[1], device=relevant_BR.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padding = relevant_BR[:, :1].expand(-1, int(most) - relevant_BR.shape[1])
    return gather(torch.cat([relevant_BR, padding], 1))


def _cross_entropy(similarity_BN: torch.Tensor, seen_BN: torch.Tensor, label_B: torch.Tensor, temperature: float) -> torch.Tensor:
    return F.cross_entropy((similarity_BN / temperature).masked_fill(~seen_BN, float("-inf")), label_B)


def _contrast(loss: torch.Tensor, similarity_BN: torch.Tensor, own_BN: torch.Tensor, counts_BN: torch.Tensor) -> Contrast:
    positive_B = similarity_BN[own_BN]
    count_B = counts_BN.sum(1)
    some_B = count_B > 0
    hardest_B = similarity_BN.masked_fill(~counts_BN, float("-inf")).amax(1)
    return Contrast(
        loss=loss,
        accuracy=((positive_B > hardest_B) & some_B).sum() / some_B.sum().clamp(min=1),
        positive_similarity=positive_B.mean(),
        negative_similarity=similarity_BN.masked_fill(~counts_BN, 0.0).sum() / count_B.sum().clamp(min=1),
        effective_negatives=count_B.float().mean(),
        rows_without_negatives=(~some_B).sum(),
    )
