"""A share of a batch that is computed in chunks trains as one that is computed at once: exactly, at every stage of ZeRO."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.batches import micro_batches
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.batches.micro_batches import collated
from mirepoix.components.training.engine.chunked_encoder import ChunkedEncoder
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.losses.contrastive import Labels, contrastive
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import Vectors
from tests.components.training.toy_training import FULL, Watched, assert_same_gradients, job_of, run, write_encoder, write_toys

STEPS, FEW = 20, 3
BATCH, UNEVEN = 8, 7
BUDGET = 300
"""Three sentences, or two pictures."""
CHANGING = (200, 500)
"""The budgets of the steps under the engine, in turn."""
LORA = Tuning(towers=("language",), lora=Lora(4, 8, 0.0))
BOTH = Tuning(towers=("language", "vision"), lora=Lora(4, 8, 0.0))
DROPPED = Tuning(towers=("language",), lora=Lora(4, 8, 0.3))
LEARNT = Objective(temperature=0.1, learned_temperature=True, symmetric=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_toys(tmp_path_factory.mktemp("pairs"), "tttttittttttctttttttcttittttttttttittttt", negatives=[0, 1])


def gradients(
    encoder: Path, pairs: Path, tuning: Tuning, budget: int | None, dropped: bool = True
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the first pairs and its gradients, in one process of plain torch in float64."""
    torch.manual_seed(3)
    opened = load_encoder(encoder).double().tune(tuning)
    module = ChunkedEncoder(opened, LEARNT)
    for name, parameter in module.named_parameters():  # adapters start at zero, and would have no gradient
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    drawn = PairStore(pairs).drawn(range(12))
    labels = Labels(
        torch.zeros(12, dtype=torch.long), torch.ones(12, dtype=torch.long), torch.arange(12)[:, None], torch.full((12,), float("nan"))
    )
    batch = collated(opened.training_collator, [each.pair.query for each in drawn], [each.pair.positive for each in drawn], labels, budget)
    chunks = [{name: value.double() if value.is_floating_point() else value for name, value in chunk.items()} for chunk in batch.chunks]
    assert (len(chunks) >= 3) == (budget is not None)
    if dropped:
        rows, mask, scale = module(chunks, [*range(len(chunks))])
    else:  # the same chunks with all activations kept
        made = [module([chunk], [seed]) for seed, chunk in enumerate(chunks)]
        rows, mask, scale = torch.cat([each[0] for each in made]), torch.cat([each[1] for each in made]), made[0][2]
    vectors = Vectors(rows, mask)[batch.back_N]
    loss = contrastive(vectors[:12], vectors[12:], labels, LEARNT, scale).loss
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("tuning", [FULL, LORA, BOTH], ids=["full", "lora", "lora on both towers"])
def test_chunks_have_the_loss_and_the_gradients_of_the_whole(encoder, pairs, tuning):
    (loss, whole), (other, chunked) = (gradients(encoder, pairs, tuning, budget) for budget in (None, BUDGET))
    assert other == pytest.approx(loss, rel=1e-12)
    assert whole.keys() == chunked.keys() and "temperature.moved" in whole
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=0, atol=1e-10 * max(1.0, float(gradient.abs().max())), msg=name)


def test_dropout_draws_the_same_masks_when_a_chunk_is_computed_again(encoder, pairs):
    (loss, kept), (other, chunked) = (gradients(encoder, pairs, DROPPED, BUDGET, dropped) for dropped in (False, True))
    assert loss == other and all(torch.equal(chunked[name], gradient) for name, gradient in kept.items())
    assert loss != gradients(encoder, pairs, LORA, BUDGET)[0]


