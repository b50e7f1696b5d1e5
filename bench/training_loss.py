"""The tiled loss against the dense one and against open_clip's: CPU seconds and memory, forward and backward, by the number of pairs.

Vectors of width 256. The masked loss (MAMCL) has three modalities of equal size, or as many as are said; open_clip's has no mask, and is
compared with ours without one, in both directions. Its file loss.py is taken from its wheel, which pip fetches, as open_clip itself needs
torchvision; where pip cannot, its rows say that they were not measured. Both are compared up to 16k pairs: at 32k the dense loss alone
would take 23 GB (four times its memory at 16k), so that the tiled one is measured there alone, for the slope of its memory.

With M equal modalities a share of 1/M of the scores is left. The time is promised within a tenth of that, as a tile has costs beside its
scores: its vectors are gathered, and sums are kept.

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratios import Row

HERE = Path(__file__).resolve().parents[1]
WIDTH, SCALE = 256, 30.0
SIZES = (1024, 4096, 16384, 32768)
COMPARED = SIZES[:3]
LARGEST = COMPARED[-1]
SLOPE, OF_DENSE, GROUPS, TOLERANCE = 1.05, 1 / 50, 3, 0.1
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
    memory = {pairs: measured("tiled", pairs, memory=True) for pairs in SIZES}
    with tempfile.TemporaryDirectory() as home:
        return [_slope(memory), *_beside_dense(rounds, memory), _groups(rounds), *_beside_open_clip(rounds, open_clip(home))]


def _slope(memory: Mapping[int, float]) -> Row:
    listed = ", ".join(f"{mib:.0f} MiB at {_k(pairs)}" for pairs, mib in memory.items())
    return Row("tiled loss: slope of its memory from 1k to 32k pairs", [slope(SIZES, [*memory.values()])], most=SLOPE, note=listed)


def _beside_dense(rounds: int, memory: Mapping[int, float]) -> Iterator[Row]:
    """Memory, of which that of the tiled loss is given, and time at each size; the share of the memory is promised of the largest."""
    for pairs in COMPARED:
        dense = measured("dense", pairs, memory=True)
        ratio, most, note = memory[pairs] / dense, None, f"dense {dense:.0f} MiB"
        if pairs == LARGEST:
            most, note = OF_DENSE, f"{note}; left out at twice the pairs, where it would take {4 * dense * 2**20 / 1e9:.0f} GB"
        yield Row(f"memory of the tiled loss over the dense one, {_k(pairs)} pairs of three modalities", [ratio], most=most, note=note)
    for pairs in COMPARED:
        ratios = [measured("tiled", pairs) / measured("dense", pairs) for _ in range(_rounds(rounds, pairs))]
        yield Row(f"time of the tiled loss over the dense one, {_k(pairs)} pairs of three modalities", ratios)


def _groups(rounds: int) -> Row:
    ratios = [measured("tiled", 8192, GROUPS) / measured("tiled", 8192, 1) for _ in range(rounds)]
    reason = f"1/{GROUPS}, and {TOLERANCE:.0%} of it for what a tile costs beside its scores"
    what = f"time of the tiled loss with {GROUPS} equal modalities over that with one, 8k pairs"
    return Row(what, ratios, most=(1 + TOLERANCE) / GROUPS, reason=reason)


def _beside_open_clip(rounds: int, theirs: str | None) -> Iterator[Row]:
    """Memory and time at each size, without a mask and in both directions; rows without figures where open_clip is not there."""
    note = OPEN_CLIP if theirs else f"pip cannot install {OPEN_CLIP}"
    for memory in (True, False):
        for pairs in COMPARED:
            ratios = []
            for _ in range(_rounds(rounds, pairs, memory) if theirs else 0):
                own = measured("tiled", pairs, 1, memory, modality_mask=False, symmetric=True)
                ratios.append(own / measured(theirs, pairs, 1, memory))
            what = "memory" if memory else "time"
            yield Row(f"{what} of the tiled loss over open_clip's, both directions, no mask, {_k(pairs)} pairs", ratios, note=note)


def _rounds(rounds: int, pairs: int, memory: bool = False) -> int:
    """Memory is alike in every round, and the largest size takes minutes."""
    return 1 if memory or pairs == LARGEST else rounds


def _k(pairs: int) -> str:
    return f"{pairs // 1024}k"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    method, pairs, modalities, *options = sys.argv[1:]
    given = dict(each.split("=", 1) for each in options)
    one(method, int(pairs), int(modalities), {name: ast.literal_eval(value) for name, value in given.items()})
