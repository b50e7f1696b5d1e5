"""What a checkpoint holds the steps up for, against writing and committing it while they wait; under Ray Train, two workers.

The engine has 21 million weights at ZeRO 1, so that a checkpoint has some 250 MB. Each round takes both, in alternating order, after as
many steps. The first checkpoint allocates the copies that all later ones write into, and is a row of its own.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ratios import Row

PROMISED = 0.2
WORKERS, WIDTH, LAYERS, STEPS = 2, 2048, 5, 8


def worker(settings: dict[str, Any]) -> None:
    import ray.train
    import torch
    import torch.distributed as dist

    from mirepoix.components.training.engine import deepspeed_engine
    from mirepoix.components.training.engine.deepspeed_settings import Numbers, resolved
    from mirepoix.components.training.progress import Progress
    from mirepoix.components.training.workers.checkpoints import Checkpoints
    from mirepoix.components.training.workers.host import Notice
    from mirepoix.components.training.workers.ray_host import RayHost

    torch.set_num_threads(1)
    deepspeed_engine.prepare()
    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    numbers = Numbers(
        stage=1,
        world=WORKERS,
        batch=8 * WORKERS,
        accumulation=1,
        max_grad_norm=1.0,
        learning_rate=1e-4,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        bf16=False,
        warmup=1,
        total=1000,
        scheduler="constant",
    )
    engine = deepspeed_engine.start(module, resolved({}, numbers, WIDTH), lambda step: 1.0)
    progress, rows = Progress(world=WORKERS, batch=8 * WORKERS), []
    checkpoints = Checkpoints(RayHost(lambda row, /, notes=(): None, lambda: Notice.NONE))

    def steps() -> None:
        for _ in range(STEPS):
            engine.backward(engine(torch.randn(8, WIDTH)).square().mean())
            engine.step()
            progress.step += 1
        dist.barrier()

    def synchronous() -> None:
        with tempfile.TemporaryDirectory() as shard:
            deepspeed_engine.save(engine, Path(shard))
            progress.write(Path(shard))
            checkpoint = ray.train.Checkpoint.from_directory(shard)
            ray.train.report({}, checkpoint=checkpoint, checkpoint_dir_name=f"sync_{progress.step:08d}")
            committed = ray.train.CheckpointConsistencyMode.COMMITTED
            ray.train.get_all_reported_checkpoints(consistency_mode=committed, timeout_s=600)

    steps()
    began = time.monotonic()
    checkpoints.save(engine, progress)
    first = time.monotonic() - began
    for number in range(settings["rounds"]):
        row = {}
        for kind in ("synchronous", "ours") if number % 2 else ("ours", "synchronous"):
            steps()
            if kind == "synchronous":
                checkpoints.wait()  # else its report would wait for the one before
            dist.barrier()
            began = time.monotonic()
            if kind == "synchronous":
                synchronous()
            else:
                checkpoints.save(engine, progress)
            row[kind] = time.monotonic() - began
        rows.append(row)
    checkpoints.wait()
    if dist.get_rank() == 0:
        Path(settings["out"]).write_text(json.dumps({"first": first, "rows": rows}))


def measure(rounds: int) -> list[Row]:
    import ray
    from ray.train.v2.api.config import CheckpointConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from mirepoix.components.training.workers.torch_backend import TorchBackendConfig
    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    kind: Any = DataParallelTrainer
    with tempfile.TemporaryDirectory() as scratch, private_cluster(num_cpus=6) as address:
        if not ray.is_initialized():
            ray.init(address=address)
        kind(
            worker,
            train_loop_config={"rounds": min(rounds, 8), "out": f"{scratch}/rows.json"},
            backend_config=TorchBackendConfig("gloo", 600.0),
            scaling_config=ScalingConfig(num_workers=WORKERS, use_gpu=False),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        ).fit()
        found = json.loads(Path(f"{scratch}/rows.json").read_text())
        ray.shutdown()
    return rows_of(found["first"], found["rows"])


def rows_of(first: float, rows: list[dict[str, float]]) -> list[Row]:
    """The first checkpoint against the median of the synchronous saves, and each later one against that of its round."""
    synchronous = statistics.median(row["synchronous"] for row in rows)
    ratios = [row["ours"] / row["synchronous"] for row in rows]
    note = "wall time, as a step waits for it; " + ", ".join(f"{row['ours']:.2f} of {row['synchronous']:.2f} s" for row in rows[:3])
    return [
        Row(
            "stall for the first checkpoint over a synchronous save",
            [first / synchronous],
            most=PROMISED,
            note=f"wall time; it allocates the copies; {first:.2f} of {synchronous:.2f} s",
        ),
        Row("stall for each later checkpoint over a synchronous save", ratios, most=PROMISED, note=note),
    ]
