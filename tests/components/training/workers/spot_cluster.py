"""A training on a Ray cluster of several nodes on this machine, which are killed, taken away with notice, and added at given steps."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirepoix.components.stage import Context
from mirepoix.components.training.train_config import TrainConfig
from tests.workflows.cluster.ray_heads import plain_environment, processes_of, wait_until_gone

NOTICED = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}
"""A node that is killed is noticed after some two seconds."""
CHANGED = 3.0
"""So long a step waits after a change: a worker ends a second after its node's daemon, and notices come in a second or two."""
WRITTEN = 1.0
"""So long a node that is to be killed lives on, so that the checkpoint before is written and committed."""
NOTICE_SECONDS = 60
SECONDS = 600


@dataclass(frozen=True)
class Gated:
    """Takes the reports of a training; at some steps the first report waits until the cluster was changed."""

    folder: Path
    steps: tuple[int, ...]

    def __call__(self, row: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        with open(self.folder / "rows.jsonl", "a") as file:
            file.write(json.dumps(row | {"time": time.time()}) + "\n")
        gate = self.folder / f"gate {row['step']:.0f}"
        if row["step"] in self.steps:
            (self.folder / f"at {row['step']:.0f}").touch()
            while not gate.exists():
                time.sleep(0.05)


def train(folder: Path, config: TrainConfig, pairs: Path, encoder: Path, changes: Mapping[int, str]) -> dict[str, Any]:
    """The training in a process of its own that has the cluster: `changes` says what happens to a node at which step: kill, drain, add.

    A place is reserved before it starts, as by the same training in a process that was killed; "reserved" is what is reserved at the end.
    """
    with tempfile.TemporaryDirectory(prefix="mx", dir="/tmp") as home:
        (folder / "arguments.pickle").write_bytes(pickle.dumps((folder, config, pairs, encoder, dict(changes))))
        env = plain_environment() | {"RAY_AUTH_MODE": "disabled", "TMPDIR": home, "RAY_TMPDIR": home, "DS_ACCELERATOR": "cpu"}
        env |= {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        env |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1" if "drain" in changes.values() else "0"}  # a process for each attempt
        env |= {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0", "RAY_num_workers_soft_limit": "0"}
        code = "import sys; from tests.components.training.workers.spot_cluster import main; main(sys.argv[1])"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder / "arguments.pickle")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"it did not end in {SECONDS} s: {(error.stderr or b'').decode()[-6000:]}")
        finally:
            process.kill()
            for pid in processes_of(home):
                os.kill(pid, 9)
            wait_until_gone(home, 20)
        assert process.returncode == 0, f"{out[-3000:]}\n{err[-6000:]}"
        return json.loads((folder / "result.json").read_text())


def main(path: str) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from mirepoix.components.training import train as stage
    from mirepoix.components.training.workers import attempts
    from mirepoix.components.training.workers.room import Places, places_of, reserved

    folder, config, pairs, encoder, changes = pickle.loads(Path(path).read_bytes())
    said: list[tuple[float, str]] = []
    attempts.log.addFilter(lambda record: said.append((record.created, record.getMessage())) or True)
    cpus = config.cpus_per_worker
    cluster = Cluster(True, head_node_args={"num_cpus": cpus, "include_dashboard": False, "_system_config": NOTICED})
    nodes = [cluster.add_node(num_cpus=cpus) for _ in range(config.num_workers - 1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    drained: list[float] = []

    def kill() -> None:
        time.sleep(WRITTEN)
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        time.sleep(CHANGED)

    def drain() -> None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        drained.append(time.time() + NOTICE_SECONDS)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        gcs = ray._raylet.GcsClient(address=cluster.address)
        accepted, why = gcs.drain_node(nodes[-1].node_id, reason, "taken back", int(drained[-1] * 1000))
        assert accepted, why
        time.sleep(CHANGED)

    def add() -> None:
        nodes.append(cluster.add_node(num_cpus=cpus))
        time.sleep(CHANGED)

    (folder / "out").mkdir()
    context = Context(folder / "out", str(folder / "scratch"), Gated(folder, tuple(changes)), seed=7)
    places = places_of(context.scratch)
    Places(places, 1, {"CPU": cpus})
    does: dict[str, Callable[[], None]] = {"kill": kill, "drain": drain, "add": add}
    with ThreadPoolExecutor(1) as pool:  # nodes are added by the main thread alone
        work = pool.submit(stage.work, context, config, pairs, encoder)
        for step, what in changes.items():
            while not (folder / f"at {step}").exists() and not work.done():
                time.sleep(0.05)
            does[what]()
            (folder / f"gate {step}").touch()
        outcome = work.result()
    ended = {"metrics": dict(outcome.metrics), "said": said, "deadlines": drained, "reserved": reserved(places)}
    (folder / "result.json").write_text(json.dumps(ended))
    ray.shutdown()
    cluster.shutdown()
