"""One step of the optimizer."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from mirepoix.components.training.agreement import agreed, seed_torch
from mirepoix.components.training.batches.micro_batches import MicroBatch
from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, contrastive
from mirepoix.models.vectors import Vectors


def _inverse(temperature: float | None) -> float:
    assert temperature is not None, "the objective was not resolved for the encoder"
    return 1 / temperature


def take_step(job: TrainingJob, engine: Any, batches: Iterator[MicroBatch], step: int) -> dict[str, float]:
    """One step of the optimizer; returns its figures over all ranks."""
    objective, accumulation = job.config.loss, job.config.gradient_accumulation_steps
    total = torch.zeros(len(FIGURES), device=engine.device)
    for micro in range(accumulation):
        # Dropout is a function of seed, step and rank, so that a resumed run draws the same masks as an uninterrupted one.
        seed_torch(*job.seed, step, micro, dist.get_rank())
        batch, labels = agreed(lambda: next(batches))
        rows_NTD, mask_NT, *learned = engine(**{name: tensor.to(engine.device, non_blocking=True) for name, tensor in batch.items()})
        vectors, pairs = Vectors(rows_NTD.float(), mask_NT), len(labels.counts_B)
        scale = learned[0] if learned else _inverse(objective.temperature)
        contrast = contrastive(vectors[:pairs], vectors[pairs:], labels.to(engine.device), objective, scale)
        engine.backward(contrast.loss)
        total += torch.stack([getattr(contrast, name).detach().float().reshape(()) for name in FIGURES])
        norm = deepspeed_engine.step(engine)
    dist.all_reduce(total)
    figures = dict(zip(FIGURES, total.tolist(), strict=True))
    micro_batches = accumulation * dist.get_world_size()
    means = {name: value if name in COUNTS else value / micro_batches for name, value in figures.items()}
    return {**means, "grad_norm": norm}
