"""The only training loop: Ray Train starts the workers, DeepSpeed shards what they train, each step is told, each checkpoint survives.

A step's negatives come from its global micro-batch: per_device_train_batch_size x num_workers pairs. Gradient accumulation averages over
several of these and adds no negatives.

Refused
`-- Unanimous        refused on every rank: it would be again
    `-- Diverged     the loss is no number any more
"""

import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import Copies, Drawn, PairStore, ahead, content_key
from mirepoix.components.training import deepspeed_engine
from mirepoix.components.training.augment import augmented
from mirepoix.components.training.batch_plan import BatchPlan
from mirepoix.components.training.job import TrainConfig, TrainingJob, make_job
from mirepoix.components.training.step_log import StepLog
from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Pair
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, Labels, contrastive
from mirepoix.models.losses.temperature import Tempered
from mirepoix.models.vectors import Vectors
from mirepoix.serving.store import Context, Outcome, Rows

T = TypeVar("T")

RUN = "train"
COMMIT_SECONDS = 600
MicroBatch = tuple[dict[str, torch.Tensor], Labels]


class Unanimous(Refused):
    """Every rank refuses, so none waits for another; trying again would end the same way."""


class Diverged(Unanimous):
    """The loss is no number any more; training again from the last checkpoint would end the same way."""


@dataclass
class Progress:
    """How far training is; stands in every checkpoint."""

    step: int = 0
    world: int = 0
    batch: int = 0
    metrics: dict[str, float] | None = None  # of a finished training
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


class Site(Protocol):
    """Where a worker trains: what it finds there, and whom it tells."""

    def resume(self) -> AbstractContextManager[Path | None]:
        """The last checkpoint, while the block lasts."""

    def keep(self, folder: Path, name: str) -> None:
        """Commits a checkpoint of which every rank brings its share, and returns when a kill can no longer lose it."""

    def log(self, row: dict[str, float]) -> None:
        """Tells a row of figures; called on rank 0."""


def train(job: TrainingJob, site: Site) -> dict[str, float]:
    """Trains as one worker of a process group, from the last checkpoint on; returns the last figures."""
    deepspeed_engine.prepare()
    _draw_from(*job.seed)
    encoder, store, job = _agreed(lambda: _opened(job))
    with site.resume() as folder:
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
            kept = (progress.step - 1) // job.config.save_steps * job.config.save_steps
            last = f"the last checkpoint is of step {kept}" if kept else "there is no checkpoint before it"
            raise Diverged(f"the loss is {figures['loss']} at step {progress.step}; {last}; lower learning_rate, lengthen warmup_steps")
        progress.add(figures)
        if progress.step % job.config.logging_steps == 0 or progress.step == job.total:
            pace = (progress.step - first) * job.config.batch * job.config.gradient_accumulation_steps / (time.monotonic() - started)
            row = {"step": progress.step, "total": job.total, **progress.report(), "pairs_per_second": pace}
            if dist.get_rank() == 0:
                site.log(row)
        if progress.step % job.config.save_steps == 0 and progress.step < job.total:
            with tempfile.TemporaryDirectory() as share:
                deepspeed_engine.save(engine, Path(share))
                progress.write(Path(share))
                # Ranks of another world size would leave shares behind in a folder of the same name.
                site.keep(Path(share), f"step_{progress.step:08d}-{dist.get_world_size()}")
    progress.metrics = {name: value for name, value in row.items() if name != "total"} | progress.counts
    with tempfile.TemporaryDirectory() as share:
        _save_encoder(job, engine, Path(share) / "encoder")
        progress.write(Path(share))
        site.keep(Path(share), "final")
    return progress.metrics


def _opened(job: TrainingJob) -> tuple[Encoder, PairStore, TrainingJob]:
    """The encoder, the pairs, and the job with what it left to the encoder."""
    encoder = load_encoder(job.encoder).tune(job.config.tuning)
    objective = job.config.loss.settled(encoder.temperature, encoder.dimension)
    if job.config.gradient_checkpointing:
        recompute(encoder)
    return encoder, PairStore(job.pairs), replace(job, config=replace(job.config, loss=objective))


def _agreed(make: Callable[[], T]) -> T:
    """What `make` gives; refused on one rank, it is refused on all."""
    made, refusal = None, None
    try:
        made = make()
    except Refused as error:
        refusal = str(error)
    refusals: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(refusals, refusal)
    if any(refusals):
        raise Unanimous(next(filter(None, refusals)))
    return made


