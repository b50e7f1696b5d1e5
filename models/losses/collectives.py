"""Gathers and sums over the ranks of a training; gradients of what was gathered flow back to the rank that it came from.

Shapes: N items, T rows an item, D width. Without a process group there is one rank, and its own tensors are the result.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from mirepoix.models.vectors import Vectors


class _Gather(torch.autograd.Function):
    """Backward, the gradients of a rank's tensor are summed over the ranks and sent to that rank alone."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        ctx.sizes, most = sizes, max(sizes)
        padded = local.contiguous() if len(local) == most else F.pad(local, (0, 0) * (local.ndim - 1) + (0, most - len(local)))
        gathered = local.new_empty(len(sizes) * most, *local.shape[1:])
        dist.all_gather_single(gathered, padded)
        if min(sizes) == most:
            return gathered
        return torch.cat([gathered[rank * most : rank * most + size] for rank, size in enumerate(sizes)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        sizes, most = ctx.sizes, max(ctx.sizes)
        if min(sizes) < most:
            padded = gradient.new_zeros(len(sizes) * most, *gradient.shape[1:])
            for rank, part in enumerate(gradient.split(sizes)):
                padded[rank * most : rank * most + len(part)] = part
            gradient = padded
        own = gradient.new_empty(most, *gradient.shape[1:])
        dist.reduce_scatter_single(own, gradient.contiguous())
        return own[: sizes[dist.get_rank()]], None


def rank_and_world() -> tuple[int, int]:
    """The index of this rank, and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sizes(*numbers: int, device: torch.device) -> list[list[int]]:
    """For each of the numbers its values on all ranks, in rank order."""
    values: list[list[int]] = gather(torch.tensor([numbers], device=device)).T.tolist()
    return values


def total(local: torch.Tensor) -> torch.Tensor:
    """The sum over the ranks, without gradient."""
    local = local.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(local)
    return local


def total_logsumexp(local: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum over the ranks of the exponentials, element by element and without gradient; -inf is a sum of zero."""
    if not dist.is_initialized():
        return local
    peak = local.detach().clone()
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    peak = peak.masked_fill(peak == float("-inf"), 0.0)
    return total((local - peak).exp()).log() + peak


def gather(local: torch.Tensor, sizes: Sequence[int] | None = None) -> torch.Tensor:
    """The tensors of all ranks, concatenated in rank order; `sizes` has the length of each where these differ."""
    if not dist.is_initialized():
        return local
    sizes = [len(local)] * dist.get_world_size() if sizes is None else sizes
    if not max(sizes):
        return local
    apply: Any = _Gather.apply  # torch gives it no types
    gathered: torch.Tensor = apply(local, sizes)
    return gathered


def gather_vectors(local: Vectors, sizes: Sequence[int], rows: int) -> Vectors:
    """The vectors of all ranks in rank order, padded to `rows` rows an item; `sizes` has the number of items of each rank."""
    if not dist.is_initialized():
        return local
    missing = rows - local.rows_NTD.shape[1]
    mask_NT = gather(F.pad(local.mask_NT, (0, missing)).to(torch.uint8), sizes).bool()
    return Vectors(gather(F.pad(local.rows_NTD, (0, 0, 0, missing)), sizes), mask_NT)
