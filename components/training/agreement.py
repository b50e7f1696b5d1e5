"""What the ranks of a training do alike: a refusal of one is that of all, and random numbers follow from the same seeds."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.training.job import RefusedOnAllRanks
from mirepoix.models.errors import Refused

T = TypeVar("T")


def agreed(make: Callable[[], T]) -> T:
    """The result of `make`; if any rank is refused, all ranks are."""
    made: Any = None
    refusal: str | None = None
    try:
        made = make()
    except Refused as error:
        refusal = str(error)
    refusals: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(refusals, refusal)
    if any(refusals):
        raise RefusedOnAllRanks(next(filter(None, refusals)))
    return made


def highest(number: int) -> int:
    """The highest of the numbers that the ranks have."""
    found = torch.tensor([number], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def seed_torch(*numbers: int) -> None:
    """Seeds torch's generators with a hash of these numbers."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
