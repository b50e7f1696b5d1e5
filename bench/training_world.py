"""What the training benchmarks run: a random UNITE, pairs of words and pictures, and a process group of one."""

import os
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from mirepoix.components.pairs.store import PairRow, write_pairs
from mirepoix.components.training.job import TrainingJob, make_job
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.item import Item
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig

SIZES = Tiny(
    hidden_size=256,
    layers=4,
    heads=4,
    intermediate_size=768,
    vision_depth=4,
    vision_width=192,
    vision_heads=4,
    max_pixels=112 * 112,
    initializer_range=0.02,
)
"""Large enough that the model costs more than the Python around it."""
ADAPTERS = Tuning(towers=("language",), lora=Lora(8, 16, 0.0))
OBJECTIVE = Objective(temperature=0.05)
WORDS = ("red", "green", "blue", "round", "square", "small", "large", "old", "new", "bright", "dark", "wooden", "glass", "metal")


def alone() -> None:
    """A process group of this process alone, with one thread."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mkdtemp()}/rendezvous", rank=0, world_size=1)


def sentence(draw: np.random.Generator, least: int = 6, most: int = 14) -> str:
    return " ".join(draw.choice(WORDS, int(draw.integers(least, most))))


def picture(draw: np.random.Generator, side: int = 112) -> bytes:
    coarse = draw.integers(0, 256, (8, 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(file, "PNG")
    return file.getvalue()


def write_world(home: Path, pairs: int = 64, pictured: float = 0.5) -> tuple[Path, Path]:
    """An encoder, and pairs of a sentence with a picture or another sentence."""
    draw = np.random.default_rng(0)
    items, rows = [], []
    for number in range(pairs):
        shown = draw.random() < pictured
        items += [
            Item(f"q{number}", text=sentence(draw)),
            Item(f"d{number}", images=(picture(draw),)) if shown else Item(f"d{number}", text=sentence(draw)),
        ]
        rows.append(PairRow(f"p{number}", 2 * number, 2 * number + 1, [], task="t->i" if shown else "t->t"))
    write_pairs(home / "pairs", items, rows)
    twins = make_twin(home / "twin", "qwen2_vl", [sentence(draw) for _ in range(200)], SIZES, seed=1)
    Unite.build(twins, UniteConfig()).save(home / "encoder")
    return home / "encoder", home / "pairs"


def job_of(home: Path, encoder: Path, pairs: Path, **changes: Any) -> TrainingJob:
    config = TrainConfig(learning_rate=1e-4, warmup_steps=0, loss=OBJECTIVE, max_steps=100_000, dataloader_num_workers=0)
    return make_job(replace(config, **changes), 0, pairs, encoder)
