"""The hyperparameters of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of a training."""

    tuning: Tuning = option(Tuning, "which weights of the encoder are trained")
    global_batch_size: int = option(8, "pairs that are contrasted with each other, shared out over all workers")
    gradient_accumulation_steps: int = option(1, "such batches in a step; they share no negatives")
    chunk_tokens: int | None = option(
        None,
        "most tokens, with padding, that a worker encodes at once: a larger share is cut in chunks whose activations are computed twice; "
        "gradients are those of the whole batch. null: all at once",
        decides=False,
    )
    learning_rate: float = option(1e-4, "highest learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = option("cosine", "decay of the learning rate after the warm-up")
    warmup_steps: float = option(0.03, "steps until the learning rate is highest; below 1: as a share of all steps")
    max_steps: int | None = option(None, "steps; takes precedence over num_train_epochs")
    num_train_epochs: float | None = option(None, "passes over the pairs; one, if max_steps is not given either")
    weight_decay: float = option(0.0, "weight decay of matrices; biases and norms have none")
    adam_betas: tuple[float, float] = option((0.9, 0.999), "decay rates of the running means of gradients and of their squares")
    adam_epsilon: float = option(1e-8, "added to the denominator of Adam's step")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: no clipping")
    bf16: bool = option(False, "compute in bfloat16, with float32 weights in the optimizer")
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass, to save memory", decides=False)
    save_steps: int = option(100, "steps between checkpoints", decides=False)
    keep_checkpoints: int = option(
        2, "so many of the last checkpoints are kept; if the newest is damaged, the one before it is taken", decides=False
    )
    logging_steps: int = option(10, "steps between reports", decides=False)
    seed: int = option(0, "seed of batches and dropout, together with that of the run")
    dataloader_num_workers: int = option(1, "threads that collate batches ahead; 0: collate when a batch is needed", decides=False)
    loss: Objective = option(Objective, "the loss")
    mask_relevant: bool = option(True, "known answers of a query, from any pair, and their copies are not used as its negatives")
    mask_kin: bool = option(True, "near-duplicates of known answers, found by curation, are not used as negatives either")
    negatives: int | None = option(None, "most hard negatives of a pair; of more, so many are drawn; null: all that the pair has")
    fill_negatives: bool = option(
        False, "give a pair with fewer than that (null: than the most any pair has) positives of other pairs, drawn anew each time"
    )
    homogeneous: float = option(0.0, "share of the batches that are homogeneous")
    homogeneous_by: Literal["task", "source", "target"] = option(
        "task", "the property that their pairs share; target: modality of the positive"
    )
    augment: AugmentConfig = option(AugmentConfig, "rates at which parts of pairs are removed in training")
    # In the key, though the result is the same to rounding: a checkpoint of one stage cannot be loaded at another.
    zero_stage: Literal[0, 1, 2, 3] = option(1, "what DeepSpeed shards: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too")
    deepspeed: str | None = option(None, 'DeepSpeed settings file; "auto" in it is resolved from this config')
    num_workers: int = option(1, "data-parallel workers; with min_workers: the most", decides=False)
    min_workers: int | None = option(
        None,
        "fewest workers: with fewer machines a training starts or goes on with any number from this on; null: always num_workers",
        decides=False,
    )
    grow_after: float = option(
        60.0, "seconds that a training with fewer workers runs at least before it starts again with more", decides=False
    )
    cpus_per_worker: int = option(1, "CPUs of the cluster that a worker reserves, and threads that it computes with", decides=False)
    use_gpu: bool | None = option(
        None,
        "a GPU per worker; null: if the cluster has one for each of the fewest workers now; true: always, by its autoscaler",
        decides=False,
    )
    max_failures: int = option(
        3,
        "how often in a row dead workers are restarted without a new checkpoint in between; machines that are taken away do not count",
        decides=False,
    )
    collective_timeout: float = option(
        600.0, "seconds after which workers no longer wait for one that does not take part in a step; all are then restarted", decides=False
    )

    def __post_init__(self) -> None:
        refuse_unknown(self)
        positive = ("global_batch_size", "gradient_accumulation_steps", "save_steps", "logging_steps", "num_workers")
        not_negative = ("dataloader_num_workers", "warmup_steps", "weight_decay", "max_grad_norm", "max_failures", "grow_after")
        leasts = {**dict.fromkeys((*positive, "cpus_per_worker", "keep_checkpoints"), 1), **dict.fromkeys(not_negative, 0)}
        for name, least in leasts.items():
            if not getattr(self, name) >= least:
                raise Refused(f"{name} is {getattr(self, name)}; give at least {least}")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise Refused(f"adam_betas is {self.adam_betas}; give two numbers from 0 to below 1")
        if self.global_batch_size < self.num_workers:
            raise Refused(
                f"global_batch_size is {self.global_batch_size}, fewer pairs than num_workers {self.num_workers}; give at least one to each"
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise Refused(f"min_workers is {self.min_workers}; give 1 to {self.num_workers}, the num_workers, or null")
        for name in ("learning_rate", "adam_epsilon", "max_steps", "num_train_epochs", "chunk_tokens", "collective_timeout"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise Refused(f"{name} is {getattr(self, name)}; give more than 0")
        if not 0 <= self.homogeneous <= 1:
            raise Refused(f"homogeneous is {self.homogeneous}; give a share between 0 and 1")
        if self.bf16 and self.zero_stage == 0:
            raise Refused(
                "bf16 is on and zero_stage 0, which has no float32 weights to save; give zero_stage 1, 2 or 3 (on one worker 1 is free)"
            )
        if self.mask_kin and not self.mask_relevant:
            raise Refused("mask_kin is on and mask_relevant off; kin are near-duplicates of known answers: turn both on, or both off")
        if self.negatives is not None and not self.negatives >= 0:
            raise Refused(f"negatives is {self.negatives}; give 0 or more, or null")

    @property
    def fewest_workers(self) -> int:
        """The fewest workers that it trains with."""
        return self.num_workers if self.min_workers is None else self.min_workers

    @classmethod
    def replacement(cls, name: str, value: Any, fields: Mapping[str, Any]) -> str | None:
        """How to write an option of an earlier version, given with that value beside these fields; None for any other name."""
        if name != "per_device_train_batch_size":
            return None
        workers = fields.get("num_workers", cls.num_workers)
        whole = value * workers if isinstance(value, int) else f"{value} x {workers}"
        return f"global_batch_size={whole}, the pairs of all workers together ({value} x num_workers {workers})"
