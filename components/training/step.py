"""One step of the optimizer, and what it measures."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from mirepoix.components.training.agreement import agreed, derived_seed
from mirepoix.components.training.batches.micro_batches import MicroBatch
from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.item import Modality
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, contrastive
from mirepoix.models.losses.figures import CODES
from mirepoix.models.vectors import Vectors


@dataclass(frozen=True)
class Step:
    """What a step of the optimizer measured, over all ranks."""

    figures: dict[str, float]  # the loss and what it is judged by: means over micro-batches, and counts of rows
    tokens: int
    places: int  # tokens with padding
    pictures: int
    chunks: int  # most of a micro-batch
    waited_s: float  # for the batches: of the rank that waited longest
    modalities: dict[str, tuple[int, int]]  # by the positive's modality: its pairs, and those of them without a negative
    notice: int = 0  # the highest that any rank had


def _inverse(temperature: float | None) -> float:
    assert temperature is not None, "the objective was not resolved for the encoder"
    return 1 / temperature


def _received(batches: Iterator[MicroBatch]) -> tuple[MicroBatch, int]:
    """The next micro-batch, and the microseconds that it was waited for."""
    started = time.perf_counter()
    batch = next(batches)
    return batch, round(1e6 * (time.perf_counter() - started))


def take_step(job: TrainingJob, engine: Any, batches: Iterator[MicroBatch], step: int, notice: Callable[[], int] = lambda: 0) -> Step:
    """One step of the optimizer: for each micro-batch one forward and one backward of the engine, however many chunks it has.

    `notice` is that of this rank (`Host.notice`), which the ranks exchange with what they have to agree on anyway.
    """
    objective, accumulation = job.config.loss, job.config.gradient_accumulation_steps
    total = torch.zeros(len(FIGURES) + 3, dtype=torch.float64, device=engine.device)
    codes = torch.zeros(CODES, 2, dtype=torch.float64, device=engine.device)
    longest, waited_us, noticed = 1, 0, 0
    for micro in range(accumulation):
        (batch, _), (most, waited, told) = agreed(
            lambda: _received(batches), lambda received: (len(received[0].chunks), received[1], int(notice())), 3
        )
        longest, waited_us, noticed = max(longest, most), waited_us + waited, max(noticed, told)
        idle = most - len(batch.chunks)
        # Dropout is a function of seed, step, rank and chunk, so that a resumed run draws the same masks as an uninterrupted one.
        seeds = [derived_seed(*job.seed, step, micro, dist.get_rank(), chunk) for chunk in range(most)]
        rows_NTD, mask_NT, *learned = engine([*batch.chunks, *[batch.idle] * idle], seeds, idle)
        vectors, pairs = Vectors(rows_NTD.float(), mask_NT)[batch.back_N.to(rows_NTD.device)], len(batch.labels.counts_B)
        scale = learned[0] if learned else _inverse(objective.temperature)
        contrast = contrastive(vectors[:pairs], vectors[pairs:], batch.labels.to(engine.device), objective, scale)
        engine.backward(contrast.loss)
        total[: len(FIGURES)] += torch.stack([getattr(contrast, name).detach().double().reshape(()) for name in FIGURES])
        total[len(FIGURES) :] += torch.tensor([batch.tokens, batch.places, batch.pictures], device=total.device)
        codes += contrast.modalities_C2
        norm = deepspeed_engine.step(engine)
    whole = torch.cat([total, codes.flatten()])
    dist.all_reduce(whole)
    *sums, tokens, places, pictures = whole[: len(total)].tolist()
    micro_batches = accumulation * dist.get_world_size()
    means = {name: value if name in COUNTS else value / micro_batches for name, value in zip(FIGURES, sums, strict=True)}
    counts = whole[len(total) :].reshape(-1, 2).tolist()
    modalities = {Modality(code).words: (int(pairs), int(bare)) for code, (pairs, bare) in enumerate(counts) if pairs}
    return Step({**means, "grad_norm": norm}, int(tokens), int(places), int(pictures), longest, waited_us / 1e6, modalities, noticed)
