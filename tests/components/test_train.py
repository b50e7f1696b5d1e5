"""The training loop: equal to plain torch at every stage and world size, unchanged by kills, and refusing what cannot be trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mirepoix.components.batches import PairStore, Plan
from mirepoix.components.job import Job
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.loss import contrastive
from mirepoix.models.tuning import Lora, Tuning
from mirepoix.models.vectors import Vectors
from tests.components.training import FULL, job_of, run, write_encoder, write_toys

STEPS = 6
MIXED = ["i", "t", "t"] * 8
LORA = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def encoder(folder) -> Path:
    return write_encoder(folder)


@pytest.fixture(scope="module")
def mixed(folder) -> Path:
    """Pairs of which some are all text, some find a picture."""
    return write_toys(folder / "mixed", MIXED)


@pytest.fixture(scope="module")
def hard(folder) -> Path:
    """The same with two hard negatives each."""
    return write_toys(folder / "hard", MIXED, negatives=2)


def plain(job: Job) -> list[dict[str, float]]:
    """The same training in one process of plain torch, without dropout."""
    config = job.config
    module = load_encoder(job.encoder).tune(config.tuning)
    learning = [p for p in module.parameters() if p.requires_grad]
    decayed = {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": [p for p in learning if p.ndim == 1], "weight_decay": 0.0}], lr=config.learning_rate)
    store = PairStore(job.pairs)
    plan = Plan(store, config.batch, job.seed, config.homogeneous)
    rows = []
    for step in range(job.total):
        # ZeRO's gradients are zeros, and not None, where nothing was learnt: AdamW's momentum moves on.
        optimizer.zero_grad(set_to_none=step == 0)
        losses = []
        for micro in range(config.gradient_accumulation_steps):
            number = step * config.gradient_accumulation_steps + micro
            pairs = store.pairs(plan.batch(number))
            documents = [pair.positive for pair in pairs] + [item for pair in pairs for item in pair.negatives[: job.negatives]]
            vectors = Vectors(*module(**module.collator([pair.query for pair in pairs] + documents)))
            codes = torch.tensor([int(pair.positive.modality) for pair in pairs])
            contrast = contrastive(
                vectors[: len(pairs)],
                vectors[len(pairs) :],
                codes,
                torch.tensor([hash(item.id) for item in documents]),
                temperature=config.temperature,
                modality_mask=config.modality_mask,
                symmetric=config.symmetric,
            )
            (contrast.loss / config.gradient_accumulation_steps).backward()
            losses.append(contrast.loss.item())
        norm = torch.nn.utils.clip_grad_norm_(learning, config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * job.factor(step)
        optimizer.step()
        rows.append({"loss": sum(losses) / len(losses), "grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]})
    return rows


def assert_same_trace(rows: list[dict], expected: list[dict], loss: float = 2e-4, norm: float = 2e-2) -> None:
    assert [row["step"] for row in rows] == list(range(1, len(expected) + 1))
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=loss), (rows, expected)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=norm), (rows, expected)
        assert row["learning_rate"] == pytest.approx(other["learning_rate"])


def matrix(mixed: Path, hard: Path, encoder: Path, world: int) -> dict[str, Job]:
    """Trainings whose global batches are the same at every world size."""

    def job(pairs: Path, batch: int = 4, **changes) -> Job:
        return job_of(pairs, encoder, max_steps=STEPS, num_workers=world, per_device_train_batch_size=batch // world, **changes)

    jobs = {f"stage {stage}": job(mixed, zero_stage=stage, homogeneous=0.6, learning_rate=1e-3) for stage in (0, 1, 2, 3)}
    jobs |= {f"accumulated {stage}": job(mixed, zero_stage=stage, gradient_accumulation_steps=2) for stage in (2, 3)}
    options = {
        "modality_mask": True,
        "symmetric": True,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "max_grad_norm": 0.5,
    }
    return jobs | {"options": job(hard, zero_stage=2, **options)}


def check_matrix(rows: dict[str, list[dict]], jobs: dict[str, Job]) -> None:
    references = {name: plain(jobs[name]) for name in ("stage 0", "accumulated 2", "options")}
    for name in jobs:
        assert_same_trace(rows[name], references.get(name) or references["stage 0" if name.startswith("stage") else "accumulated 2"])


def test_the_matrix_has_text_only_steps_and_ranks_that_disagree(mixed, hard, encoder):
    job = matrix(mixed, hard, encoder, 2)["stage 3"]
    plan = Plan(PairStore(mixed), 4, job.seed, 0.6)
    kinds = [[MIXED[row] for row in plan.batch(step)] for step in range(STEPS)]
    assert any("i" not in batch for batch in kinds[1:])
    assert any(("i" in batch[:2]) != ("i" in batch[2:]) for batch in kinds)


SMALL = {"max_steps": STEPS, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def alone(folder, mixed, hard, encoder) -> tuple[dict[str, Job], dict[str, list[dict]]]:
    """What one process trains, and what it logs."""
    jobs = matrix(mixed, hard, encoder, 1)
    jobs["recomputed"] = replace(jobs["options"], config=replace(jobs["options"].config, gradient_checkpointing=True))
    jobs["bf16"] = job_of(mixed, encoder, bf16=True, zero_stage=2, **SMALL)
    jobs["lora"] = job_of(mixed, encoder, tuning=LORA, dataloader_num_workers=0, **SMALL)
    jobs["unlike seed"] = job_of(mixed, encoder, tuning=LORA, seed=1, **SMALL)
    jobs["drawn"] = job_of(hard, encoder, negatives=1, dataloader_num_workers=3, **SMALL)
    jobs["rare"] = job_of(mixed, encoder, logging_steps=4, **SMALL)
    jobs["diverging"] = job_of(mixed, encoder, learning_rate=1e30, max_grad_norm=0.0, max_steps=9, save_steps=1)
    text = write_toys(folder / "text", ["t"] * 12)
    jobs["learning"] = job_of(text, encoder, per_device_train_batch_size=6, max_steps=60, learning_rate=1e-2, temperature=0.1)
    return jobs, run(jobs, 1, folder / "alone")


def test_every_stage_trains_as_plain_torch_does(alone):
    jobs, rows = alone
    check_matrix(rows, {name: jobs[name] for name in jobs if name.split()[0] in ("stage", "accumulated", "options")})


def test_two_workers_train_as_one_with_their_batch_does(folder, mixed, hard, encoder):
    jobs = matrix(mixed, hard, encoder, 2)
    check_matrix(run(jobs, 2, folder / "two"), jobs)


def test_activations_computed_again_change_nothing(alone):
    _, rows = alone
    assert_same_trace(rows["recomputed"], rows["options"], loss=1e-5, norm=1e-4)


def test_bf16_trains_like_float32_at_its_precision(alone):
    jobs, rows = alone
    reference = plain(jobs["bf16"])
    assert [row["loss"] for row in rows["bf16"]] == pytest.approx([row["loss"] for row in reference], abs=0.15)
    assert [row["loss"] for row in rows["bf16"]] != [row["loss"] for row in reference]


def test_the_loss_falls_on_what_can_be_learnt(alone):
    _, rows = alone
    losses = [row["loss"] for row in rows["learning"]]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert rows["learning"][-1]["accuracy"] > 0.8
    assert rows["learning"][-1]["positive_similarity"] > rows["learning"][-1]["negative_similarity"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_encoder(folder).state_dict()


def test_adapters_train_nothing_but_the_layers_that_they_sit_on(alone, encoder, folder):
    before, after = weights_of(encoder), weights_of(folder / "alone/lora/final/encoder")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) == set(after) and changed
    assert all("language_model.layers" in name and ".weight" in name and "norm" not in name for name in changed), changed


def test_the_written_encoder_is_the_trained_one(alone, encoder, folder):
    before, after = weights_of(encoder), weights_of(folder / "alone/stage 3/final/encoder")
    other = weights_of(folder / "alone/stage 0/final/encoder")
    assert any(not torch.equal(before[name], after[name]) for name in before if "visual" in name)
    for name in before:
        torch.testing.assert_close(after[name], other[name], atol=2e-4, rtol=1e-3)
    vectors = load_encoder(folder / "alone/stage 3/final/encoder").encode([Item("a", text="which flag is red blue")])
    assert len(vectors) == 1


def test_rows_say_where_training_is_and_whether_it_learns(alone):
    _, rows = alone
    row = rows["stage 1"][2]
    assert (row["step"], row["total"], row["effective_negatives"], row["rows_without_negatives"]) == (3, STEPS, 3.0, 0.0)
    assert row["learning_rate"] == 1e-3 and row["grad_norm"] > 0 and row["pairs_per_second"] > 0
    assert 0 <= row["accuracy"] <= 1 and -1 <= row["negative_similarity"] <= 1
    assert rows["drawn"][0]["effective_negatives"] > 3, "hard negatives count beside those of the batch"


def test_reports_are_means_since_the_last_one(alone):
    _, rows = alone
    assert [row["step"] for row in rows["rare"]] == [4, 6]
    config = {row["step"]: row["loss"] for row in rows["stage 1"]}
    assert len(config) == STEPS


def test_another_seed_is_another_training(alone):
    _, rows = alone
    assert [row["loss"] for row in rows["unlike seed"]] != [row["loss"] for row in rows["lora"]]


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_checkpoint(alone, folder):
    _, rows = alone
    *_, last = rows["diverging"]
    assert "the loss is nan at step" in last["refused"] and "lower learning_rate" in last["refused"]
    kept = sorted(path.name for path in (folder / "alone/diverging").glob("step_*"))
    assert kept and f"checkpoint is of step {int(kept[-1].removeprefix('step_'))}" in last["refused"]
    assert not (folder / "alone/diverging/final").exists()


@pytest.fixture(scope="module")
def interrupted(folder, mixed, encoder) -> dict[str, dict[str, list[dict]]]:
    """What two workers log until they stop after a checkpoint, what they log when started again, and what they log undisturbed."""
    jobs = {
        f"{kind} {stage}": job_of(
            mixed,
            encoder,
            zero_stage=stage,
            tuning=tuning,
            num_workers=2,
            per_device_train_batch_size=2,
            save_steps=2,
            logging_steps=3,
            max_steps=8,
        )
        for kind, tuning, stages in (("full", FULL, (2, 3)), ("lora", LORA, (0, 1, 3)))
        for stage in stages
    }
    return {
        "whole": run(jobs, 2, folder / "whole"),
        "before": run(jobs, 2, folder / "parts", interrupted_at="step_00000004"),
        "after": run(jobs, 2, folder / "parts"),
        "smaller": run({name: on_one(jobs[name]) for name in ("full 2", "full 3", "lora 0", "lora 1")}, 1, parted(folder)),
    }


def on_one(job: Job) -> Job:
    return replace(job, config=replace(job.config, num_workers=1, per_device_train_batch_size=4))


def parted(folder: Path) -> Path:
    """The checkpoints of the interrupted trainings, without what came after."""
    import shutil

    shutil.copytree(folder / "parts", folder / "smaller")
    for latest in (folder / "smaller").glob("*/latest.json"):
        latest.write_text(json.dumps("step_00000004"))
    return folder / "smaller"


def figures(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "pairs_per_second"} for row in rows]


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(interrupted, folder):
    for name, rows in interrupted["whole"].items():
        assert [row["step"] for row in rows] == [3, 6, 8]
        assert [row["step"] for row in interrupted["before"][name]] == [3]
        assert figures(interrupted["before"][name] + interrupted["after"][name]) == figures(rows), name
        whole, parts = (weights_of(folder / kind / name / "final/encoder") for kind in ("whole", "parts"))
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name


def test_a_training_goes_on_with_fewer_workers_and_the_same_batches(interrupted):
    for name in ("full 2", "full 3"):
        rows = interrupted["before"][name] + interrupted["smaller"][name]
        for row, other in zip(rows, interrupted["whole"][name], strict=True):
            print(name, row["step"], row["loss"] - other["loss"])
            assert row["step"] == other["step"] and row["loss"] == pytest.approx(other["loss"], abs=2e-4)


def test_adapters_survive_a_change_of_workers(interrupted):
    for name in ("lora 0", "lora 1"):
        rows = interrupted["smaller"][name]
        assert [row["step"] for row in rows] == [6, 8], rows
        for row, other in zip(rows, interrupted["after"][name], strict=True):
            print(name, row["step"], row["loss"] - other["loss"])
            assert row["loss"] == pytest.approx(other["loss"], abs=0.1), "the draws of dropout differ, the weights do not"


def test_a_finished_training_is_not_trained_again(interrupted, folder):
    final = json.loads((folder / "whole/full 2/final/progress.json").read_text())
    assert final["metrics"]["step"] == 8 and final["metrics"]["rows_without_negatives"] == 0
