"""What the ranks of a training do alike: a refusal of one is that of all, and random numbers follow from the same seeds."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.training.job import RefusedOnAllRanks
from mirepoix.models.errors import Refused

T = TypeVar("T")


def agreed(make: Callable[[], T], numbers: Callable[[T], Sequence[int]] = lambda _: (), count: int = 0) -> tuple[T, list[int]]:
    """The result of `make`, and the largest over all ranks of each of its `count` numbers; if any rank is refused, all ranks are.

    It is one small collective, as this is done in every step; texts are exchanged after a refusal alone.
    """
    made: Any = None
    refusal: str | None = None
    own = [0] * count
    try:
        made = make()
        own = list(numbers(made))
    except Refused as error:
        refusal = str(error)
    assert len(own) == count, (own, count)
    refused, *largest = maxima([int(refusal is not None), *own])
    if refused:
        refusals: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(refusals, refusal)
        raise RefusedOnAllRanks(next(filter(None, refusals)))
    return made, largest


def maxima(own: Sequence[int]) -> list[int]:
    """The largest of each number over all ranks."""
    if dist.get_world_size() == 1:
        return list(own)
    largest = torch.tensor(own, dtype=torch.int64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    found: list[int] = largest.tolist()
    return found


def derived_seed(*numbers: int) -> int:
    """A hash of these numbers, as a seed of torch's generators."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_torch(*numbers: int) -> None:
    """Seeds torch's generators with a hash of these numbers."""
    torch.manual_seed(derived_seed(*numbers))
