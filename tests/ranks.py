"""Ranks of a process group as processes of their own, forked from one server that imported what they all import."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

PRELOADED = (
    "deepspeed",
    "mirepoix.components.training.engine.deepspeed_engine",
    "mirepoix.components.training.loop",
    "tests.components.training.toy_training",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
)


def run_ranks(rank: Callable[..., None], world: int, *arguments: Any) -> None:
    """Runs `rank(its number, world, *arguments)` in as many processes; fails if one of them does.

    The server has no process group and computes nothing, so nothing is forked that does not survive it; a new process for each rank would
    import torch and DeepSpeed anew, seven CPU seconds for each.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, rank.__module__])
    mp.start_processes(rank, (world, *arguments), nprocs=world, start_method="forkserver")
