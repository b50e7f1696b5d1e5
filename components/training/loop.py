"""The training loop of one worker: optimizer steps with DeepSpeed from the last checkpoint on, with logging and checkpoints.

The negatives of a query come from its global micro-batch of per_device_train_batch_size x num_workers pairs. Gradient accumulation averages
over several of these and adds no negatives.
"""

import json
import math
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import Drawn, PairStore
from mirepoix.components.training import deepspeed_engine
from mirepoix.components.training.augment import augmented
from mirepoix.components.training.batch_plan import BatchPlan
from mirepoix.components.training.job import Diverged, RefusedOnAllRanks, TrainingJob
from mirepoix.components.training.prefetch import Replicas, prefetched
from mirepoix.models.encoder import Encoder, load_own_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Pair, content_key
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, Labels, contrastive
from mirepoix.models.losses.temperature import Tempered
from mirepoix.models.vectors import Vectors

T = TypeVar("T")
MicroBatch = tuple[dict[str, torch.Tensor], Labels]


@dataclass
class Progress:
    """The position of a training, which every checkpoint contains."""

    step: int = 0
    world: int = 0
    batch: int = 0
    metrics: dict[str, float] | None = None  # the result, once training has finished
    window: dict[str, float] = field(default_factory=dict)  # sums since the last report
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*COUNTS, "steps_without_loss"), 0.0))

    @classmethod
    def read(cls, folder: Path) -> "Progress":
        return cls(**json.loads((folder / "progress.json").read_text()))

    def write(self, folder: Path) -> None:
        (folder / "progress.json").write_text(json.dumps(asdict(self)))

    def add(self, figures: dict[str, float]) -> None:
        for name, value in {**figures, "steps": 1.0}.items():
            self.window[name] = self.window.get(name, 0.0) + value
        for name in COUNTS:
            self.counts[name] += figures[name]
        self.counts["steps_without_loss"] += figures["loss"] == 0

    def report(self) -> dict[str, float]:
        """Means since the last report."""
        steps = self.window.pop("steps")
        means = {name: value / steps for name, value in self.window.items()}
        self.window = {}
        return means


class Host(Protocol):
    """The checkpoint storage and the log of a worker: Ray Train's (`train._RayHost`, below its stage's scratch), or folders in tests."""

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder of the last checkpoint, valid inside the block; None before the first."""

    def save_checkpoint(self, folder: Path, name: str) -> None:
        """Commits this rank's shard of a checkpoint, and returns when a killed process can no longer lose the checkpoint."""

    def log(self, row: dict[str, float]) -> None:
        """Logs the figures of a step; called on rank 0."""


def train(job: TrainingJob, host: Host) -> dict[str, float]:
    """Trains as one worker of a process group, from the last checkpoint on; returns the metrics of the finished training."""
    deepspeed_engine.prepare()
    _seed_torch(*job.seed)
    encoder, store, job = _agreed(lambda: _opened(job))
    with host.last_checkpoint() as folder:
        progress = Progress.read(folder) if folder else Progress(world=dist.get_world_size(), batch=job.config.batch)
        if progress.metrics is not None:
            return progress.metrics
        engine = _engine(job, encoder, progress, folder)
    started, first = time.monotonic(), progress.step
    batches = _batches(job, store, encoder, progress.step)
    row: dict[str, float] = {}
    while progress.step < job.total:
        rate = engine.get_lr()[0]
        figures = {**_step(job, engine, batches, progress.step), "learning_rate": rate}
        progress.step += 1
        if not math.isfinite(figures["loss"]):
            saved = (progress.step - 1) // job.config.save_steps * job.config.save_steps
            last = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint before it"
            raise Diverged(f"the loss is {figures['loss']} at step {progress.step}; {last}; lower learning_rate, lengthen warmup_steps")
        progress.add(figures)
        if progress.step % job.config.logging_steps == 0 or progress.step == job.total:
            pace = (progress.step - first) * job.config.batch * job.config.gradient_accumulation_steps / (time.monotonic() - started)
            row = {"step": progress.step, "total": job.total, **progress.report(), "pairs_per_second": pace}
            if dist.get_rank() == 0:
                host.log(row)
        if progress.step % job.config.save_steps == 0 and progress.step < job.total:
            with tempfile.TemporaryDirectory() as shard:
                deepspeed_engine.save(engine, Path(shard))
                progress.write(Path(shard))
                # The name has the world size, because a folder of the same name may hold shards of more ranks.
                host.save_checkpoint(Path(shard), f"step_{progress.step:08d}-{dist.get_world_size()}")
    progress.metrics = {name: value for name, value in row.items() if name != "total"} | progress.counts
    with tempfile.TemporaryDirectory() as shard:
        _save_encoder(job, engine, Path(shard) / "encoder")
        progress.write(Path(shard))
        host.save_checkpoint(Path(shard), "final")
    return progress.metrics


def _opened(job: TrainingJob) -> tuple[Encoder, PairStore, TrainingJob]:
    """The encoder, the pairs, and the job with the temperature and widths that its objective takes from the encoder."""
    encoder = load_own_encoder(job.encoder).tune(job.config.tuning)
    objective = job.config.loss.resolved(encoder.temperature, encoder.dimension)
    if job.config.gradient_checkpointing:
        checkpoint_activations(encoder)
    return encoder, PairStore(job.pairs), replace(job, config=replace(job.config, loss=objective))


