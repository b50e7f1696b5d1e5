"""Helpers of the training tests: a tiny Qwen2-VL, toy pairs of words and colours, and ranks as plain processes without Ray."""

import functools
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from pyarrow import fs

from mirepoix.components.pairs.store import PairRow, write_pairs
from mirepoix.components.stage import Context, Outcome
from mirepoix.components.training.engine import deepspeed_engine
from mirepoix.components.training.job import TrainingJob, make_job
from mirepoix.components.training.loop import train
from mirepoix.components.training.train import work
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.components.training.watching.speed import CURVES
from mirepoix.components.training.workers.host import Notice, StartAgain
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from tests.ranks import run_ranks

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 40, 220),
    "yellow": (230, 220, 40),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
}
NAMES = [f"{first} {second}" for first in COLOURS for second in COLOURS]
TINY = Tiny(
    initializer_range=0.02,
    vocabulary=400,
    hidden_size=32,
    layers=1,
    heads=2,
    intermediate_size=64,
    vision_depth=1,
    vision_width=32,
    vision_heads=2,
    max_pixels=56 * 56,
)
FULL = Tuning(towers=("language", "vision"), lora=None)
TOY = TrainConfig(tuning=FULL, global_batch_size=4, learning_rate=3e-3, warmup_steps=0, lr_scheduler_type="constant", logging_steps=1)


def picture(name: str) -> bytes:
    """Two colours beside each other."""
    left, right = name.split()
    image = Image.new("RGB", (56, 28), COLOURS[left])
    image.paste(COLOURS[right], (28, 0, 56, 28))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_encoder(folder: Path) -> Path:
    """A random encoder whose vectors are those of a tiny Qwen2-VL."""
    checkpoints = make_twin(folder / "backbone", "qwen2_vl", [f"a flag that is {name}" for name in NAMES] * 4, TINY, seed=1)
    Unite.build(checkpoints, UniteConfig()).save(folder / "encoder")
    return folder / "encoder"


def write_toys(folder: Path, kinds: Sequence[str], negatives: int | Sequence[int] = 0, kin: bool = False, scored: bool = False) -> Path:
    """A pair for each kind: "i" has a picture of named colours as positive, "t" a sentence, "c" both; every sixth repeats a query.

    Queries are sentences, but for the kind "p", whose query is a picture too, of the colours the other way round.
    `negatives` is the number of hard negatives of a pair; several are used in turn. With `kin`, all documents are kin of each other.
    With `scored`, a teacher has scored the documents of all pairs but every fifth.
    """
    counts = [negatives] if isinstance(negatives, int) else negatives
    items, pairs = [], []
    for number, kind in enumerate(kinds):
        name = NAMES[number % len(NAMES)]
        asks, finds = (number - 3, number - 1) if number % 6 == 5 else (number, number)
        asked = NAMES[asks % len(NAMES)]
        turned = picture(" ".join(reversed(asked.split())))
        items.append(Item(f"q{number}", images=(turned,)) if kind == "p" else Item(f"q{number}", text=f"which flag is {asked}"))
        items.append(Item(f"d{number}", text=f"{name} is it" if kind in "tc" else "", images=(picture(name),) if kind in "icp" else ()))
        others = [2 * ((number + 1 + k) % len(kinds)) + 1 for k in range(counts[number % len(counts)])]
        scores = [0.9 - 0.2 * k for k in range(1 + len(others))] if scored and number % 5 else []
        pairs.append(PairRow(f"p{number}", 2 * number, 2 * finds + 1, others, task="i->i" if kind == "p" else f"t->{kind}", scores=scores))
    documents = range(1, len(items), 2)
    write_pairs(folder, items, pairs, kin=[(a, b) for a in documents for b in documents if a != b] if kin else ())
    return folder


class FolderHost:
    """A worker of a plain process group; its checkpoints are folders."""

    def __init__(self, folder: Path):
        self.folder, self.place = folder, str(folder)
        self.rows: list[dict[str, float]] = []
        self.notes: list[str] = []
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def checkpoints(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()] if self.folder.exists() else []

    def open_checkpoint(self, name: str):
        return nullcontext(self.folder / name)

    def resume_from(self, name: str, damaged: Sequence[str], earlier: Sequence[str]) -> None:
        pass

    def save_checkpoint(self, name: str, write: Callable[[fs.FileSystem, str], None]) -> None:
        self._written = self._thread.submit(write, fs.LocalFileSystem(), str(self.folder / name))

    def wait_for_checkpoint(self) -> None:
        if self._written is not None:
            self._written.result()

    def log(self, row: dict[str, float], /, notes: Sequence[str] = ()) -> None:
        self.rows.append(row)
        self.notes += notes

    def notice(self) -> Notice:
        return Notice.NONE


