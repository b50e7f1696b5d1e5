"""The engine of a training, restored from a checkpoint of any world size if there is one."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.engine.chunked_encoder import ChunkedEncoder
from mirepoix.components.training.job import RefusedOnAllRanks, TrainingJob
from mirepoix.components.training.progress import Progress
from mirepoix.models.encoder import Encoder


def open_engine(job: TrainingJob, encoder: Encoder, progress: Progress, folder: Path | None) -> Any:
    """The engine, restored from the checkpoint if there is one."""
    stage, world = job.config.zero_stage, dist.get_world_size()
    settings = job.engine_settings(encoder.dimension, world)
    module = ChunkedEncoder(encoder, job.config.loss, sharded_weights=stage == 3)
    if progress.batch != job.config.global_batch_size:
        raise RefusedOnAllRanks(
            f"the checkpoint is of batches of {progress.batch} pairs, now they have {job.config.global_batch_size}, so the steps would "
            f"have other pairs; give global_batch_size={progress.batch}"
        )
    if folder is None or progress.world == world or stage == 0:
        engine = deepspeed_engine.start(module, settings, job.factor, encoder.UNDECAYED)
        if folder is not None:
            deepspeed_engine.load(engine, folder)
    else:
        with _reshaped(folder, stage) as universal:
            engine = deepspeed_engine.start(module, settings, job.factor, encoder.UNDECAYED, universal=True)
            deepspeed_engine.load(engine, universal)
            dist.barrier()
    progress.world = world
    return engine


@contextmanager
def _reshaped(folder: Path, stage: int) -> Iterator[Path]:
    """The checkpoint reshaped for another world size: done once per node, in a folder that the ranks of the node share."""
    host, world = socket.gethostname(), dist.get_world_size()
    hosts: list[str] = [""] * world
    dist.all_gather_object(hosts, host)
    with tempfile.TemporaryDirectory() as own:
        if hosts.index(host) == dist.get_rank():
            deepspeed_engine.reshape(folder, stage, Path(own))
        folders: list[str] = [""] * world
        dist.all_gather_object(folders, own)
        yield Path(folders[hosts.index(host)])
