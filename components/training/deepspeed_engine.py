"""DeepSpeed: its settings without a single "auto" left, its engine, its checkpoints at any world size, and whole weights out of it."""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mirepoix.models.errors import Refused

TAG = "engine"
AUTO = "auto"
# What is trained with when no file is given, and what a file that leaves a section out gets.
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
    },
    "steps_per_print": 10**9,
}
# DeepSpeed's schedulers by the shape that they give the learning rate.
SCHEDULERS = {"constant": "WarmupLR", "linear": "WarmupDecayLR", "cosine": "WarmupCosineLR"}


@dataclass(frozen=True)
class Numbers:
    """The run's own numbers, which a settings file may repeat or leave to "auto", and may not contradict."""

    stage: int
    world: int
    micro_batch: int
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

    def fixed(self) -> dict[str, tuple[Any, str]]:
        """By the key of the settings: the value, and the name under which the run was told it."""
        return {
            "train_micro_batch_size_per_gpu": (self.micro_batch, "per_device_train_batch_size"),
            "gradient_accumulation_steps": (self.accumulation, "gradient_accumulation_steps"),
            "train_batch_size": (self.micro_batch * self.accumulation * self.world, "batch size x accumulation x workers"),
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
        """By the key of the settings: what "auto" means where the run has no say; bucket sizes follow the model's width."""
        bucket = max(width * width, 500_000)
        return {
            "scheduler.params.warmup_min_lr": 0.0,
            "zero_optimization.reduce_bucket_size": bucket,
            "zero_optimization.allgather_bucket_size": bucket,
            "zero_optimization.stage3_prefetch_bucket_size": bucket * 9 // 10,
            "zero_optimization.stage3_param_persistence_threshold": 10 * width,
            "zero_optimization.stage3_max_live_parameters": 10**9,
            "zero_optimization.stage3_max_reuse_distance": 10**9,
            "zero_optimization.stage3_gather_16bit_weights_on_model_save": False,
        }


def read_settings(path: str | None) -> dict[str, Any]:
    """A DeepSpeed settings file as it was written; none: nothing."""
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
    """A hash of what a DeepSpeed settings file says."""
    return hashlib.sha256(json.dumps(read_settings(path), sort_keys=True).encode()).hexdigest()


def settle(given: Mapping[str, Any], numbers: Numbers, width: int) -> dict[str, Any]:
    """Settings for DeepSpeed: those given, each "auto" resolved, what is left out filled in; Refused where they contradict the run."""
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
            own, knob = fixed[key]
            if value not in (AUTO, own):
                raise Refused(f'deepspeed settings say {key} = {value!r}, the run says {own!r} ({knob}); make them equal or write "auto"')
            section[name] = own
        elif value == AUTO:
            if key not in free:
                raise Refused(f'deepspeed settings say {key} = "auto", which nothing resolves; write a value')
            section[name] = free[key]
    if is_adam:
        # DeepSpeed's own Adam kernels are compiled at the first step and need nvcc or a C++ compiler; torch's are as fast on one device.
        optimizer["params"].setdefault("torch_adam", True)
    return settings


def _leaves(section: dict[str, Any], prefix: str = ""):
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield section, name, prefix + name


def prepare() -> None:
    """This process made ready for DeepSpeed: no compilation that nothing needs, no notices about what is as it should be."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # collectives come before the engine, which would set it
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")
    with _without("mlflow"):  # which takes a second or two to load, and serves DeepSpeed's autotuner alone
        import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # else init_distributed compiles a shared-memory collective that only inference uses
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """An optional library that nothing has loaded yet cannot be loaded, for a block."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def start(module: torch.nn.Module, settings: dict[str, Any], factor: Callable[[int], float], universal: bool = False) -> Any:
    """The engine over `module`; `factor` is the learning rate of a step over the highest, unless the settings bring a scheduler."""
    import deepspeed

    decay = settings["optimizer"]["params"]["weight_decay"]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if len(_shape(p)) > 1], "weight_decay": decay},
        {"params": [p for p in learning if len(_shape(p)) <= 1], "weight_decay": 0.0},  # biases and the scales of norms
    ]
    if universal:
        settings = {**settings, "checkpoint": {**settings.get("checkpoint", {}), "load_universal": True}}
    scheduler = None if "scheduler" in settings else lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[group for group in groups if group["params"]],
        config=settings,
        lr_scheduler=scheduler,
        dist_init_required=False,
    )
    return engine


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def save(engine: Any, folder: Path) -> None:
    """This rank's share of a checkpoint; frozen weights stay out, as they are where the encoder was opened from."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)


def load(engine: Any, folder: Path) -> None:
    """Weights, optimizer and schedule of a checkpoint, all ranks together."""
    optimizer = engine.basic_optimizer
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    if path is None:
        raise Refused(f"checkpoint {folder} cannot be loaded; delete the scratch folder to train from the start")
    # From a reshaped checkpoint DeepSpeed 0.19 gives at stage 3 every group the first one's weight decay, and all groups one and the same
    # tensor as count of steps, which each of them then raises.
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def reshape(folder: Path, stage: int, target: Path) -> None:
    """Rewrites the shares of a checkpoint, one per rank of another world size, as one that loads at any; done by one process of a node."""
    from deepspeed.checkpoint.ds_to_universal import main

    request = argparse.Namespace(
        input_folder=str(folder / TAG),
        output_folder=str(target / TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=stage < 3,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(request)


def step(engine: Any) -> float:
    """Lets the engine step, if its micro-batches are complete; the norm of the gradients before they are clipped."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None] if engine.zero_optimization_stage() == 0 else []
    norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
    engine.step()
    known = engine.get_global_grad_norm()  # stage 0 in fp32 clips without telling the norm
    return norm if known is None else float(known)


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The parameters that learn, whole and in fp32: on rank 0 all of them, on the others none; one parameter at a time is gathered."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = safe_get_full_fp32_param(parameter)
        whole = parameter.detach() if whole is None else whole
        assert whole.dtype == torch.float32, f"{name} has no fp32 master weights"
        if dist.get_rank() == 0:
            weights[name] = whole.to("cpu", copy=True).reshape(_shape(parameter))
    return weights