class Watched(FolderHost):
    """Its first row also has the gradients of that step, whole by parameter, before clipping."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.gradients: dict[str, torch.Tensor] = {}
        self.step, deepspeed_engine.step = deepspeed_engine.step, self.watched

    def watched(self, engine: Any) -> float:
        from deepspeed.utils import safe_get_full_grad

        deepspeed_engine.step = self.step
        gradients = {name: safe_get_full_grad(weight) for name, weight in engine.module.named_parameters() if weight.requires_grad}
        self.gradients = {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}
        return deepspeed_engine.step(engine)

    def log(self, row: dict[str, Any], /, notes: Sequence[str] = ()) -> None:
        super().log(row | {"gradients": {} if self.rows else self.gradients}, notes)


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], within: float = 1e-4) -> None:
    """Compares gradients by parameter, within so much of its largest entry, or 1e-7 of the largest of all for what is rounding."""
    assert found.keys() == expected.keys()
    whole = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        bound = within * float(gradient.abs().max()) + 1e-7 * whole
        torch.testing.assert_close(
            found[name].reshape(gradient.shape), gradient, atol=bound, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def run(jobs: dict[str, TrainingJob], world: int, folder: Path, host: type[FolderHost] = FolderHost) -> dict[str, list[dict[str, Any]]]:
    """Trains each job with so many processes, its checkpoints under its name; returns the rows that it logged."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting:
        run_ranks(_rank, world, meeting, jobs, folder, host)
        return pickle.loads((Path(meeting) / "rows.pickle").read_bytes())


def _rank(rank: int, world: int, meeting: str, jobs: dict[str, TrainingJob], folder: Path, kind: type[FolderHost]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/rendezvous", rank=rank, world_size=world)
    rows = {}
    for name, job in jobs.items():
        host = kind(folder / name)
        warnings = logging.Handler(logging.WARNING)
        warnings.emit = lambda record, rows=host.rows: rows.append({"warning": record.getMessage()})
        logging.getLogger("mirepoix").handlers = [warnings]
        try:
            train(job, host)
        except StartAgain as again:
            host.rows.append({"again": again.notice})
        except Refused as error:
            host.rows.append({"refused": str(error), "kind": type(error)})
        rows[name] = host.rows
    if rank == 0:
        (Path(meeting) / "rows.pickle").write_bytes(pickle.dumps(rows))
    dist.destroy_process_group()
    os._exit(0)  # at a normal exit, gloo's threads may outlive what they use and abort a process that has finished its work


def job_of(pairs: Path, encoder: Path, **changes) -> TrainingJob:
    return make_job(replace(TOY, **changes), 7, pairs, encoder)


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs from one run to the next."""
    return [{name: value for name, value in row.items() if name not in CURVES} for row in rows]


def write_row(path: Path, row: dict[str, float], /, notes: Sequence[str] = ()) -> None:
    """Appends a report to a file, which outlives the process."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def context_of(folder: Path, name: str) -> Context:
    """A stage's context whose rows go to <name>.jsonl; contexts of one folder share their scratch."""
    (folder / name).mkdir()
    return Context(folder / name, str(folder / "scratch"), functools.partial(write_row, folder / f"{name}.jsonl"), seed=7)


def stage(context: Context, config: TrainConfig, pairs: Path, encoder: Path) -> Outcome:
    """The stage's work, to be called inside a Ray task as the runner does."""
    return work(context, config, pairs, encoder)


def as_task(*arguments: Any) -> Any:
    """Starts that task."""
    import ray

    return ray.remote(num_cpus=0)(stage).remote(*arguments)


def drive(address: str, path: str) -> None:
    """The main function of a driver process: connects, and waits for a task with the pickled arguments."""
    import ray

    ray.init(address=address, log_to_driver=False)
    ray.get(as_task(*pickle.loads(Path(path).read_bytes())))


def worker_pids() -> list[int]:
    """The living workers of Ray Train in the private cluster of the test session."""
    from ray._private.state import actors

    return [row["Pid"] for row in actors().values() if row["ActorClassName"] == "RayTrainWorker" and row["State"] == "ALIVE"]
