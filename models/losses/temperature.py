"""A temperature that learns beside an encoder, between two bounds."""

import math
from collections.abc import Mapping

import torch

from mirepoix.models.encoder import Encoder
from mirepoix.models.losses.collectives import rank_and_world, total
from mirepoix.models.losses.objective import Objective

PART = "encoder."


class _Bounded(torch.autograd.Function):
    """A number clamped between two others, and no gradient that would move it further out.

    Of a plain clamp no gradient comes back at all, and what once stepped over a bound stays there. As it hangs on the sign of the gradient
    over all ranks, that is what each rank hands back.
    """

    @staticmethod
    def forward(ctx, value: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.below, ctx.above = value <= low, value >= high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = total(gradient) / rank_and_world()[1]
        outward = (ctx.above & (gradient < 0)) | (ctx.below & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None, None


class Tempered(torch.nn.Module):
    """An encoder and a temperature, so that an engine that shards parameters sees this one used inside a forward.

    What learns is the logarithm of the inverse, as in CLIP, counted from where it starts: near zero the few digits of bfloat16 are enough.
    """

    def __init__(self, encoder: Encoder, objective: Objective):
        super().__init__()
        self.encoder = encoder
        self.start = -math.log(objective.temperature)
        self.bounds = -math.log(objective.temperature_ceiling), -math.log(objective.temperature_floor)
        self.moved = torch.nn.Parameter(torch.zeros(1))

    def forward(self, **batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows and mask of the encoder, and one over the temperature."""
        low, high = (bound - self.start for bound in self.bounds)
        moved = _Bounded.apply(self.moved.float(), low, high)
        return *self.encoder(**batch), (self.start + moved)[0].exp()

    def parted(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], float]:
        """Weights of this module as those of the encoder alone, and the temperature."""
        of_encoder = {name.removeprefix(PART): weight for name, weight in weights.items() if name.startswith(PART)}
        low, high = self.bounds
        return of_encoder, math.exp(-min(max(self.start + float(weights["moved"]), low), high))
