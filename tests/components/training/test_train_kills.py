"""A training under Ray whose processes are killed ends with every bit of an uninterrupted one."""

import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mirepoix.components.stage import Context, Rows
from mirepoix.components.training.job import make_job
from mirepoix.components.training.train import work
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.components.training.workers.layout import COMMITTED
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.training.toy_training import (
    TOY,
    as_task,
    context_of,
    figures,
    read_rows,
    run,
    worker_pids,
    write_encoder,
    write_toys,
)

MIXED = ["i", "t", "t"] * 8
DROPPED = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.3))
CONFIG = replace(
    TOY,
    tuning=DROPPED,
    zero_stage=2,
    num_workers=2,
    global_batch_size=4,
    save_steps=2,
    keep_checkpoints=3,
    learning_rate=1e-3,
    weight_decay=0.1,
)


def wait_until(condition: Callable[[], bool], seconds: float = 240, pause: float = 0.02) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause)


def last_step(path: Path) -> int:
    return max((row["step"] for row in read_rows(path)), default=0)


@dataclass
class Trained:
    """A training that is to be killed, and one of the same job that nobody interrupts, in plain processes without Ray."""

    folder: Path
    config: TrainConfig
    pairs: Path = field(init=False)
    encoder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.encoder, self.pairs = write_encoder(self.folder), write_toys(self.folder / "pairs", MIXED)
        job = make_job(self.config, 7, self.pairs, self.encoder)
        self.expected = run({"whole": job}, 2, self.folder / "uninterrupted")["whole"]

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "scratch/train").glob("step_*"))

    def start(self, context: Context, address: str) -> subprocess.Popen:
        (self.folder / "arguments.pickle").write_bytes(pickle.dumps((context, self.config, self.pairs, self.encoder)))
        code = "import sys; from tests.components.training.toy_training import drive; drive(*sys.argv[1:])"
        return subprocess.Popen([sys.executable, "-c", code, address, str(self.folder / "arguments.pickle")])

    def assert_same(self, rows: list[dict], encoder: Path) -> None:
        """Every row that was ever logged, those of steps that were repeated included, and all weights at the end."""
        assert [row["step"] for row in self.expected] == list(range(1, self.config.max_steps + 1))
        assert {row["step"] for row in rows} == {row["step"] for row in self.expected}
        for row in rows:
            assert figures([row]) == figures([self.expected[row["step"] - 1]])
        whole, trained = (load_encoder(each).state_dict() for each in (self.folder / "uninterrupted/whole/final/encoder", encoder))
        assert whole.keys() == trained.keys() and all(torch.equal(whole[name], trained[name]) for name in whole)


def connect(address: str) -> None:
    import ray

    if not ray.is_initialized():
        ray.init(address=address)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_killed_driver_a_damaged_checkpoint_a_killed_worker_and_all_workers_killed_change_no_bit(ray_cluster, tmp_path):
    import ray

    connect(ray_cluster)
    training = Trained(tmp_path, replace(CONFIG, max_steps=26))
    first, second = context_of(tmp_path, "first"), context_of(tmp_path, "second")
    driver = training.start(first, ray_cluster)
    try:
        wait_until(lambda: last_step(tmp_path / "first.jsonl") >= 7 or driver.poll() is not None)
    finally:
        kill(driver.pid)
        driver.wait()
    wait_until(lambda: not worker_pids())
    before, damaged = training.checkpoints[-2:]
    flip(damaged / "engine/mp_rank_00_model_states.pt")

    rows = tmp_path / "second.jsonl"
    outcome = as_task(second, training.config, training.pairs, training.encoder)
    wait_until(lambda: last_step(rows) >= 13)
    kill(worker_pids()[0])
    reached = last_step(rows)
    wait_until(lambda: last_step(rows) >= reached + 3)
    kill(*worker_pids())
    reached = last_step(rows)
    outcome = ray.get(outcome, timeout=300)

    steps = [row["step"] for row in read_rows(rows)]
    assert steps[0] == int(before.name[5:13]) + 1, "it goes on from the checkpoint before the damaged one"
    starts = [this for last, this in itertools.pairwise(steps) if this != last + 1]
    assert steps.count(26) == 1 and all(step % 2 == 1 for step in starts) and starts[-1] >= reached - 3
    training.assert_same(read_rows(tmp_path / "first.jsonl") + read_rows(rows), second.folder)
    assert outcome.rows == Rows(read=len(MIXED), written=len(MIXED))
    assert outcome.metrics["step"] == 26 and outcome.metrics["loss"] == training.expected[-1]["loss"] and outcome.metrics["gpus"] == 0
    assert len(load_encoder(second.folder).encode([Item("a", text="which flag is red red")])) == 1
    kept = sorted(path.name[:13] for path in (tmp_path / "scratch/train").iterdir() if path.is_dir())
    assert kept == ["final", "step_00000022", "step_00000024"], "three are kept"


