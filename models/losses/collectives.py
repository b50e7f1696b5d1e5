"""What the ranks of a training have, brought together on each of them; gradients flow back to where it came from.

Shapes: N items, T rows an item, D width. Without a process group a rank is alone, and has what it has.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F

from mirepoix.models.vectors import Vectors


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        ctx.start, ctx.rows = sum(sizes[: dist.get_rank()]), len(local)
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.rows], None


def rank_and_world() -> tuple[int, int]:
    """The number of this rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sizes(*numbers: int, device: torch.device) -> list[list[int]]:
    """Each number as every rank has it, in rank order."""
    return gather(torch.tensor([numbers], device=device)).T.tolist()


def total(local: torch.Tensor) -> torch.Tensor:
    """The sum over the ranks, which carries no gradient."""
    local = local.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(local)
    return local


def gather(local: torch.Tensor, sizes: Sequence[int] | None = None) -> torch.Tensor:
    """The tensors of all ranks behind each other in rank order; `sizes` says how long each is, if they are not of one length."""
    if not dist.is_initialized():
        return local
    sizes = [len(local)] * dist.get_world_size() if sizes is None else sizes
    return _Gather.apply(local, sizes) if max(sizes) else local


def gather_vectors(local: Vectors, sizes: Sequence[int], rows: int) -> Vectors:
    """The vectors of all ranks, of which each has so many items, padded to so many rows."""
    if not dist.is_initialized():
        return local
    missing = rows - local.rows_NTD.shape[1]
    mask_NT = gather(F.pad(local.mask_NT, (0, missing)).to(torch.uint8), sizes).bool()
    return Vectors(gather(F.pad(local.rows_NTD, (0, 0, 0, missing)), sizes), mask_NT)