def _agreed(make: Callable[[], T]) -> T:
    """The result of `make`; if any rank is refused, all ranks are."""
    made: Any = None
    refusal: str | None = None
    try:
        made = make()
    except Refused as error:
        refusal = str(error)
    refusals: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(refusals, refusal)
    if any(refusals):
        raise RefusedOnAllRanks(next(filter(None, refusals)))
    return made


def checkpoint_activations(encoder: Encoder) -> None:
    """Turns activation checkpointing on in all towers: activations are computed again in the backward pass and not stored."""
    supporting: list[Any] = [module for module in encoder.modules() if getattr(module, "supports_gradient_checkpointing", False)]
    if not supporting:
        raise Refused("gradient_checkpointing is on, and this encoder has no tower that supports it; turn it off")
    for module in supporting:
        module.activation_checkpointing_enable({"use_reentrant": False})


def _engine(job: TrainingJob, encoder: Encoder, progress: Progress, folder: Path | None) -> Any:
    """The engine, restored from the checkpoint if there is one."""
    settings, stage, world = job.engine_settings(encoder.dimension), job.config.zero_stage, dist.get_world_size()
    module = Tempered(encoder, job.config.loss) if job.config.loss.learned_temperature else encoder
    if progress.batch != job.config.batch:
        raise RefusedOnAllRanks(
            f"the checkpoint is of batches of {progress.batch} pairs, now they have {job.config.batch}, so the steps would have other "
            f"pairs; set per_device_train_batch_size so that its product with num_workers is {progress.batch}"
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


def _batches(job: TrainingJob, store: PairStore, encoder: Encoder, step: int) -> Iterator[MicroBatch]:
    """This rank's collated micro-batches from a step on, with the labels of their documents."""
    config, size = job.config, job.config.batch // dist.get_world_size()
    plan = BatchPlan(store, config.batch, job.seed, config.homogeneous, config.homogeneous_by)
    own = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    collate = Replicas(encoder.training_collator, max(1, config.dataloader_num_workers))

    def relevant(rows: np.ndarray, keys: list[list[tuple[int, int]]]) -> np.ndarray:
        """The content keys of the known answers to each pair's query, and those of the pair's augmented positive."""
        return np.concatenate([store.relevant(rows, config.mask_kin), [positive for positive, *_ in keys]], 1)

    def micro_batch(number: int) -> MicroBatch:
        rows, epoch = plan.batch(number)[own], number // plan.per_epoch
        drawn = store.drawn(rows, config.negatives, job.filled, (*job.seed, number))
        pairs = [augmented(whole.pair, config.augment, (*job.seed, epoch, row)) for row, whole in zip(rows, drawn, strict=True)]
        keys = [_keys(whole, pair) for whole, pair in zip(drawn, pairs, strict=True)]
        batch = collate([pair.query for pair in pairs], documents([[pair.positive, *pair.negatives] for pair in pairs]))
        labels = Labels(
            counts_B=torch.tensor([len(pair.negatives) for pair in pairs]),
            codes_M=torch.tensor(documents([[int(item.modality) for item in (pair.positive, *pair.negatives)] for pair in pairs])),
            keys_MH=torch.tensor(documents(keys)),
            scores_M=torch.tensor(documents([whole.scores for whole in drawn])),
            relevant_BR=torch.from_numpy(relevant(rows, keys)) if config.mask_relevant else None,
        )
        return batch, labels

    accumulation = config.gradient_accumulation_steps
    return prefetched(micro_batch, range(step * accumulation, job.total * accumulation), config.dataloader_num_workers)


def _keys(whole: Drawn, pair: Pair) -> list[tuple[int, int]]:
    """The content keys of each of a pair's documents, before and after augmentation, which may make documents equal."""
    items = zip(whole.keys, *((version.positive, *version.negatives) for version in (whole.pair, pair)), strict=True)
    return [(key, key if after is before else content_key(after)) for key, before, after in items]


def documents(per_pair: Sequence[Sequence[T]]) -> list[T]:
    """Values of each pair's documents, the positive's first, in the order of the loss: all positives, then each pair's negatives."""
    return [positive for positive, *_ in per_pair] + [each for _, *negatives in per_pair for each in negatives]


def _inverse(temperature: float | None) -> float:
    assert temperature is not None, "the objective was not resolved for the encoder"
    return 1 / temperature


def _step(job: TrainingJob, engine: Any, batches: Iterator[MicroBatch], step: int) -> dict[str, float]:
    """One step of the optimizer; returns its figures over all ranks."""
    objective, accumulation = job.config.loss, job.config.gradient_accumulation_steps
    total = torch.zeros(len(FIGURES), device=engine.device)
    for micro in range(accumulation):
        # Dropout is a function of seed, step and rank, so that a resumed run draws the same masks as an uninterrupted one.
        _seed_torch(*job.seed, step, micro, dist.get_rank())
        batch, labels = _agreed(lambda: next(batches))
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


def _seed_torch(*numbers: int) -> None:
    """Seeds torch's generators with a hash of these numbers."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _save_encoder(job: TrainingJob, engine: Any, folder: Path) -> None:
    """Writes the trained encoder on rank 0: the one that training started from, with the trained weights put in."""
    weights = deepspeed_engine.whole_weights(engine)
    if dist.get_rank() == 0:
        encoder = load_own_encoder(job.encoder).tune(job.config.tuning)
        encoder.widths = job.config.loss.widths
        if isinstance(engine.module, Tempered):
            weights, encoder.temperature = engine.module.parted(weights)
        unknown = encoder.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, f"trained weights {unknown} have no parameter in the encoder"
        encoder.eval().save(folder)
