"""What this machine has: cores and how fast they multiply, memory, a GPU, room on the disk."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from mirepoix.serving.engine.memory import available_or_all
from mirepoix.workflows.init.models import LIBRARY

SLICES, SLICE_SECONDS, PAUSE = 5, 0.06, 0.06
"""Products are timed one by one, in so many short slices, and the fastest counts: what else the machine does makes single ones slower."""
SIDE = 384
"""Rows and columns of the matrices that are multiplied: a product takes a millisecond about, so that some are not interrupted."""


@dataclass(frozen=True)
class Machine:
    """This machine, as far as a run depends on it."""

    cpus: int
    rate: float  # operations a second of a product of float32 matrices, on all cores
    memory: int  # bytes that are available
    disk: int  # bytes that are free where the storage is
    gpu: str = ""
    gpu_memory: int = 0  # bytes that are free on it
    library: bool = True  # whether sentence-transformers is installed
    offline: bool = False  # HF_HUB_OFFLINE


def this_machine(storage: str) -> Machine:
    """Measures this machine; takes half a second."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, memory = _gpu()
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return Machine(cpus, _rate(), available_or_all(), _disk(storage), name, memory, find_spec(LIBRARY) is not None, offline)


def _rate() -> float:
    left, right = (np.random.default_rng(seed).random((SIDE, SIDE), np.float32) for seed in (0, 1))
    left @ right  # the first starts the threads
    fastest = float("inf")
    for number in range(SLICES):
        if number:
            sleep(PAUSE)
        began = ended = perf_counter()
        while ended - began <= SLICE_SECONDS:
            started = perf_counter()
            left @ right
            ended = perf_counter()
            fastest = min(fastest, ended - started)
    return 2.0 * SIDE**3 / fastest


def _disk(storage: str) -> int:
    """What is free where the storage is, or would be; 0 of an object store, which is not known."""
    if "://" in storage:
        return 0
    folder = Path(storage).expanduser().absolute()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _gpu() -> tuple[str, int]:
    """The name of the GPU with the most free memory, and that in bytes."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", 0
    command = [program, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        found = [line.rpartition(",") for line in listed.splitlines() if "," in line]
        name, _, memory = max(found, key=lambda parts: int(parts[2]))
        return name.strip(), int(memory) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        return "", 0


def is_here(model: str) -> bool:
    """Whether the hub's cache on this machine has a snapshot of a model."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = cache / f"models--{model.replace('/', '--')}" / "snapshots"
    return snapshots.is_dir() and any(snapshots.glob("*/config.json"))
