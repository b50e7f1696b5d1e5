"""The training stage: Ray Train starts workers, each of which runs `loop.train`; this process only drives them and imports no torch."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.training.job import RefusedOnAllRanks, make_job
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.errors import Refused

RUN = "train"


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    import torch

    from mirepoix.components.training.loop import train
    from mirepoix.components.training.workers.ray_host import RayHost

    job = settings["job"]
    torch.set_num_threads(job.config.cpus_per_worker)
    try:
        return {"metrics": train(job, RayHost(settings["report"]))}
    except RefusedOnAllRanks as error:  # returned and not raised, because Ray Train would retry it
        return {"refused": type(error), "why": str(error)}


def work(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """Trains an encoder on a folder of pairs; called again with the same scratch, it continues from the last checkpoint."""
    job = make_job(config, context.seed, pairs, encoder)
    import ray
    from ray.train import TrainingFailedError
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer is this with a TorchConfig

    from mirepoix.components.training.workers.ray_host import checkpoint_folder, forget_broken_list
    from mirepoix.components.training.workers.torch_backend import TorchBackendConfig

    gpu = ray.cluster_resources().get("GPU", 0) >= config.num_workers if config.use_gpu is None else config.use_gpu
    # Ray commits a checkpoint, and notices that training has ended, when it next polls the workers, in this interval.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(min(2.0, max(0.25, config.num_workers / 32))))
    kind: Any = DataParallelTrainer  # its annotations are of Ray Train's first version
    if len(ray.nodes()) == 1:  # Ray Train's watcher for preempted nodes has nothing to watch there
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    forget_broken_list(context.scratch, RUN)
    trainer = kind(
        _worker,
        train_loop_config={"job": job, "report": context.report},
        backend_config=TorchBackendConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=gpu, resources_per_worker=_resources(config, gpu)),
        run_config=RunConfig(
            name=RUN,
            storage_path=context.scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
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
    with checkpoint_folder(result.checkpoint) as folder:
        shutil.copytree(folder / "encoder", context.folder, dirs_exist_ok=True)
        notes = json.loads((folder / "progress.json").read_text())["notes"]
    count = len(PairStore(pairs))
    metrics = {**result.return_value["metrics"], "gpus": config.num_workers if gpu else 0}
    return Outcome(Rows(read=count, written=count), metrics, {"notes": notes} if notes else {})


def _resources(config: TrainConfig, gpu: bool) -> dict[str, float]:
    share: dict[str, float] = {"CPU": config.cpus_per_worker}
    return share | ({"GPU": 1} if gpu else {})


def adapt(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The adaptation stage: trains on the pairs without instructions."""
    return work(context, config, pairs / "adapt", encoder)


def instruct(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The instruction stage: trains on the pairs with instructions."""
    return work(context, config, pairs / "instruct", encoder)


def refine(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The refining stage: trains again on the pairs with instructions, with the negatives that the encoder itself finds hard."""
    return work(context, config, pairs / "instruct", encoder)
