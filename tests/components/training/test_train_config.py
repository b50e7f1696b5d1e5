"""Invalid hyperparameters are refused with their field and value."""

import math

import pytest

from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.errors import Refused


@pytest.mark.parametrize(
    "change",
    [
        {"global_batch_size": 0},
        {"gradient_accumulation_steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"adam_betas": (0.9, 1.0)},
        {"adam_betas": (0.9,)},
        {"adam_epsilon": 0.0},
        {"max_steps": 0},
        {"num_train_epochs": 0.0},
        {"warmup_steps": -1},
        {"warmup_steps": math.nan},
        {"weight_decay": math.nan},
        {"max_grad_norm": math.nan},
        {"save_steps": 0},
        {"min_workers": 0},
        {"min_workers": 2},
        {"grow_after": -1.0},
        {"max_failures": -1},
        {"collective_timeout": 0.0},
        {"homogeneous": 1.5},
        {"homogeneous_by": "colour"},
        {"lr_scheduler_type": "polynomial"},
        {"zero_stage": 4},
        {"negatives": -1},
        {"bf16": True, "zero_stage": 0},
    ],
)
def test_an_invalid_config_is_refused_with_field_and_value(change):
    name, value = next(iter(change.items()))
    with pytest.raises(Refused) as refused:
        TrainConfig(**change)
    assert name in str(refused.value) and (str(value) in str(refused.value) or value is True) and "give" in str(refused.value)


def test_without_min_workers_the_number_of_workers_is_fixed():
    assert TrainConfig(num_workers=4).fewest_workers == 4
    assert TrainConfig(num_workers=4, min_workers=2).fewest_workers == 2


def test_kin_are_masked_only_together_with_known_answers():
    with pytest.raises(Refused, match="mask_kin is on and mask_relevant off"):
        TrainConfig(mask_relevant=False)
    assert not TrainConfig(mask_relevant=False, mask_kin=False).mask_kin
