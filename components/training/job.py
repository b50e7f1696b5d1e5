"""The job of a training: its config checked against its pairs, in the form that every worker receives.

Refused
`-- RefusedOnAllRanks        refused on every rank; a retry would end the same way
    `-- Diverged     the loss is not finite
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.engine import deepspeed_settings
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.errors import Refused


class RefusedOnAllRanks(Refused):
    """A refusal raised on every rank, so that none waits for another; a retry would end the same way."""


class Diverged(RefusedOnAllRanks):
    """The loss is not finite; training again from the last checkpoint would end the same way."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a worker needs; it pickles."""

    config: TrainConfig
    seed: tuple[int, ...]
    pairs: Path
    encoder: Path
    settings: dict[str, Any]  # of DeepSpeed, as given
    filled: int  # least hard negatives of a pair; missing ones are drawn from the other pairs' positives
    total: int  # steps

    @property
    def pairs_per_step(self) -> int:
        return self.config.global_batch_size * self.config.gradient_accumulation_steps

    @property
    def warmup(self) -> int:
        steps = self.config.warmup_steps
        return math.ceil(steps * self.total) if steps < 1 else int(steps)

    def factor(self, step: int) -> float:
        """The learning rate of a step, counted from 0, divided by the highest."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.config.lr_scheduler_type]

    def engine_settings(self, width: int, world: int) -> dict[str, Any]:
        """DeepSpeed's settings for an encoder of that width on so many workers."""
        config = self.config
        numbers = deepspeed_settings.Numbers(
            stage=config.zero_stage,
            world=world,
            batch=config.global_batch_size,
            accumulation=config.gradient_accumulation_steps,
            max_grad_norm=config.max_grad_norm,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=config.adam_betas,
            epsilon=config.adam_epsilon,
            bf16=config.bf16,
            warmup=self.warmup,
            total=self.total,
            scheduler=config.lr_scheduler_type,
        )
        return deepspeed_settings.resolved(self.settings, numbers, width)


def make_job(config: TrainConfig, seed: int, pairs: Path, encoder: Path) -> TrainingJob:
    """The job of training an encoder on a folder of pairs; Refused where the config does not fit the pairs."""
    store = PairStore(pairs)
    if not len(store):
        raise Refused(f"folder {pairs} holds no pairs; see the rejects of the stage that wrote it")
    if config.global_batch_size > len(store):
        raise Refused(f"global_batch_size is {config.global_batch_size}, more than the {len(store)} pairs there are; lower it")
    most = store.most_negatives
    filled = (most if config.negatives is None else config.negatives) if config.fill_negatives else 0
    if not max(filled, most if config.negatives is None else min(most, config.negatives)):
        if not config.loss.in_batch:
            raise Refused(
                f"loss.in_batch is off, and no pair has hard negatives (negatives is {config.negatives}, the pairs have {most} at most): "
                "there is nothing to contrast; mine them, raise negatives, or give loss.in_batch = true"
            )
        if config.global_batch_size == 1:
            raise Refused("a batch of one pair without hard negatives has nothing to contrast; raise global_batch_size or mine negatives")
    if config.loss.distillation != "none" and (config.negatives == 0 or not store.has_teacher):
        raise Refused(
            f"loss.distillation is {config.loss.distillation}, and no pair has a teacher's scores of its positive and of a hard negative "
            f"(negatives is {config.negatives}); give a corpus with scores of both, or loss.distillation = none"
        )
    steps_per_epoch = len(store) // config.global_batch_size / config.gradient_accumulation_steps
    epochs = 1.0 if config.num_train_epochs is None else config.num_train_epochs
    total = config.max_steps or max(1, round(epochs * steps_per_epoch))
    job = TrainingJob(
        config,
        (seed, config.seed),
        Path(pairs).absolute(),
        Path(encoder).absolute(),
        deepspeed_settings.read_settings(config.deepspeed),
        filled,
        total,
    )
    for world in range(config.fewest_workers, config.num_workers + 1):
        job.engine_settings(width=1, world=world)
    return job
