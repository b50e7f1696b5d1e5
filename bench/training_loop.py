"""Steps of the training loop against the same steps in bare torch."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from ratios import Row, interleaved
from training_world import ADAPTERS, alone, job_of, write_world

PROMISED = 0.97


def measure(rounds: int) -> list[Row]:
    from mirepoix.components.pairs.store import PairStore
    from mirepoix.components.training.batches.micro_batches import micro_batches
    from mirepoix.components.training.engine import deepspeed_engine
    from mirepoix.components.training.engine.restored import open_engine
    from mirepoix.components.training.progress import Progress
    from mirepoix.components.training.step import take_step
    from mirepoix.models.backbones.tuning_config import Tuning
    from mirepoix.models.encoder import load_own_encoder
    from mirepoix.models.losses.contrastive import contrastive
    from mirepoix.models.vectors import Vectors

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
            bare = load_own_encoder(encoder_folder).tune(tuning)
            learning = [weight for weight in bare.parameters() if weight.requires_grad]
            optimizer = torch.optim.AdamW(learning, lr=1e-4)
            steps, bare_batches = itertools.count(), itertools.cycle(batches)

            def loop(job=job, engine=engine, endless=itertools.cycle(batches), steps=steps) -> None:
                take_step(job, engine, endless, next(steps))

            def torch_alone(
                bare=bare, optimizer=optimizer, learning=learning, endless=bare_batches, objective=replace(job.config.loss)
            ) -> None:
                batch = next(endless)
                vectors = Vectors(*bare(**batch.chunks[0]))
                loss = contrastive(vectors[:32], vectors[32:], batch.labels, objective, 20.0).loss
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()

            seconds = interleaved({"loop": loop, "bare": torch_alone}, rounds)
            found.append(
                Row(f"loop: bare torch over the loop, {what}", seconds["bare"] / seconds["loop"], least=PROMISED, note="0.923 before")
            )
    return found