def recompute(encoder: Encoder) -> None:
    """Activations of all towers are computed again in the backward pass instead of kept."""
    able = [module for module in encoder.modules() if getattr(module, "supports_gradient_checkpointing", False)]
    if not able:
        raise Refused("gradient_checkpointing is on, and this encoder has no tower that supports it; turn it off")
    for module in able:
        module.activation_checkpointing_enable({"use_reentrant": False})


def _engine(job: TrainingJob, encoder: Encoder, progress: Progress, folder: Path | None) -> Any:
    """The engine as it was at the checkpoint, or new without one."""
    settings, stage, world = job.settle(encoder.dimension), job.config.zero_stage, dist.get_world_size()
    module = Tempered(encoder, job.config.loss) if job.config.loss.learned_temperature else encoder
    if progress.batch != job.config.batch:
        raise Unanimous(
            f"the checkpoint is of batches of {progress.batch} pairs, now they have {job.config.batch}: the same steps would see "
            f"other pairs; set per_device_train_batch_size so that it and num_workers make {progress.batch}"
        )
    if folder is None or progress.world == world or stage == 0:
        engine = deepspeed_engine.start(module, settings, job.factor)
        if folder is not None:
            deepspeed_engine.load(engine, folder)
    else:
        with _reshaped(folder, stage) as universal:
            engine = deepspeed_engine.start(module, settings, job.factor, universal=True)
            deepspeed_engine.load(engine, universal)
            dist.barrier()
    progress.world = world
    return engine


@contextmanager
def _reshaped(folder: Path, stage: int) -> Iterator[Path]:
    """The checkpoint as it loads at another world size: once per node, in a folder that its ranks share."""
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
    """This rank's collated micro-batches from a step on, with what is known of their documents."""
    config, share = job.config, job.config.batch // dist.get_world_size()
    plan = BatchPlan(store, config.batch, job.seed, config.homogeneous, config.homogeneous_by)
    mine = slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    collate = Copies(encoder.training_collator, max(1, config.dataloader_num_workers))

    def relevant(rows: np.ndarray, keys: list[list[tuple[int, int]]]) -> np.ndarray:
        """What is known to answer each pair's query, and the pair's own positive as this step sees it."""
        return np.concatenate([store.relevant(rows, config.mask_kin), [positive for positive, *_ in keys]], 1)

    def micro_batch(number: int) -> MicroBatch:
        rows, epoch = plan.batch(number)[mine], number // plan.per_epoch
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
    return ahead(micro_batch, range(step * accumulation, job.total * accumulation), config.dataloader_num_workers)


def _keys(whole: Drawn, pair: Pair) -> list[tuple[int, int]]:
    """The content keys of each of a pair's documents: as it is, and as this step sees it, which may be as another is."""
    items = zip(whole.keys, *((told.positive, *told.negatives) for told in (whole.pair, pair)), strict=True)
    return [(key, key if seen is item else content_key(seen)) for key, item, seen in items]


def documents(told: Sequence[Sequence[T]]) -> list[T]:
    """What is told of each pair's documents, the positive first, in the order of the loss: all positives, then each pair's negatives."""
    return [first for first, *_ in told] + [each for _, *others in told for each in others]


def _step(job: TrainingJob, engine: Any, batches: Iterator[MicroBatch], step: int) -> dict[str, float]:
    """One step of the optimizer; its figures, over all ranks."""
    objective, accumulation = job.config.loss, job.config.gradient_accumulation_steps
    total = torch.zeros(len(FIGURES), device=engine.device)
    for micro in range(accumulation):
        # Dropout is a function of seed, step and rank, so a resumed run draws what an uninterrupted one draws.
        _draw_from(*job.seed, step, micro, dist.get_rank())
        batch, labels = _agreed(lambda: next(batches))
        rows_NTD, mask_NT, *learned = engine(**{name: tensor.to(engine.device, non_blocking=True) for name, tensor in batch.items()})
        vectors, pairs = Vectors(rows_NTD.float(), mask_NT), len(labels.counts_B)
        scale = learned[0] if learned else 1 / objective.temperature
        contrast = contrastive(vectors[:pairs], vectors[pairs:], labels.to(engine.device), objective, scale)
        engine.backward(contrast.loss)
        total += torch.stack([getattr(contrast, name).detach().float().reshape(()) for name in FIGURES])
        norm = deepspeed_engine.step(engine)
    dist.all_reduce(total)
    figures = dict(zip(FIGURES, total.tolist(), strict=True))
    micro_batches = accumulation * dist.get_world_size()
    means = {name: value if name in COUNTS else value / micro_batches for name, value in figures.items()}
    return {**means, "grad_norm": norm}


