"""A temperature that is trained together with an encoder, between two bounds."""

import math
from typing import Any

import torch

from mirepoix.models.losses.collectives import rank_and_world, total
from mirepoix.models.losses.objective import Objective


class _Bounded(torch.autograd.Function):
    """Clamps a number between two bounds, and drops the gradient only where it would move the number further out.

    A plain clamp has no gradient beyond a bound, so a number that once stepped over it would never return. The sign that decides is that
    of the gradient over all ranks, so every rank returns their mean.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.below, ctx.above = value <= low, value >= high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = total(gradient) / rank_and_world()[1]
        outward = (ctx.above & (gradient < 0)) | (ctx.below & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None, None


class LearnedTemperature(torch.nn.Module):
    """A temperature that is trained, as a module, as an engine that shards parameters has to see them used inside a forward.

    The parameter is the logarithm of the inverse temperature, as in CLIP, minus its start: near zero bfloat16 is precise enough.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        assert objective.temperature is not None, "the objective was not resolved for the encoder"
        self.start = -math.log(objective.temperature)
        self.bounds = -math.log(objective.temperature_ceiling), -math.log(objective.temperature_floor)
        self.moved = torch.nn.Parameter(torch.zeros(1))

    def forward(self) -> torch.Tensor:
        """One over the temperature; called once a step, as its backward pass is a collective."""
        low, high = (bound - self.start for bound in self.bounds)
        apply: Any = _Bounded.apply  # torch gives it no types
        moved: torch.Tensor = apply(self.moved.float(), low, high)
        return (self.start + moved)[0].exp()

    def temperature(self, moved: torch.Tensor) -> float:
        """The temperature of a trained value of the parameter."""
        low, high = self.bounds
        return math.exp(-min(max(self.start + float(moved), low), high))
