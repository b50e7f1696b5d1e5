"""What a training is told: what makes no sense is refused before a worker starts."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from mirepoix.components.pairs.store import PairRow, write_pairs
from mirepoix.components.training.job import TrainConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.losses.objective import Objective
from tests.components.training.toy_training import job_of, write_encoder, write_toys

MIXED = ["i", "t", "t"] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def encoder(folder) -> Path:
    return write_encoder(folder)


@pytest.fixture(scope="module")
def mixed(folder) -> Path:
    """Pairs of which some are all text, some find a picture."""
    return write_toys(folder / "mixed", MIXED)


@pytest.fixture(scope="module")
def hard(folder) -> Path:
    """The same with two hard negatives each."""
    return write_toys(folder / "hard", MIXED, negatives=2)


def refusal_of(pairs: Path, encoder: Path, **changes) -> str:
    with pytest.raises(Refused) as refused:
        job_of(pairs, encoder, **changes)
    return str(refused.value)


def test_pairs_that_cannot_be_contrasted_are_refused(tmp_path, mixed, hard, encoder):
    write_pairs(tmp_path, [], [])
    assert "holds no pairs" in refusal_of(tmp_path, encoder)
    assert "a batch of 26 pairs (13 x 2 workers) is more than the 24" in refusal_of(
        mixed, encoder, per_device_train_batch_size=13, num_workers=2
    )
    assert "one pair without hard negatives" in refusal_of(mixed, encoder, per_device_train_batch_size=1)
    assert "one pair without hard negatives" in refusal_of(hard, encoder, per_device_train_batch_size=1, negatives=0)
    assert job_of(hard, encoder, per_device_train_batch_size=1).total == 24


def test_pairs_are_not_contrasted_with_their_own_negatives_alone_where_none_has_any(mixed, hard, encoder):
    alone = Objective(in_batch=False)
    assert "no pair has hard negatives (negatives is None, the pairs have 0 at most)" in refusal_of(mixed, encoder, loss=alone)
    assert "no pair has hard negatives (negatives is 0, the pairs have 2 at most)" in refusal_of(hard, encoder, loss=alone, negatives=0)
    assert job_of(hard, encoder, loss=alone).filled == job_of(hard, encoder, loss=alone, negatives=1).filled == 0
    assert job_of(mixed, encoder, loss=alone, negatives=1, fill_negatives=True).filled == 1


def test_pairs_with_fewer_hard_negatives_are_filled_up_on_request_alone(tmp_path, hard, encoder):
    items = [Item(f"i{n}", text=f"text {n}") for n in range(4)]
    write_pairs(tmp_path, items, [PairRow("a", 0, 1, [2]), PairRow("b", 1, 2)] * 4)
    assert job_of(tmp_path, encoder).filled == job_of(tmp_path, encoder, negatives=3).filled == 0
    assert job_of(tmp_path, encoder, fill_negatives=True).filled == 1
    assert job_of(tmp_path, encoder, fill_negatives=True, negatives=3).filled == 3
    assert job_of(hard, encoder, fill_negatives=True, negatives=1).filled == 1


def test_there_is_no_distillation_without_a_teacher(folder, hard, encoder):
    taught = Objective(distillation="kl")
    scored = write_toys(folder / "scored", MIXED, negatives=(1, 0), scored=True)
    assert "no pair has a teacher's scores" in refusal_of(hard, encoder, loss=taught)
    assert "(negatives is 0)" in refusal_of(scored, encoder, loss=taught, negatives=0)
    assert job_of(scored, encoder, loss=taught).config.loss.distillation == "kl"


@pytest.mark.parametrize(
    "change",
    [
        {"per_device_train_batch_size": 0},
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
        {"homogeneous": 1.5},
        {"homogeneous_by": "colour"},
        {"lr_scheduler_type": "polynomial"},
        {"zero_stage": 4},
        {"negatives": -1},
        {"bf16": True, "zero_stage": 0},
    ],
)
def test_a_config_that_makes_no_sense_is_refused_by_field_and_value(change):
    name, value = next(iter(change.items()))
    with pytest.raises(Refused) as refused:
        TrainConfig(**change)
    assert name in str(refused.value) and (str(value) in str(refused.value) or value is True) and "give" in str(refused.value)


def test_kin_are_masked_beside_what_is_relevant_and_not_without_it():
    with pytest.raises(Refused, match="mask_kin is on and mask_relevant off"):
        TrainConfig(mask_relevant=False)
    assert not TrainConfig(mask_relevant=False, mask_kin=False).mask_kin


def test_steps_come_from_epochs_unless_they_are_given(mixed, encoder):
    assert job_of(mixed, encoder, per_device_train_batch_size=6).total == 4
    assert job_of(mixed, encoder, per_device_train_batch_size=3, num_workers=2, num_train_epochs=2.5).total == 10
    assert job_of(mixed, encoder, per_device_train_batch_size=6, gradient_accumulation_steps=2, num_train_epochs=3).total == 6
    assert job_of(mixed, encoder, max_steps=5, num_train_epochs=3).total == 5


@pytest.mark.parametrize(("kind", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)])
def test_the_learning_rate_rises_and_then_falls(mixed, encoder, kind, middle, end):
    job = job_of(mixed, encoder, max_steps=120, warmup_steps=20, lr_scheduler_type=kind)
    assert [job.factor(step) for step in (0, 9, 19, 20)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
    assert job.factor(70) == pytest.approx(middle) and job.factor(120) == pytest.approx(end)
    assert replace(job, config=replace(job.config, warmup_steps=0.1)).warmup == 12
    assert replace(job, config=replace(job.config, warmup_steps=0)).factor(0) == 1.0 and not math.isnan(job.factor(121))


def test_adam_gets_the_numbers_of_the_config(mixed, encoder):
    settings = job_of(mixed, encoder, adam_betas=(0.9, 0.98), adam_epsilon=1e-6).settle(width=64)
    assert settings["optimizer"]["params"]["betas"] == [0.9, 0.98] and settings["optimizer"]["params"]["eps"] == 1e-6


def test_a_settings_file_is_checked_before_workers_start(tmp_path, mixed, encoder):
    path = tmp_path / "zero3.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}, "train_batch_size": 9}))
    assert "train_batch_size = 9, the run says 4" in refusal_of(mixed, encoder, deepspeed=str(path))
    path.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}, "gradient_clipping": "auto"}))
    settings = job_of(mixed, encoder, deepspeed=str(path), zero_stage=3).settle(width=64)
    assert settings["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 500_000}


def test_a_job_pickles(mixed, encoder):
    job = job_of(mixed, encoder)
    assert pickle.loads(pickle.dumps(job)) == job and job.pairs.is_absolute()