def _draw_from(*numbers: int) -> None:
    """What torch draws next is a function of these numbers."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _save_encoder(job: TrainingJob, engine: Any, folder: Path) -> None:
    """Writes the trained encoder on rank 0: as it was opened, with the weights that learnt put in whole."""
    weights = deepspeed_engine.whole_weights(engine)
    if dist.get_rank() == 0:
        encoder = load_encoder(job.encoder).tune(job.config.tuning)
        encoder.widths = job.config.loss.widths
        if isinstance(engine.module, Tempered):
            weights, encoder.temperature = engine.module.parted(weights)
        unknown = encoder.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, f"weights {unknown} are of no parameter"
        encoder.eval().save(folder)


class _RaySite:
    """A worker of Ray Train."""

    def __init__(self, journal: Any):
        self.journal = journal
        self.told: Any = None

    def resume(self) -> AbstractContextManager[Path | None]:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return _folder(checkpoint) if checkpoint else nullcontext()

    def keep(self, folder: Path, name: str) -> None:
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({}, checkpoint=checkpoint, checkpoint_dir_name=name)
        # report() returns before the checkpoint counts; a kill in between would lose it.
        mode = ray.train.CheckpointConsistencyMode.COMMITTED
        ray.train.get_all_reported_checkpoints(consistency_mode=mode, timeout_s=COMMIT_SECONDS)

    def log(self, row: dict[str, float]) -> None:
        import ray

        if self.told is not None:
            ray.get(self.told)
        self.told = self.journal.tell.remote(row)


@contextmanager
def _folder(checkpoint: Any) -> Iterator[Path]:
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def _worker(told: dict[str, Any]) -> dict[str, Any]:
    job = told["job"]
    torch.set_num_threads(job.config.cpus_per_worker)
    try:
        return {"metrics": train(job, _RaySite(told["journal"]))}
    except Unanimous as error:  # raised, it would be tried again
        return {"refused": type(error), "why": str(error)}


def work(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """Trains the encoder in one folder on the pairs in another; called again with the same scratch, goes on from the last checkpoint."""
    job = make_job(config, context.seed, pairs, encoder)
    import ray
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = ray.cluster_resources().get("GPU", 0) >= config.num_workers if config.use_gpu is None else config.use_gpu
    # A checkpoint counts, and an end is seen, when Ray next asks the workers; it takes its interval from here.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(min(2.0, max(0.25, config.num_workers / 32))))
    journal = ray.remote(num_cpus=0)(StepLog).remote(context.report)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "journal": journal},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=gpu, resources_per_worker=_share(config, gpu)),
        run_config=RunConfig(
            name=RUN,
            storage_path=context.scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        refusals = [cause for cause in getattr(error, "worker_failures", {}).values() if isinstance(cause, Refused)]
        raise (refusals[0] if refusals else error) from None
    if "refused" in result.return_value:
        raise result.return_value["refused"](result.return_value["why"])
    with _folder(result.checkpoint) as folder:
        shutil.copytree(folder / "encoder", context.folder, dirs_exist_ok=True)
    count = len(PairStore(pairs))
    return Outcome(Rows(read=count, written=count), {**result.return_value["metrics"], "gpus": config.num_workers if gpu else 0})


def _share(config: TrainConfig, gpu: bool) -> dict[str, float]:
    return {"CPU": config.cpus_per_worker} | ({"GPU": 1} if gpu else {})


def adapt(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The adaptation stage: on the pairs without instructions."""
    return work(context, config, pairs / "adapt", encoder)


def instruct(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The instruction stage: on the pairs with instructions."""
    return work(context, config, pairs / "instruct", encoder)


def refine(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The refining stage: on the pairs with instructions once more, with the negatives that the encoder itself finds hard."""
    return work(context, config, pairs / "instruct", encoder)
