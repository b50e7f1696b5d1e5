"""The useful work of a training: counts by hand, and under the engine on ranks that differ."""

import os
import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mirepoix.components.training.job import TrainingJob
from mirepoix.components.training.watching import work
from mirepoix.components.training.watching.work import Work, _counted
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from tests.components.training import toy_training
from tests.components.training.toy_training import FULL, FolderHost, job_of, write_encoder, write_toys
from tests.ranks import run_ranks

PEAK = 1e9


class Pipeline(torch.nn.Module):
    """Pictures go through one matrix, and what comes out, with words, through another; a head is of no tower."""

    def __init__(self, parallel: bool = False):
        super().__init__()
        self.seen, self.read, self.head = torch.nn.Linear(8, 4, bias=False), torch.nn.Linear(4, 16, bias=False), torch.nn.Linear(16, 2)
        self.words, self.parallel = torch.nn.Embedding(9, 4), parallel
        text = torch.nn.ModuleList([self.words, self.read]) if parallel else self.read
        self.towers = {"text": text, "vision": torch.nn.ModuleDict({"seen": self.seen})}

    def forward(self, chunks, seeds):
        (chunk,) = chunks
        states = self.seen(chunk["pixels"])
        return self.head(self.read(self.words(chunk["words"]) if self.parallel else states))


def counts(vision: bool, text: bool, parallel: bool = False) -> tuple[dict[str, int], dict[str, int]]:
    encoder = Pipeline(parallel)
    encoder.requires_grad_(False)
    encoder.seen.requires_grad_(vision)
    encoder.read.requires_grad_(text)

    class Engine:
        module = SimpleNamespace(encoder=encoder)

        def __call__(self, chunks, seeds):
            return encoder(chunks, seeds)

    chunks = [{"pixels": torch.ones(n, 8), "words": torch.ones(n, dtype=torch.long)} for n in (3, 2)]
    batch = SimpleNamespace(chunks=chunks, idle=chunks[1])
    return _counted(Engine(), batch, most=4)


def test_operations_are_counted_by_tower_over_a_ranks_own_chunks():
    # Five rows, two operations for each number of a matrix: 8 x 4, 4 x 16, and 16 x 2 of the head.
    assert counts(False, True)[0] == {"vision": 320, "text": 640, "": 320}
    assert counts(False, True, parallel=True)[0] == {"vision": 320, "text": 640, "": 320}


@pytest.mark.parametrize(
    ("vision", "text", "parallel", "passes"),
    [
        (False, True, False, {"vision": 1, "text": 3, "": 3}),
        (True, True, False, {"vision": 3, "text": 3, "": 3}),
        (True, False, False, {"vision": 3, "text": 2, "": 3}),  # gradients go through what is frozen
        (True, False, True, {"vision": 3, "text": 1, "": 3}),  # none do where words alone are read
    ],
)
def test_a_frozen_tower_counts_once_and_twice_behind_a_trained_one(vision, text, parallel, passes):
    assert counts(vision, text, parallel)[1] == passes


def test_adapters_count_without_the_gradients_of_weights():
    tower = torch.nn.Linear(4, 4)
    tower.requires_grad_(False)
    assert work._trained(tower) == 1
    tower.lora_A = torch.nn.Linear(4, 2)
    assert work._trained(tower) == 2
    tower.requires_grad_(True)
    assert work._trained(tower) == 3


def test_utilisation_is_the_useful_work_of_the_time_over_the_peak():
    assert Work(per_token=6.0, per_picture=100.0, peak=1000.0).utilisation(tokens=50, pictures=2, seconds=2.0) == 0.25


# Under the engine


def rank(number: int, world: int, meeting: str, jobs: dict[str, TrainingJob]) -> None:
    """Trains each job with a peak, and those at stage 3 without one too, in the same process."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/rendezvous", rank=number, world_size=world)
    rows = {}
    for peak in (None, PEAK):
        work.device_peak = lambda _, peak=peak: peak
        for name, job in jobs.items():
            if peak is None and job.config.zero_stage < 3:
                continue
            host = FolderHost(Path(meeting) / f"{name} {peak}")
            toy_training.train(job, host)
            rows[name, peak] = host.rows
    if number == 0:
        (Path(meeting) / "rows.pickle").write_bytes(pickle.dumps(rows))
    dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("work")
    encoder, pairs = write_encoder(folder), write_toys(folder / "mixed", ["i", "t", "t"] * 4)
    lora = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.3))
    kinds = {"full 1": (1, FULL), "full 3": (3, FULL), "lora 3": (3, lora)}
    jobs = {
        name: job_of(pairs, encoder, zero_stage=stage, tuning=tuning, num_workers=2, chunk_tokens=40, max_steps=2, save_steps=9)
        for name, (stage, tuning) in kinds.items()
    }
    with tempfile.TemporaryDirectory() as meeting:
        run_ranks(rank, 2, meeting, jobs)
        return pickle.loads((Path(meeting) / "rows.pickle").read_bytes())


def test_counting_changes_nothing_of_a_training_with_sharded_weights(rows):
    for name in ("full 3", "lora 3"):
        plain, counted = rows[name, None], rows[name, PEAK]
        assert all("mfu" not in row for row in plain) and all(row["mfu"] > 0 for row in counted)
        for figure in ("loss", "grad_norm", "accuracy"):
            assert [row[figure] for row in counted] == [row[figure] for row in plain], (name, figure)


def useful(rows: list[dict]) -> float:
    """The operations a second of the last step, over the tokens a second."""
    return rows[-1]["mfu"] * 2 * PEAK / rows[-1]["tokens_per_second"]


def test_sharded_weights_count_as_whole_ones_and_adapters_as_less_than_weights(rows):
    full, lora = useful(rows["full 3", PEAK]), useful(rows["lora 3", PEAK])
    assert useful(rows["full 1", PEAK]) == pytest.approx(full, rel=1e-6)
    assert 0.2 < lora / full < 0.9
