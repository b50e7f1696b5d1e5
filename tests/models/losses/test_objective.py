"""The objective of a training: invalid settings, and those that do not fit an encoder, are refused."""

import math

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature_floor": 0.0},
        {"temperature_ceiling": math.inf},
        {"teacher_temperature": 0.0},
        {"teacher_temperature": math.nan},
        {"hardness": -0.5},
        {"hardness": math.nan},
        {"hardness": math.inf},
        {"margin": math.nan},
        {"margin": -math.inf},
        {"distillation_weight": math.nan},
        {"distillation_weight": 1.5},
        {"distillation": "cosine"},
        {"widths": (0,)},
        {"widths": (8, 8)},
        {"modality_mask": True, "in_batch": False},
        {"symmetric": True, "in_batch": False},
        {"temperature": 0.6, "learned_temperature": True},
        {"temperature": 0.001, "learned_temperature": True},
        {"temperature_floor": 0.6, "temperature": None, "learned_temperature": True},
    ],
)
def test_an_objective_that_makes_no_sense_is_refused_by_field_and_value(change):
    name, value = next(iter(change.items()))
    with pytest.raises(Refused) as refused:
        Objective(**change)
    assert name in str(refused.value) and (str(value) in str(refused.value) or value is True) and "give" in str(refused.value)


def test_bounds_are_of_a_temperature_that_learns():
    assert Objective(temperature=2.0).temperature == 2.0
    assert Objective(temperature=0.6, learned_temperature=True, temperature_ceiling=1.0).temperature == 0.6


def test_no_temperature_means_that_of_the_encoder():
    assert Objective(temperature=None).resolved(0.07, 16).temperature == 0.07
    assert Objective(temperature=0.2).resolved(0.07, 16).temperature == 0.2
    with pytest.raises(Refused, match=r"loss\.temperature is null and the encoder has none"):
        Objective(temperature=None).resolved(None, 16)
    learned = Objective(temperature=None, learned_temperature=True)
    assert [learned.resolved(own, 16).temperature for own in (0.0099, 0.2, 0.9)] == [0.01, 0.2, 0.5], "within the bounds that it learns in"


def test_widths_are_below_that_of_the_encoder():
    assert Objective(widths=(4, 8)).resolved(None, 9).widths == (4, 8)
    with pytest.raises(Refused, match=r"loss\.widths has 9, 12, and the encoder's vectors are 9 wide"):
        Objective(widths=(4, 9, 12)).resolved(None, 9)
