"""The job of a training: a config that does not fit its pairs is refused before a worker starts."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from mirepoix.components.pairs.store import PairRow, write_pairs
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
    """Text pairs, and pairs whose positive is a picture."""
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
    assert "global_batch_size is 26, more than the 24 pairs there are" in refusal_of(mixed, encoder, global_batch_size=26, num_workers=2)
    assert "one pair without hard negatives" in refusal_of(mixed, encoder, global_batch_size=1)
    assert "one pair without hard negatives" in refusal_of(hard, encoder, global_batch_size=1, negatives=0)
    assert job_of(hard, encoder, global_batch_size=1).total == 24


def test_in_batch_false_is_refused_where_no_pair_has_hard_negatives(mixed, hard, encoder):
    alone = Objective(in_batch=False)
    assert "no pair has hard negatives (negatives is None, the pairs have 0 at most)" in refusal_of(mixed, encoder, loss=alone)
    assert "no pair has hard negatives (negatives is 0, the pairs have 2 at most)" in refusal_of(hard, encoder, loss=alone, negatives=0)
    assert job_of(hard, encoder, loss=alone).filled == job_of(hard, encoder, loss=alone, negatives=1).filled == 0
    assert job_of(mixed, encoder, loss=alone, negatives=1, fill_negatives=True).filled == 1


def test_missing_hard_negatives_are_filled_up_only_with_fill_negatives(tmp_path, hard, encoder):
    items = [Item(f"i{n}", text=f"text {n}") for n in range(4)]
    write_pairs(tmp_path, items, [PairRow("a", 0, 1, [2]), PairRow("b", 1, 2)] * 4)
    assert job_of(tmp_path, encoder).filled == job_of(tmp_path, encoder, negatives=3).filled == 0
    assert job_of(tmp_path, encoder, fill_negatives=True).filled == 1
    assert job_of(tmp_path, encoder, fill_negatives=True, negatives=3).filled == 3
    assert job_of(hard, encoder, fill_negatives=True, negatives=1).filled == 1


def test_distillation_without_a_teachers_scores_is_refused(folder, hard, encoder):
    taught = Objective(distillation="kl")
    scored = write_toys(folder / "scored", MIXED, negatives=(1, 0), scored=True)
    assert "no pair has a teacher's scores" in refusal_of(hard, encoder, loss=taught)
    assert "(negatives is 0)" in refusal_of(scored, encoder, loss=taught, negatives=0)
    assert job_of(scored, encoder, loss=taught).config.loss.distillation == "kl"


def test_steps_come_from_epochs_unless_they_are_given(mixed, encoder):
    assert job_of(mixed, encoder, global_batch_size=6).total == 4
    assert job_of(mixed, encoder, global_batch_size=6, num_workers=2, num_train_epochs=2.5).total == 10
    assert job_of(mixed, encoder, global_batch_size=6, gradient_accumulation_steps=2, num_train_epochs=3).total == 6
    assert job_of(mixed, encoder, max_steps=5, num_train_epochs=3).total == 5


@pytest.mark.parametrize(("kind", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)])
def test_the_learning_rate_rises_and_then_falls(mixed, encoder, kind, middle, end):
    job = job_of(mixed, encoder, max_steps=120, warmup_steps=20, lr_scheduler_type=kind)
    assert [job.factor(step) for step in (0, 9, 19, 20)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
    assert job.factor(70) == pytest.approx(middle) and job.factor(120) == pytest.approx(end)
    assert replace(job, config=replace(job.config, warmup_steps=0.1)).warmup == 12
    assert replace(job, config=replace(job.config, warmup_steps=0)).factor(0) == 1.0 and not math.isnan(job.factor(121))


def test_adams_settings_are_those_of_the_config(mixed, encoder):
    settings = job_of(mixed, encoder, adam_betas=(0.9, 0.98), adam_epsilon=1e-6).engine_settings(world=1, width=64)
    assert settings["optimizer"]["params"]["betas"] == [0.9, 0.98] and settings["optimizer"]["params"]["eps"] == 1e-6


def test_a_settings_file_is_checked_before_workers_start(tmp_path, mixed, encoder):
    path = tmp_path / "zero3.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}, "train_batch_size": 9}))
    assert "train_batch_size = 9, the run says 4" in refusal_of(mixed, encoder, deepspeed=str(path))
    path.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}, "gradient_clipping": "auto"}))
    settings = job_of(mixed, encoder, deepspeed=str(path), zero_stage=3).engine_settings(world=1, width=64)
    assert settings["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 500_000}


def test_a_settings_file_that_fits_only_some_of_the_numbers_of_workers_is_refused(tmp_path, mixed, encoder):
    path = tmp_path / "fixed.json"
    path.write_text(json.dumps({"train_micro_batch_size_per_gpu": 2}))
    workers = {"deepspeed": str(path), "global_batch_size": 4, "num_workers": 2}
    assert job_of(mixed, encoder, **workers).settings
    refused = refusal_of(mixed, encoder, **workers, min_workers=1)
    assert (
        'train_micro_batch_size_per_gpu = 2, the run says 4 (global_batch_size 4 on 1 workers); make them equal or write "auto"' in refused
    )


def test_a_job_pickles(mixed, encoder):
    job = job_of(mixed, encoder)
    assert pickle.loads(pickle.dumps(job)) == job and job.pairs.is_absolute()
