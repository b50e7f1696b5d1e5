"""The DeepSpeed engine: starting it, stepping, checkpoints that load at any world size, and gathering whole weights."""

import argparse
import contextlib
import functools
import gc
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mirepoix.components.training.engine.snapshot import Copies, Recorder
from mirepoix.models.backbones.checkpoints import without_library
from mirepoix.models.errors import Refused

TAG = "engine"


def prepare() -> None:
    """Prepares this process for DeepSpeed: no compilation of kernels that training does not use, no warnings about expected conditions."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # collectives come before the engine, which would set it
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")
    with without_library("mlflow"):  # only DeepSpeed's autotuner uses it, and it takes a second or two to load
        import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # else init_distributed compiles a shared-memory collective that only inference uses
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)
    _freeze_imports()


@functools.cache
def _freeze_imports() -> None:
    """Exempts all objects that exist now from garbage collection, once per process.

    DeepSpeed collects several times per engine, each time through all imported modules.
    """
    gc.freeze()


def _import_muon_uncompiled() -> None:
    """Imports DeepSpeed's Muon, as every engine with ZeRO does, without compiling its kernels, which would import torch's compiler.

    Where another version of DeepSpeed has it elsewhere, the engine imports it itself, only more slowly.
    """
    with contextlib.suppress(ImportError, AttributeError, NameError, TypeError):
        from deepspeed.runtime import compiler

        compiled, compiler.compile = compiler.compile, lambda *_, **__: compiler.dummy_decorator
        try:
            import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
        finally:
            compiler.compile = compiled


def start(
    module: torch.nn.Module,
    settings: dict[str, Any],
    factor: Callable[[int], float],
    undecayed: tuple[str, ...] = (),
    universal: bool = False,
) -> Any:
    """The engine over `module`; `factor` gives the learning rate of a step over the highest, unless the settings name a scheduler."""
    import deepspeed

    if settings["optimizer"].get("type", "").lower() != "muon":
        _import_muon_uncompiled()
    decay = settings["optimizer"]["params"]["weight_decay"]
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    decayed = decaying(module, undecayed)
    groups = [
        {"params": [parameter for name, parameter in trained.items() if name in decayed], "weight_decay": decay},
        {"params": [parameter for name, parameter in trained.items() if name not in decayed], "weight_decay": 0.0},
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


def decaying(module: torch.nn.Module, undecayed: tuple[str, ...]) -> set[str]:
    """The names of the weights that are trained with weight decay.

    Matrices decay, but for those whose names end as one of `undecayed`; biases and the scales of norms do not.
    """
    trained = ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
    return {name for name, parameter in trained if len(_shape(parameter)) > 1 and not name.endswith(undecayed)}


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def save(engine: Any, folder: Path) -> None:
    """Writes this rank's shard of a checkpoint, without frozen weights: they are in the folder that the encoder was opened from."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)


def snapshot(engine: Any, folder: Path, copies: Copies) -> dict[str, Any]:
    """A shard as `save` writes it, but that its states are returned, by the names of their files, as copies for `torch.save`."""
    written = engine.checkpoint_engine
    engine.checkpoint_engine = recorder = Recorder(written, copies)
    try:
        save(engine, folder)
    finally:
        engine.checkpoint_engine = written
    return {str(Path(path).relative_to(folder)): state for path, state in recorder.states.items()}


def load(engine: Any, folder: Path) -> None:
    """Loads weights, optimizer and schedule of a checkpoint; called on all ranks together."""
    optimizer = engine.basic_optimizer
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    with _groups_without_a_part_skipped(engine.optimizer):
        path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    if path is None:
        raise Refused(f"checkpoint {folder} cannot be loaded; delete the scratch folder to train from the start")
    # From a reshaped checkpoint, DeepSpeed 0.19 at stage 3 gives every group the first group's weight decay, and all groups the same
    # tensor as their step count, which each group then increments.
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


@contextlib.contextmanager
def _groups_without_a_part_skipped(optimizer: Any) -> Iterator[None]:
    """Lets a reshaped checkpoint load where this rank holds no part of the last groups of parameters, but padding alone.

    A learned temperature beside adapters is such a group, of one number: at stages 1 and 2 one rank holds it, and on the others DeepSpeed
    0.19 fails. What Adam keeps of padding is zero, so nothing is missed.
    """
    name = "load_hp_checkpoint_state_from_checkpoint_dir"
    load_states = getattr(optimizer, name, None)
    if load_states is None:
        yield
        return

    def load_held(groups_name: str, folder: str) -> None:
        stepped = optimizer.optimizer
        every = stepped.param_groups
        held = [any(weight._hp_mapping is not None for weight in group) for group in getattr(optimizer, groups_name)]
        assert held == sorted(held, reverse=True), "a group without a part on this rank comes before one with a part"
        stepped.param_groups = every[: sum(held)]
        try:
            load_states(groups_name, folder)
        finally:
            stepped.param_groups = every

    setattr(optimizer, name, load_held)
    try:
        yield
    finally:
        delattr(optimizer, name)


def reshape(folder: Path, stage: int, target: Path) -> None:
    """Rewrites the shards of a checkpoint, one per rank of another world size, as one that loads at any; called by one process per node."""
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = argparse.Namespace(
        input_folder=str(folder / TAG),
        output_folder=str(target / TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=stage < 3,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(arguments)


def step(engine: Any) -> float:
    """Steps the engine, if its micro-batches are complete; returns the norm of the gradients before clipping."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None] if engine.zero_optimization_stage() == 0 else []
    norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
    engine.step()
    reported = engine.get_global_grad_norm()  # None at stage 0 in fp32
    return norm if reported is None else float(reported)


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The trained parameters, whole and in fp32: all of them on rank 0, none on the other ranks; one parameter at a time is gathered."""
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
