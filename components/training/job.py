"""What a training is told: its config, and the job that config and pairs make together."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirepoix.components.pairs.store import By, PairStore
from mirepoix.components.training import deepspeed_engine
from mirepoix.components.training.augment import AugmentConfig
from mirepoix.models.backbones.tuning import Tuning
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class TrainConfig:
    """How an encoder is trained."""

    tuning: Tuning = option(Tuning, "what of the encoder learns")
    per_device_train_batch_size: int = option(8, "pairs in a micro-batch of one worker")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step; they share no negatives")
    learning_rate: float = option(1e-4, "highest learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = option("cosine", "how the learning rate falls after the warm-up")
    warmup_steps: float = option(0.03, "steps until the learning rate is highest; below 1: as a share of all steps")
    max_steps: int | None = option(None, "steps; takes precedence over num_train_epochs")
    num_train_epochs: float | None = option(None, "passes over the pairs; one, if max_steps is not given either")
    weight_decay: float = option(0.0, "weight decay of matrices; biases and norms have none")
    adam_betas: tuple[float, float] = option((0.9, 0.999), "how much of their past the means of gradients and of their squares keep")
    adam_epsilon: float = option(1e-8, "added to the root of the latter, which divides a step")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0: never")
    bf16: bool = option(False, "compute in bfloat16, keep weights for the optimizer in float32")
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass, to save memory")
    save_steps: int = option(100, "steps between checkpoints")
    logging_steps: int = option(10, "steps between reports")
    seed: int = option(0, "seed of batches and dropout, with that of the run")
    dataloader_num_workers: int = option(1, "threads that collate batches ahead; 0: collate when a batch is needed")
    loss: Objective = option(Objective, "what is minimised")
    mask_relevant: bool = option(True, "what is known to answer a query, by any pair or as a copy, is no negative of it")
    mask_kin: bool = option(True, "beside these, what curation found to be perhaps the same as an answer is no negative either")
    negatives: int | None = option(None, "most hard negatives of a pair, of more so many are drawn; null: each pair's own, all of them")
    fill_negatives: bool = option(False, "a pair with fewer than that, or than any has, gets other pairs' positives, drawn anew each time")
    homogeneous: float = option(0.0, "share of the batches that are homogeneous")
    homogeneous_by: By = option("task", "what these are of one of; target: the modality that is found")
    augment: AugmentConfig = option(AugmentConfig, "what pairs lose in training, to be found without it")
    zero_stage: Literal[0, 1, 2, 3] = option(1, "what DeepSpeed shards: 1 optimizer, 2 and gradients, 3 and weights")
    deepspeed: str | None = option(None, 'DeepSpeed settings file; "auto" in it is resolved from this config')
    deepspeed_digest: str | None = option(None, "hash of that file's settings, filled in when the run starts")
    num_workers: int = option(1, "data-parallel workers")
    cpus_per_worker: int = option(1, "CPUs of the cluster that a worker takes, and threads that it computes with")
    use_gpu: bool | None = option(None, "a GPU per worker; null: if the cluster has as many now; true waits for them to come")
    max_failures: int = option(3, "times that dead workers are started again from the last checkpoint")

    def __post_init__(self) -> None:
        refuse_unknown(self)
        low = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 1, "logging_steps": 1, "num_workers": 1}
        low |= {
            "cpus_per_worker": 1,
            "dataloader_num_workers": 0,
            "warmup_steps": 0,
            "weight_decay": 0,
            "max_grad_norm": 0,
            "max_failures": 0,
        }
        for name, least in low.items():
            if not getattr(self, name) >= least:
                raise Refused(f"{name} is {getattr(self, name)}; give at least {least}")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise Refused(f"adam_betas is {self.adam_betas}; give two numbers from 0 to below 1")
        for name in ("learning_rate", "adam_epsilon", "max_steps", "num_train_epochs"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise Refused(f"{name} is {getattr(self, name)}; give more than 0")
        if not 0 <= self.homogeneous <= 1:
            raise Refused(f"homogeneous is {self.homogeneous}; give a share between 0 and 1")
        if self.bf16 and self.zero_stage == 0:
            raise Refused(
                "bf16 with zero_stage 0 has no float32 weights to hand out; give zero_stage 1, 2 or 3 (on one worker 1 costs nothing)"
            )
        if self.mask_kin and not self.mask_relevant:
            raise Refused("mask_kin is on and mask_relevant off; kin are those of what is known to be relevant: give both, or neither")
        if self.negatives is not None and not self.negatives >= 0:
            raise Refused(f"negatives is {self.negatives}; give 0 or more, or null")

    @property
    def batch(self) -> int:
        """Pairs that are contrasted with each other."""
        return self.per_device_train_batch_size * self.num_workers


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker needs to know; it pickles."""

    config: TrainConfig
    seed: tuple[int, ...]
    pairs: Path
    encoder: Path
    settings: dict[str, Any]  # of DeepSpeed, as given
    filled: int  # hard negatives that a pair has at least, drawn where its own are fewer
    total: int

    @property
    def warmup(self) -> int:
        steps = self.config.warmup_steps
        return math.ceil(steps * self.total) if steps < 1 else int(steps)

    def factor(self, step: int) -> float:
        """The learning rate of a step, counted from 0, over the highest."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.config.lr_scheduler_type]

    def settle(self, width: int) -> dict[str, Any]:
        """DeepSpeed's settings for an encoder of that width."""
        config = self.config
        numbers = deepspeed_engine.Numbers(
            stage=config.zero_stage,
            world=config.num_workers,
            micro_batch=config.per_device_train_batch_size,
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
        return deepspeed_engine.settle(self.settings, numbers, width)


def make_job(config: TrainConfig, seed: int, pairs: Path, encoder: Path) -> TrainingJob:
    """The job of training on a folder of pairs; Refused where these cannot be trained on so."""
    store = PairStore(pairs)
    if not len(store):
        raise Refused(f"folder {pairs} holds no pairs; look at what the stage before rejected")
    if config.batch > len(store):
        raise Refused(
            f"a batch of {config.batch} pairs ({config.per_device_train_batch_size} x {config.num_workers} workers) is more than the "
            f"{len(store)} there are; lower per_device_train_batch_size or num_workers"
        )
    most = store.most_negatives
    filled = (most if config.negatives is None else config.negatives) if config.fill_negatives else 0
    if not max(filled, most if config.negatives is None else min(most, config.negatives)):
        if not config.loss.in_batch:
            raise Refused(
                f"loss.in_batch is off, and no pair has hard negatives (negatives is {config.negatives}, the pairs have {most} at most): "
                "there is nothing to contrast; mine them, raise negatives, or give loss.in_batch = true"
            )
        if config.batch == 1:
            raise Refused(
                "a batch of one pair without hard negatives has nothing to contrast; raise per_device_train_batch_size or mine negatives"
            )
    if config.loss.distillation != "none" and (config.negatives == 0 or not store.taught):
        raise Refused(
            f"loss.distillation is {config.loss.distillation}, and no pair has a teacher's scores of its positive and of a hard negative "
            f"(negatives is {config.negatives}); give a corpus with scores of both, or loss.distillation = none"
        )
    steps_per_epoch = len(store) // config.batch / config.gradient_accumulation_steps
    epochs = 1.0 if config.num_train_epochs is None else config.num_train_epochs
    total = config.max_steps or max(1, round(epochs * steps_per_epoch))
    job = TrainingJob(
        config,
        (seed, config.seed),
        Path(pairs).absolute(),
        Path(encoder).absolute(),
        deepspeed_engine.read_settings(config.deepspeed),
        filled,
        total,
    )
    job.settle(width=1)
    return job