@pytest.mark.soak
def test_a_checkpoint_that_cannot_be_written_ends_the_training_in_one_line(ray_cluster, tmp_path):
    connect(ray_cluster)
    encoder, pairs = write_encoder(tmp_path), write_toys(tmp_path / "pairs", ["t"] * 4)
    (tmp_path / "scratch/train").mkdir(parents=True)
    (tmp_path / "scratch/train/step_00000001-1").write_text("a file in the place of the folder")
    config = replace(TOY, save_steps=1, max_steps=3, max_failures=0)
    with pytest.raises(
        Refused, match=r"^checkpoint step_00000001-1 cannot be written to .*scratch/train \(.*\); make room there or lower keep"
    ):
        work(context_of(tmp_path, "out"), config, pairs, encoder)


KINDS = ("worker", "workers", "driver")
MOMENTS = ("in a step", "while a checkpoint is written", "after a commit")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thirty_random_kills_change_no_bit(ray_cluster, tmp_path):
    connect(ray_cluster)
    draw = np.random.default_rng(16)
    training = Trained(tmp_path, replace(CONFIG, max_steps=160, max_failures=1000))
    context, rows, listed = context_of(tmp_path, "out"), tmp_path / "out.jsonl", tmp_path / "scratch/train" / COMMITTED
    report = []

    def begun() -> bool:
        """Whether a checkpoint is being written."""
        newest = max(training.checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)
        return newest is not None and len([*newest.glob("manifest-*")]) < 2

    def changed() -> int:
        return listed.stat().st_mtime_ns if listed.exists() else 0

    driver = training.start(context, ray_cluster)
    for number in range(30):
        kind, moment = KINDS[draw.integers(3)], MOMENTS[draw.integers(3)]
        reached = last_step(rows) + int(draw.integers(1, 6))
        wait_until(lambda least=reached, process=driver: last_step(rows) >= least or process.poll() is not None)
        seen, end = changed(), time.monotonic() + 10
        if moment != MOMENTS[0]:
            happens = begun if moment == MOMENTS[1] else lambda last=seen: changed() != last
            while not happens() and time.monotonic() < end:
                time.sleep(0.0005)
        assert driver.poll() is None, "the training has not ended"
        pids = worker_pids()
        kill(*({"worker": pids[:1], "workers": pids, "driver": [driver.pid]}[kind]))
        time.sleep(0.5)
        names = {path.name: len([*path.glob("manifest-*")]) for path in training.checkpoints}
        report.append(f"{number + 1}: {kind}, {moment}, at step {last_step(rows)}; checkpoints and their manifests {json.dumps(names)}")
        print(report[-1], flush=True)
        if kind == "driver":
            driver.wait()
            wait_until(lambda: not worker_pids())
            driver = training.start(context, ray_cluster)
    assert driver.wait(600) == 0, report
    training.assert_same(read_rows(rows), context.folder)
    steps = [row["step"] for row in read_rows(rows)]
    print(f"{len(steps) - 160} of {len(steps)} steps were repeated after 30 kills", flush=True)


@pytest.mark.soak
def test_a_worker_that_is_stopped_is_named_in_one_line_and_the_training_goes_on(ray_cluster, tmp_path, caplog):
    connect(ray_cluster)
    config = replace(TOY, num_workers=2, global_batch_size=4, save_steps=2, max_steps=400, collective_timeout=5.0)
    encoder, mixed = write_encoder(tmp_path), write_toys(tmp_path / "pairs", MIXED)
    context, stopped = context_of(tmp_path, "out"), []

    def stop() -> None:
        wait_until(lambda: last_step(tmp_path / "out.jsonl") >= 3)
        stopped.append(worker_pids()[1])
        os.kill(stopped[0], signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    assert work(context, config, mixed, encoder).metrics["step"] == 400
    thread.join()
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("attempts")]
    assert re.match(rf"rank \d \(node [\d.]+, pid {stopped[0]}\) is dead or stopped in step \d+: it has given no sign of life for", line), (
        line
    )
    assert line.endswith("(restart 1 of 3 without a new checkpoint)") and "\n" not in line
    assert {row["step"] for row in read_rows(tmp_path / "out.jsonl")} == set(range(1, 401))