class Counted(Watched):
    """Its rows have the number of collectives of each kind in their step; each step has a budget of its own."""

    KINDS = ("all_reduce", "reduce", "reduce_scatter_tensor", "_reduce_scatter_base")

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.calls: Counter[str] = Counter()
        for name in self.KINDS:
            setattr(dist, name, self.counted(name, getattr(dist, name)))
        budgets = itertools.cycle(CHANGING)
        micro_batches.collated = lambda *arguments: collated(*arguments[:-1], arguments[-1] and next(budgets))

    def counted(self, name: str, call: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return call(*arguments, **options)

        return counting

    def log(self, row: dict[str, Any], /, notes: Sequence[str] = ()) -> None:
        super().log(row | {"collectives": dict(self.calls)}, notes)
        self.calls.clear()


def jobs_of(pairs: Path, encoder: Path) -> dict[str, TrainingJob]:
    """Trainings of all weights at each stage, at stage 3 over many steps and of adapters too; each at once and in chunks.

    Adam's epsilon is large, as rounding would decide the steps of weights without a gradient, such as the biases of keys.
    """
    jobs = {}
    common: dict[str, Any] = {"num_workers": 2, "global_batch_size": BATCH, "learning_rate": 3e-4, "adam_epsilon": 1e-3}
    for name, tuning, stages in (("full", FULL, (0, 1, 2, 3)), ("both", BOTH, (3,))):
        for stage in stages:
            steps, loss = STEPS if (name, stage) == ("full", 3) else FEW, LEARNT if name == "full" else Objective(temperature=0.1)
            jobs[f"{name} {stage} whole"] = job_of(pairs, encoder, tuning=tuning, zero_stage=stage, max_steps=steps, loss=loss, **common)
    again = replace(jobs["full 3 whole"].config, gradient_checkpointing=True)
    jobs["recomputed 3 whole"] = replace(jobs["full 3 whole"], config=again, total=FEW)
    jobs["bf16 2 whole"] = replace(jobs["full 2 whole"], config=replace(jobs["full 2 whole"].config, bf16=True))
    chunked = {name: replace(job, config=replace(job.config, chunk_tokens=BUDGET)) for name, job in jobs.items()}
    return jobs | {name.replace("whole", "chunks"): job for name, job in chunked.items()}


@pytest.fixture(scope="module")
def trained(pairs, encoder, tmp_path_factory) -> tuple[dict[str, TrainingJob], dict[str, list[dict[str, Any]]], Path]:
    jobs, home = jobs_of(pairs, encoder), tmp_path_factory.mktemp("trained")
    return jobs, run(jobs, 2, home / "two", Counted), home / "two"


def test_under_the_engine_chunks_train_as_the_whole(trained, encoder):
    jobs, rows, home = trained
    for name in (name.removesuffix(" whole") for name in jobs if name.endswith("whole") and not name.startswith("bf16")):
        whole, chunked = rows[f"{name} whole"], rows[f"{name} chunks"]
        assert len(chunked) == jobs[f"{name} chunks"].total
        assert [row["loss"] for row in chunked] == pytest.approx([row["loss"] for row in whole], rel=1e-5), name
        assert [row["grad_norm"] for row in chunked] == pytest.approx([row["grad_norm"] for row in whole], rel=1e-5), name
        assert_same_gradients(chunked[0]["gradients"], whole[0]["gradients"], 1e-5)
        folders = (encoder, home / f"{name} whole/final/encoder", home / f"{name} chunks/final/encoder")
        start, one, two = (load_encoder(folder).state_dict() for folder in folders)
        for weight in start:
            moved, other = one[weight] - start[weight], two[weight] - start[weight]
            rounded = torch.finfo(moved.dtype).eps * float(one[weight].abs().max())
            bound = 1e-4 * float(moved.abs().max()) + 2 * rounded  # Adam divides by the size of gradients, small ones too
            torch.testing.assert_close(other, moved, rtol=0, atol=bound, msg=f"{name} {weight}")


def test_layers_that_are_computed_again_train_the_same_with_sharded_weights(trained):
    _, rows, _ = trained
    again, kept = rows["recomputed 3 whole"], rows["full 3 whole"][:FEW]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in kept], rel=1e-6)
    assert_same_gradients(again[0]["gradients"], kept[0]["gradients"], 1e-5)


def test_at_half_precision_chunks_are_as_near_to_full_precision_as_the_whole(trained):
    _, rows, _ = trained
    full, whole, chunked = ([row["grad_norm"] for row in rows[name]] for name in ("full 2 whole", "bf16 2 whole", "bf16 2 chunks"))
    far = max(abs(norm / exact - 1) for norm, exact in zip(whole, full, strict=True))
    assert 0 < far < 0.2 and chunked != whole
    assert chunked == pytest.approx(full, rel=1.5 * far)


def test_the_steps_have_other_numbers_of_chunks_and_ranks_without_pictures(trained, pairs):
    jobs, rows, _ = trained
    assert {row["chunks"] for row in rows["full 3 whole"]} == {1.0}
    counts = [row["chunks"] for row in rows["full 3 chunks"]]
    assert all(one != other for one, other in itertools.pairwise(counts)) and min(counts) > 1, counts
    store, plan = PairStore(pairs), BatchPlan(PairStore(pairs), BATCH, jobs["full 3 chunks"].seed)

    def pictured(rows: np.ndarray) -> bool:
        return any(item.images for pair in store.pairs(rows) for item in (pair.positive, *pair.negatives))

    batches = [plan.batch(step) for step in range(STEPS)]
    assert any(pictured(batch[: BATCH // 2]) != pictured(batch[BATCH // 2 :]) for batch in batches)


def test_chunks_are_reduced_as_often_as_the_whole(trained):
    _, rows, _ = trained
    for stage in range(3):
        counted = [[row["collectives"] for row in rows[f"full {stage} {kind}"]] for kind in ("whole", "chunks")]
        assert counted[0] == counted[1] and counted[0][1], stage


def test_any_number_of_workers_trains_the_same_with_one_global_batch(pairs, encoder, tmp_path):
    traces = {}
    for world in (1, 2, 3):
        job = job_of(
            pairs,
            encoder,
            tuning=FULL,
            zero_stage=1,
            max_steps=FEW,
            loss=LEARNT,
            adam_epsilon=1e-3,
            global_batch_size=UNEVEN,
            num_workers=world,
            chunk_tokens=BUDGET,
        )
        (rows,) = run({"job": job}, world, tmp_path / str(world)).values()
        traces[world] = rows
    for name in ("loss", "grad_norm", "temperature", "accuracy", "positive_similarity", "negative_similarity", "effective_negatives"):
        alone = [row[name] for row in traces[1]]
        for world in (2, 3):
            assert [row[name] for row in traces[world]] == pytest.approx(alone, rel=1e-5, abs=1e-6), (world, name)
    assert [row["rows_without_negatives"] for row in traces[3]] == [row["rows_without_negatives"] for row in traces[1]]
    weights = {world: load_encoder(tmp_path / str(world) / "job/final/encoder").state_dict() for world in traces}
    for name, tensor in weights[1].items():
        for world in (2, 3):
            torch.testing.assert_close(weights[world][name], tensor, rtol=0, atol=1e-5 * float(tensor.abs().max()), msg=f"{world} {name}")
