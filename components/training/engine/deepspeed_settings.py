"""DeepSpeed's settings: those of a file, with each "auto" resolved from the config of the run."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused

AUTO = "auto"
# The settings when no file is given, and the sections that a file leaves out.
DEFAULT: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": AUTO,
    "gradient_accumulation_steps": AUTO,
    "gradient_clipping": AUTO,
    "bf16": {"enabled": AUTO},
    "optimizer": {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "eps": AUTO, "weight_decay": AUTO}},
    "zero_optimization": {
        "stage": AUTO,
        "reduce_bucket_size": AUTO,
        "allgather_bucket_size": AUTO,
        "stage3_prefetch_bucket_size": AUTO,
        "stage3_param_persistence_threshold": AUTO,
        "stage3_max_reuse_distance": AUTO,
    },
    "steps_per_print": 10**9,
}
# DeepSpeed's schedulers, by lr_scheduler_type.
SCHEDULERS = {"constant": "WarmupLR", "linear": "WarmupDecayLR", "cosine": "WarmupCosineLR"}


@dataclass(frozen=True)
class Numbers:
    """The run's own numbers; a settings file may repeat them or say "auto", but not contradict them."""

    stage: int
    world: int
    batch: int  # pairs of all workers
    accumulation: int
    max_grad_norm: float
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    bf16: bool
    warmup: int
    total: int
    scheduler: str

    @property
    def micro_batch(self) -> int:
        """Pairs of a worker, rounded down: DeepSpeed logs its speed by them, and computes nothing with them."""
        return max(1, self.batch // self.world)

    def fixed(self) -> dict[str, tuple[Any, str]]:
        """By the key of the settings: the value, and the name of the field that sets it."""
        return {
            "train_micro_batch_size_per_gpu": (self.micro_batch, f"global_batch_size {self.batch} on {self.world} workers"),
            "gradient_accumulation_steps": (self.accumulation, "gradient_accumulation_steps"),
            "train_batch_size": (self.batch * self.accumulation, "global_batch_size x gradient_accumulation_steps"),
            "gradient_clipping": (self.max_grad_norm, "max_grad_norm"),
            "bf16.enabled": (self.bf16, "bf16"),
            "fp16.enabled": (False, "fp16, which is not offered: use bf16"),
            "zero_optimization.stage": (self.stage, "zero_stage"),
            "optimizer.params.lr": (self.learning_rate, "learning_rate"),
            "optimizer.params.weight_decay": (self.weight_decay, "weight_decay"),
            "optimizer.params.betas": (list(self.betas), "adam_betas"),
            "optimizer.params.eps": (self.epsilon, "adam_epsilon"),
            "scheduler.type": (SCHEDULERS[self.scheduler], f"lr_scheduler_type {self.scheduler}"),
            "scheduler.params.warmup_max_lr": (self.learning_rate, "learning_rate"),
            "scheduler.params.warmup_num_steps": (max(1, self.warmup), "warmup_steps"),
            "scheduler.params.total_num_steps": (self.total, "number of steps"),
        }

    def free(self, width: int) -> dict[str, Any]:
        """By the key of the settings: what "auto" means where no field sets it; sizes follow the model's width.

        Weights that are soon used again stay gathered: at the end of the forward pass those of the last four layers. Of DeepSpeed's own
        distance, a billion weights, the whole of a small model would be within reach, and as it looks through all modules within that
        distance for each module of a step, a step of many chunks would take several times as long.
        """
        bucket = max(width * width, 500_000)
        return {
            "scheduler.params.warmup_min_lr": 0.0,
            "zero_optimization.reduce_bucket_size": bucket,
            "zero_optimization.allgather_bucket_size": bucket,
            "zero_optimization.stage3_prefetch_bucket_size": bucket * 9 // 10,
            "zero_optimization.stage3_param_persistence_threshold": 10 * width,
            "zero_optimization.stage3_max_live_parameters": 10**9,
            "zero_optimization.stage3_max_reuse_distance": min(4 * 16 * width * width, 10**9),
            "zero_optimization.stage3_gather_16bit_weights_on_model_save": False,
        }


def read_settings(path: str | None) -> dict[str, Any]:
    """The content of a DeepSpeed settings file; empty without a file."""
    if path is None:
        return {}
    try:
        given = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"deepspeed settings {path} cannot be read ({error}); give a JSON file, or leave it out") from error
    if not isinstance(given, dict):
        raise Refused(f"deepspeed settings {path} hold a {type(given).__name__}; give a JSON object")
    return given


def settings_digest(path: str) -> str:
    """A hash of the content of a DeepSpeed settings file, independent of its layout."""
    return hashlib.sha256(json.dumps(read_settings(path), sort_keys=True).encode()).hexdigest()


def resolved(given: Mapping[str, Any], numbers: Numbers, width: int) -> dict[str, Any]:
    """Settings for DeepSpeed: those given with each "auto" resolved and missing ones filled in; Refused where they contradict the run."""
    settings = {**copy.deepcopy(DEFAULT), **copy.deepcopy(dict(given))}
    settings["zero_optimization"].setdefault("stage", AUTO)
    settings["bf16"].setdefault("enabled", AUTO)
    optimizer = settings["optimizer"]
    is_adam = optimizer.get("type", "").lower() in ("adam", "adamw")
    for name in ("lr", "weight_decay", *(("betas", "eps") if is_adam else ())):
        optimizer.setdefault("params", {}).setdefault(name, AUTO)
    fixed, free = numbers.fixed(), numbers.free(width)
    for section, name, key in list(_leaves(settings)):
        value = section[name]
        if key in fixed:
            own, option = fixed[key]
            if value not in (AUTO, own):
                raise Refused(f'deepspeed settings say {key} = {value!r}, the run says {own!r} ({option}); make them equal or write "auto"')
            section[name] = own
        elif value == AUTO:
            if key not in free:
                raise Refused(f'deepspeed settings say {key} = "auto", which has no value in this run; write a value')
            section[name] = free[key]
    settings.pop("train_batch_size", None)  # DeepSpeed would refuse one that the workers do not divide
    if is_adam:
        # DeepSpeed's own Adam kernels are compiled at the first step, with nvcc or a C++ compiler; torch's are as fast on one device.
        optimizer["params"].setdefault("torch_adam", True)
    return settings


def _leaves(section: dict[str, Any], prefix: str = ""):
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield section, name, prefix + name
