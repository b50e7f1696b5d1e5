"""The training loop of one worker: optimizer steps with DeepSpeed from the last checkpoint on, with logging and checkpoints.

The negatives of a query come from its global batch of `global_batch_size` pairs, of which each worker has a share. Gradient accumulation
averages over several of these and adds no negatives.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.agreement import agreed, seed_torch
from mirepoix.components.training.batches.micro_batches import micro_batches
from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.engine.chunked_encoder import with_weights
from mirepoix.components.training.engine.restored import open_engine
from mirepoix.components.training.job import Diverged, TrainingJob
from mirepoix.components.training.progress import Progress
from mirepoix.components.training.step import take_step
from mirepoix.components.training.watching.notes import new_notes
from mirepoix.components.training.watching.speed import Speed
from mirepoix.components.training.watching.work import counted
from mirepoix.components.training.workers.checkpoints import Checkpoints
from mirepoix.components.training.workers.host import Host, Notice, StartAgain
from mirepoix.components.training.workers.layout import ENCODER
from mirepoix.components.training.workers.watchdog import SAVING, Watchdog, limit_collectives, watching
from mirepoix.models.encoder import Encoder, load_own_encoder
from mirepoix.models.errors import Refused


def train(job: TrainingJob, host: Host) -> dict[str, float]:
    """Trains as one worker of a process group, from the last checkpoint on; returns the metrics of the finished training.

    Raises StartAgain when it has saved a checkpoint because a rank had a notice.
    """
    deepspeed_engine.prepare()
    with watching(job.config.collective_timeout) as watchdog:
        return _train(job, host, watchdog)


def _train(job: TrainingJob, host: Host, watchdog: Watchdog) -> dict[str, float]:
    seed_torch(*job.seed)
    (encoder, store, job), _ = agreed(lambda: _opened(job))
    checkpoints = Checkpoints(host)
    with checkpoints.newest() as folder:
        progress = Progress.read(folder) if folder else Progress(world=dist.get_world_size(), batch=job.config.global_batch_size)
        if progress.metrics is not None:
            return progress.metrics
        engine = open_engine(job, encoder, progress, folder)
    limit_collectives(job.config.collective_timeout)
    work, batches = counted(job, engine, micro_batches(job, store, encoder, progress.step))
    batches = watchdog.reading(batches, lambda: progress.step + 1)
    speed = Speed(job.pairs_per_step, work)
    row: dict[str, float] = {}
    while progress.step < job.total:
        rate = engine.get_lr()[0]
        taken = speed.timed(lambda: take_step(job, engine, batches, progress.step, host.notice))
        loss = taken.figures["loss"]
        progress.step += 1
        if not math.isfinite(loss):
            checkpoints.wait()
            last = "there is no checkpoint before it" if checkpoints.step is None else f"the last checkpoint is of step {checkpoints.step}"
            cure = "lower learning_rate or lengthen warmup_steps, which trains from the start"
            raise Diverged(f"the loss is {loss} at step {progress.step}; {last}; {cure}")
        progress.add(taken, rate)
        if progress.step % job.config.logging_steps == 0 or progress.step == job.total:
            row = {"step": progress.step, "total": job.total, "workers": dist.get_world_size(), **progress.report(), **speed.report()}
            notes = new_notes(job, progress, speed.data_wait)
            if dist.get_rank() == 0:
                host.log(row, notes)
        if progress.step < job.total and (taken.notice or progress.step % job.config.save_steps == 0):
            watchdog.at(progress.step, SAVING)
            checkpoints.save(engine, progress)
            if taken.notice:
                checkpoints.wait()
                raise StartAgain(Notice(taken.notice))
    watchdog.at(progress.step, SAVING)
    progress.metrics = {name: value for name, value in row.items() if name != "total"} | progress.counts
    checkpoints.finish(lambda folder: _save_encoder(job, engine, folder / ENCODER), progress)
    return progress.metrics


def _opened(job: TrainingJob) -> tuple[Encoder, PairStore, TrainingJob]:
    """The encoder, the pairs, and the job with the temperature and widths that its objective takes from the encoder."""
    encoder = load_own_encoder(job.encoder).tune(job.config.tuning)
    objective = job.config.loss.resolved(encoder.temperature, encoder.dimension)
    if job.config.gradient_checkpointing:
        checkpoint_activations(encoder)
    return encoder, PairStore(job.pairs), replace(job, config=replace(job.config, loss=objective))


def checkpoint_activations(encoder: Encoder) -> None:
    """Turns activation checkpointing on in all towers: activations are computed again in the backward pass and not stored."""
    supporting: list[Any] = [module for module in encoder.modules() if getattr(module, "supports_gradient_checkpointing", False)]
    if not supporting:
        raise Refused("gradient_checkpointing is on, and this encoder has no tower that supports it; turn it off")
    for module in supporting:
        module.activation_checkpointing_enable({"use_reentrant": False})


def _save_encoder(job: TrainingJob, engine: Any, folder: Path) -> None:
    """Writes the trained encoder on rank 0: the one that training started from, with the trained weights put in."""
    weights = deepspeed_engine.whole_weights(engine)
    if dist.get_rank() == 0:
        started_from = load_own_encoder(job.encoder).tune(job.config.tuning)
        with_weights(started_from, job.config.loss, weights).save(folder)
