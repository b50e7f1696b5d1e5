"""The training stage: Ray Train starts workers, each of which runs `loop.train`; this process only drives them and imports no torch."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.training.job import RefusedOnAllRanks, TrainingJob, make_job
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.components.training.workers.host import StartAgain
from mirepoix.components.training.workers.layout import ENCODER, PROGRESS, RUN
from mirepoix.serving.store import join


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    import ray.train
    import torch

    from mirepoix.components.training.loop import train
    from mirepoix.components.training.workers.notices import Notices
    from mirepoix.components.training.workers.ray_host import RayHost

    job, context = settings["job"], ray.train.get_context()
    torch.set_num_threads(job.config.cpus_per_worker)
    missing = job.config.num_workers - context.get_world_size() if context.get_world_rank() == 0 else 0
    notices = Notices(settings["places"], missing, settings["resources"], job.config.grow_after)
    try:
        return {"metrics": train(job, RayHost(settings["report"], notices.now))}
    except StartAgain as again:
        return {"again": again.notice}
    except RefusedOnAllRanks as error:  # returned and not raised, because another attempt would end in the same way
        return {"refused": type(error), "why": str(error)}


def work(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """Trains an encoder on a folder of pairs; called again with the same scratch, it continues from the last checkpoint."""
    job = make_job(config, context.seed, pairs, encoder)
    import ray
    import ray.train

    from mirepoix.components.training.workers.attempts import Attempts, Room, committed
    from mirepoix.components.training.workers.ray_host import checkpoint_folder, forget_broken_list
    from mirepoix.components.training.workers.room import places_of

    fewest = config.fewest_workers
    gpu = ray.cluster_resources().get("GPU", 0) >= fewest if config.use_gpu is None else config.use_gpu
    resources: dict[str, float] = {"CPU": config.cpus_per_worker, **({"GPU": 1} if gpu else {})}
    run, places = join(context.scratch, RUN), places_of(context.scratch)
    _set_variables(config, resources)

    def saved() -> str | None:
        """The last committed checkpoint; a list that a kill tore would stop Ray from reading it."""
        forget_broken_list(context.scratch, RUN)
        return committed(run)

    attempts = Attempts(
        lambda workers: _fit(context, job, resources, places, workers).return_value,
        saved,
        Room(fewest, config.num_workers, resources, places),
        config.max_failures,
    )
    value, workers = attempts.run()
    if "refused" in value:
        raise value["refused"](value["why"])
    with checkpoint_folder(ray.train.Result.from_path(run).checkpoint) as folder:
        shutil.copytree(folder / ENCODER, context.folder, dirs_exist_ok=True)
        notes = json.loads((folder / PROGRESS).read_text())["notes"]
    count = len(PairStore(pairs))
    metrics = {**value["metrics"], "gpus": workers if gpu else 0}
    return Outcome(Rows(read=count, written=count), metrics, {"notes": notes} if notes else {})


def _fit(context: Context, job: TrainingJob, resources: dict[str, float], places: str, workers: int) -> Any:
    """One run of Ray Train, from the last checkpoint on; it retries nothing."""
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer is this with a TorchConfig

    from mirepoix.components.training.workers.ray_host import forget_broken_list
    from mirepoix.components.training.workers.torch_backend import TorchBackendConfig

    forget_broken_list(context.scratch, RUN)
    gpu = "GPU" in resources
    kind: Any = DataParallelTrainer  # its annotations are of Ray Train's first version
    return kind(
        _worker,
        train_loop_config={"job": job, "report": context.report, "resources": resources, "places": places},
        backend_config=TorchBackendConfig("nccl" if gpu else "gloo", job.config.collective_timeout),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN,
            storage_path=context.scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.keep_checkpoints),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    ).fit()


def _set_variables(config: TrainConfig, resources: dict[str, float]) -> None:
    """Sets what Ray Train reads from the environment, where the user has not."""
    import ray

    # Ray commits a checkpoint, and notices that training has ended, when it next polls the workers, in this interval.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(min(2.0, max(0.25, config.num_workers / 32))))
    # Ray's own collectives, in which all ranks save a checkpoint, have no timeout by default; a checkpoint may take longer than a step.
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(6 * config.collective_timeout))
    alone = len(ray.nodes()) == 1 and all(
        ray.cluster_resources().get(name, 0) >= config.num_workers * number for name, number in resources.items()
    )
    if alone:  # Ray Train's watcher for nodes that are taken away has nothing to watch where all workers are on the driver's node
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def adapt(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The adaptation stage: trains on the pairs without instructions."""
    return work(context, config, pairs / "adapt", encoder)


def instruct(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The instruction stage: trains on the pairs with instructions."""
    return work(context, config, pairs / "instruct", encoder)


def refine(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The refining stage: trains again on the pairs with instructions, with the negatives that the encoder itself finds hard."""
    return work(context, config, pairs / "instruct", encoder)
