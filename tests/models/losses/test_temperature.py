"""A learned temperature: as its logarithm, from its initial value, within its bounds."""

import math

import pytest
import torch

from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.temperature import LearnedTemperature
from mirepoix.workflows.recipes.registry import recipe


def learned(temperature: float, **options: float) -> LearnedTemperature:
    return LearnedTemperature(Objective(temperature=temperature, learned_temperature=True, **options))


def descended(module: LearnedTemperature, slope: float, steps: int, rate: float = 0.1) -> list[float]:
    """The temperatures while a loss of that slope over the scale is descended."""
    seen = []
    for _ in range(steps):
        scale = module()
        seen.append(1 / scale.item())
        (gradient,) = torch.autograd.grad(slope * scale.log(), module.moved)
        module.moved.data -= rate * gradient
    return seen


def test_it_starts_at_the_given_value_and_learns_as_its_logarithm():
    module = learned(0.07)
    assert [name for name, _ in module.named_parameters()] == ["moved"]
    assert descended(module, slope=-1.0, steps=3) == pytest.approx([0.07 * math.exp(-0.1 * step) for step in range(3)])


@pytest.mark.parametrize(("slope", "bound"), [(-1.0, 0.05), (1.0, 0.1)])
def test_it_stays_within_its_bounds_and_comes_back_at_once(slope, bound):
    module = learned(0.07, temperature_floor=0.05, temperature_ceiling=0.1)
    assert descended(module, slope, steps=30)[-1] == pytest.approx(bound)
    assert descended(module, -slope, steps=3)[-1] != pytest.approx(bound, rel=0.01)


def test_of_the_published_recipes_it_falls_from_that_of_clip_as_it_rises():
    for slope, last in ((-1.0, 0.0081873), (1.0, 0.0122140)):
        module = LearnedTemperature(recipe("uniir").instruct.loss.resolved(0.01, 16))
        assert descended(module, slope, steps=3)[-1] == pytest.approx(last, rel=1e-4)


def test_at_half_precision_it_starts_as_exactly():
    module = learned(0.07).bfloat16()
    assert module().item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_a_trained_value_is_a_temperature_within_the_bounds():
    module = learned(0.07, temperature_floor=0.05)
    assert module.temperature(torch.tensor([0.1])) == pytest.approx(0.07 * math.exp(-0.1))
    assert module.temperature(torch.tensor([9.0])) == pytest.approx(0.05)
