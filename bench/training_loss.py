"""The tiled loss against the dense one and against open_clip's: CPU seconds and memory, forward and backward, by the number of pairs.

Vectors of width 256. The masked loss (MAMCL) has three modalities of equal size, or as many as are said; open_clip's has no mask, and is
compared with ours without one, in both directions. Its file loss.py is taken from its wheel, which pip fetches, as open_clip itself needs
torchvision.

Each measurement is a process of its own with one thread. Memory is by how much the highest resident set (VmHWM, reset through
/proc/self/clear_refs when the inputs are there and a small batch was computed) exceeds the one before; in that process malloc returns
at once what is freed, which costs time, so that seconds are of another process.
"""

import ast
import ctypes
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ratios import Row

HERE = Path(__file__).resolve().parents[1]
WIDTH, SCALE = 256, 30.0
SIZES = (1024, 4096, 16384, 32768)
DENSEST, OPEN_CLIP_MOST = 16384, 8192
SLOPE, OF_DENSE, GROUPS = 1.05, 1 / 50, 3
OPEN_CLIP = "open_clip_torch==3.3.0"
LEAST_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def status(name: str) -> float:
    """A line of /proc/self/status, in MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def batch(pairs: int, modalities: int) -> tuple[Any, Any, Any]:
    import torch
    import torch.nn.functional as F

    from mirepoix.models.losses.contrastive import Labels
    from mirepoix.models.vectors import Vectors

    draw = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(pairs, WIDTH, generator=draw), dim=-1)
    documents = F.normalize(queries + torch.randn(pairs, WIDTH, generator=draw) / WIDTH**0.5, dim=-1)
    keys = torch.arange(pairs)[:, None]
    labels = Labels(
        torch.zeros(pairs, dtype=torch.int64),
        torch.randperm(pairs, generator=draw) % modalities + 1,
        keys,
        torch.full((pairs,), float("nan")),
        torch.cat([keys, keys.roll(1, 0)], 1),  # the document before is known to answer too
    )
    return Vectors.single(queries.requires_grad_()), Vectors.single(documents.requires_grad_()), labels


def step(method: str, queries: Any, documents: Any, labels: Any, objective: Any) -> None:
    from mirepoix.models.losses.dense import dense_contrast
    from mirepoix.models.losses.pool import Pool, Sizes
    from mirepoix.models.losses.tiled import tiled_contrast

    if method.startswith("open_clip:"):
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location("open_clip_loss", method.removeprefix("open_clip:"))
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        module.ClipLoss()(queries.rows_NTD[:, 0], documents.rows_NTD[:, 0], SCALE).backward()
        return
    pool = Pool.gathered(documents, labels, Sizes.of(queries, documents, labels))
    contrast = {"dense": dense_contrast, "tiled": tiled_contrast}[method]
    contrast(queries, documents, pool, labels, objective, SCALE)[0].backward()


def one(method: str, pairs: int, modalities: int, options: dict[str, Any]) -> None:
    """One measurement, in this process: prints seconds and MiB."""
    import torch

    from mirepoix.models.losses.objective import Objective

    torch.set_num_threads(1)
    objective = Objective(**{"modality_mask": True, **options})
    step(method, *batch(64, modalities), objective)
    inputs = batch(pairs, modalities)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    step(method, *inputs, objective)
    print(time.process_time() - started, status("VmHWM") - before)


def measured(method: str, pairs: int, modalities: int = GROUPS, memory: bool = False, **options: Any) -> float:
    """CPU seconds, or MiB."""
    command = [sys.executable, __file__, method, str(pairs), str(modalities), *(f"{name}={value!r}" for name, value in options.items())]
    env = os.environ | {"PYTHONPATH": str(HERE)} | (LEAST_MEMORY if memory else {})
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return float(done.stdout.split()[1 if memory else 0])


def open_clip(home: str) -> str | None:
    """The file loss.py of open_clip's wheel; None where pip cannot fetch it."""
    fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", home, OPEN_CLIP]
    if subprocess.run(fetch, capture_output=True).returncode:
        return None
    return f"open_clip:{home}/open_clip/loss.py"


def slope(sizes: tuple[int, ...], values: list[float]) -> float:
    """The exponent of the power law through the first and the last value."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def measure(rounds: int) -> list[Row]:
    rounds = min(rounds, 3)
    memory = [measured("tiled", pairs, memory=True) for pairs in SIZES]
    dense_memory = measured("dense", DENSEST, memory=True)
    at_densest = memory[SIZES.index(DENSEST)]
    listed = ", ".join(f"{mib:.0f} MiB at {pairs // 1024}k" for pairs, mib in zip(SIZES, memory, strict=True))
    rows = [
        Row("tiled loss: slope of its memory from 1k to 32k pairs", [slope(SIZES, memory)], most=SLOPE, note=listed),
        Row(
            "memory of the tiled loss over the dense one, 16k pairs",
            [at_densest / dense_memory],
            most=OF_DENSE,
            note=f"dense {dense_memory:.0f} MiB",
        ),
    ]
    for pairs in (size for size in SIZES if size <= DENSEST):
        ratios = [measured("tiled", pairs) / measured("dense", pairs) for _ in range(rounds if pairs < DENSEST else 1)]
        rows.append(Row(f"time of the tiled loss over the dense one, {pairs // 1024}k pairs of three modalities", ratios))
    # A third is what the blocks of equal modality are of all; what is no block costs a little.
    groups = [measured("tiled", 8192, GROUPS) / measured("tiled", 8192, 1) for _ in range(rounds)]
    rows.append(Row(f"time with {GROUPS} equal modalities over that with one, 8k pairs", groups, most=1.1 / GROUPS))
    with tempfile.TemporaryDirectory() as home:
        theirs = open_clip(home)
        for pairs in (size for size in SIZES if size <= OPEN_CLIP_MOST) if theirs else ():
            ours = {"modality_mask": False, "symmetric": True}
            ratios = [measured("tiled", pairs, 1, **ours) / measured(theirs, pairs, 1) for _ in range(rounds)]
            rows.append(
                Row(f"time of the tiled loss over open_clip's, both directions, no mask, {pairs // 1024}k pairs", ratios, note=OPEN_CLIP)
            )
        if theirs:
            ratios = [measured("tiled", 4096, 1, memory=True, **ours) / measured(theirs, 4096, 1, memory=True)]
            rows.append(Row("memory of the tiled loss over open_clip's, 4k pairs", ratios, note=OPEN_CLIP))
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    method, pairs, modalities, *options = sys.argv[1:]
    given = dict(each.split("=", 1) for each in options)
    one(method, int(pairs), int(modalities), {name: ast.literal_eval(value) for name, value in given.items()})
