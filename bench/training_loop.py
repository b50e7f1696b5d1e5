"""Steps of the training loop against the same steps in bare torch."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ratios import Row, interleaved
from training_world import ADAPTERS, OBJECTIVE, alone, job_of, write_world

from mirepoix.models.losses.contrastive import contrastive
from mirepoix.models.vectors import Vectors

PROMISED = 0.97


class BareTorch:
    """The steps of the loop without its engine, agreement, figures and log."""

    def __init__(self, encoder: Any, batches: Iterator[Any]):
        self.encoder, self.batches = encoder, batches
        self.learning = [weight for weight in encoder.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=1e-4)

    def step(self) -> None:
        batch = next(self.batches)
        pairs = len(batch.labels.counts_B)
        vectors = Vectors(*self.encoder(**batch.chunks[0]))
        loss = contrastive(vectors[:pairs], vectors[pairs:], batch.labels, OBJECTIVE, 1 / OBJECTIVE.temperature).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()


def measure(rounds: int) -> list[Row]:
    from mirepoix.components.pairs.store import PairStore
    from mirepoix.components.training.batches.micro_batches import micro_batches
    from mirepoix.components.training.engine import deepspeed_engine
    from mirepoix.components.training.engine.restored import open_engine
    from mirepoix.components.training.progress import Progress
    from mirepoix.components.training.step import take_step
    from mirepoix.models.backbones.tuning_config import Tuning
    from mirepoix.models.encoder import load_own_encoder

    alone()
    deepspeed_engine.prepare()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        encoder_folder, pairs = write_world(home)
        for what, tuning in (("all weights", Tuning(towers=("language", "vision"), lora=None)), ("adapters", ADAPTERS)):
            job = job_of(home, encoder_folder, pairs, tuning=tuning, global_batch_size=32, zero_stage=1)
            encoder = load_own_encoder(encoder_folder).tune(tuning)
            batches = list(itertools.islice(micro_batches(job, PairStore(pairs), encoder, 0), 2))
            engine = open_engine(job, encoder, Progress(world=1, batch=32), None)
            bare = BareTorch(load_own_encoder(encoder_folder).tune(tuning), itertools.cycle(batches))
            steps, endless = itertools.count(), itertools.cycle(batches)

            def loop(job=job, engine=engine, endless=endless, steps=steps) -> None:
                take_step(job, engine, endless, next(steps))

            seconds = interleaved({"loop": loop, "bare": bare.step}, rounds)
            found.append(
                Row(f"loop: bare torch over the loop, {what}", seconds["bare"] / seconds["loop"], least=PROMISED, note="0.923 before")
            )
    return found
