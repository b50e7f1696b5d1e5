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
    @staticmethod
    def forward(ctx: Any, local: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        ctx.start, ctx.rows = sum(sizes[: dist.get_rank()]), len(local)
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.rows], None


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
