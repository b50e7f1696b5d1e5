"""The training loop: equal to plain torch at every ZeRO stage and world size, and unchanged by killed processes."""

import functools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import PairRow, PairStore, write_pairs
from mirepoix.components.stage import Context, Rows
from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.job import RefusedOnAllRanks, TrainingJob, make_job
from mirepoix.components.training.train import work
from mirepoix.components.training.workers.host import Notice
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import DESCRIPTION, load_encoder
from mirepoix.models.item import Item
from mirepoix.models.losses.objective import Objective
from tests.components.training.plain_training import assert_same_trace, plain
from tests.components.training.toy_training import (
    FULL,
    TOY,
    FolderHost,
    as_task,
    job_of,
    picture,
    read_rows,
    run,
    worker_pids,
    write_encoder,
    write_row,
    write_toys,
)

STEPS = 6
MIXED = ["i", "t", "t"] * 8
LORA = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.3))
TEMPERED = Objective(temperature=0.1, learned_temperature=True, widths=(8,), distillation="kl", teacher_temperature=0.1)
STILL = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def encoder(folder) -> Path:
    return write_encoder(folder)


@pytest.fixture(scope="module")
def mixed(folder) -> Path:
    """Text pairs, and pairs whose positive is a picture."""
    return write_toys(folder / "mixed", MIXED)


@pytest.fixture(scope="module")
def hard(folder) -> Path:
    """The same with 0 to 3 hard negatives each, most of them scored by a teacher."""
    return write_toys(folder / "hard", MIXED, negatives=(2, 0, 1, 3, 0), scored=True)


def matrix(mixed: Path, hard: Path, encoder: Path, world: int) -> dict[str, TrainingJob]:
    """Trainings whose global batches are the same at every world size."""

    def job(pairs: Path, batch: int = 4, **changes) -> TrainingJob:
        shared = {"max_steps": STEPS, "num_workers": world, "per_device_train_batch_size": batch // world, "seed": 7}
        return job_of(pairs, encoder, **shared, **changes)

    jobs = {f"stage {stage}": job(mixed, zero_stage=stage, homogeneous=0.6, learning_rate=1e-3) for stage in (0, 1, 2, 3)}
    jobs |= {f"accumulated {stage}": job(mixed, zero_stage=stage, gradient_accumulation_steps=2, learning_rate=1e-3) for stage in (2, 3)}
    options = {
        "loss": Objective(modality_mask=True, symmetric=True, widths=(8, 16)),
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "max_grad_norm": 0.5,
    }
    jobs["options"] = job(hard, zero_stage=2, **options)
    jobs |= {f"tempered {stage}": job(hard, zero_stage=stage, loss=TEMPERED, learning_rate=1e-2, weight_decay=0.1) for stage in (0, 1, 3)}
    taught = Objective(in_batch=False, distillation="margin_mse", hardness=2.0, margin=0.01)
    return jobs | {"taught": job(hard, zero_stage=3, loss=taught, learning_rate=1e-3)}


def check_matrix(rows: dict[str, list[dict]], jobs: dict[str, TrainingJob]) -> None:
    first = {name.split()[0]: name for name in reversed(jobs)}
    references = {kind: plain(jobs[name]) for kind, name in first.items()}
    for name in jobs:
        assert_same_trace(rows[name], references[name.split()[0]])


def test_the_matrix_has_text_only_steps_and_ranks_that_disagree(mixed, hard, encoder):
    job = matrix(mixed, hard, encoder, 2)["stage 3"]
    plan = BatchPlan(PairStore(mixed), 4, job.seed, 0.6)
    kinds = [[MIXED[row] for row in plan.batch(step)] for step in range(STEPS)]
    assert any("i" not in batch for batch in kinds[1:])
    assert any(("i" in batch[:2]) != ("i" in batch[2:]) for batch in kinds)


def test_the_matrix_has_documents_that_also_answer_another_query_of_their_batch(mixed, hard, encoder):
    for pairs, name in ((mixed, "stage 3"), (hard, "options")):
        store, job = PairStore(pairs), matrix(mixed, hard, encoder, 1)[name]
        plan = BatchPlan(store, 4, job.seed, job.config.homogeneous)
        found = []
        for step in range(STEPS):
            drawn, relevant = store.drawn(plan.batch(step)), store.relevant(plan.batch(step)).tolist()
            documents = {key for pair in drawn for key in pair.keys}
            found += [set(known) & (documents - {pair.keys[0]}) for pair, known in zip(drawn, relevant, strict=True)]
        assert any(found), name


def test_the_matrix_has_ranks_without_hard_negatives_or_a_teacher_beside_others(mixed, hard, encoder):
    plan, store = BatchPlan(PairStore(hard), 4, matrix(mixed, hard, encoder, 2)["taught"].seed), PairStore(hard)
    pairs = [[store.drawn(plan.batch(step)[part]) for part in (slice(2), slice(2, 4))] for step in range(STEPS)]
    counts = [[sum(len(drawn.pair.negatives) for drawn in share) for share in step] for step in pairs]
    assert any(min(step) == 0 < max(step) for step in counts)
    taught = [[sum(len(t.scores) > 1 and not np.isnan(t.scores).any() for t in share) for share in step] for step in pairs]
    assert any(step[0] != step[1] for step in taught)


SETTINGS = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": dict.fromkeys(("warmup_max_lr", "warmup_num_steps", "total_num_steps"), "auto")},
    "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto", "allgather_bucket_size": "auto"},
}
SMALL = {"max_steps": STEPS, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def alone(folder, mixed, hard, encoder) -> tuple[dict[str, TrainingJob], dict[str, list[dict]]]:
    """The trainings of one process, and the rows that it logs."""
    jobs = matrix(mixed, hard, encoder, 1)
    jobs["recomputed"] = replace(jobs["options"], config=replace(jobs["options"].config, gradient_checkpointing=True))
    jobs["bf16"] = job_of(mixed, encoder, bf16=True, zero_stage=2, **SMALL)
    jobs["lora"] = job_of(mixed, encoder, tuning=LORA, dataloader_num_workers=0, **SMALL)
    jobs["unlike seed"] = job_of(mixed, encoder, tuning=LORA, seed=1, **SMALL)
    jobs["drawn"] = job_of(hard, encoder, negatives=1, dataloader_num_workers=3, **SMALL)
    captioned = write_toys(folder / "captioned", ["c", "t", "i"] * 4, negatives=1)
    lost = AugmentConfig(document_captions=0.3, single_modality=0.5)
    mamcl = Objective(modality_mask=True)
    jobs["lessened"] = job_of(captioned, encoder, augment=lost, homogeneous=1.0, homogeneous_by="target", loss=mamcl, **SMALL)
    alike = write_toys(folder / "alike", ["t"] * 12, kin=True)
    jobs |= {f"kin {mask}": job_of(alike, encoder, mask_kin=mask, **SMALL) for mask in (True, False)}
    flags = [Item("d", text=f"a flag, told in way {n}", images=(picture("red blue"),)) for n in range(12)]
    asked = [Item("q", text=f"what is in way {n}") for n in range(12)]
    write_pairs(folder / "one picture", [*asked, *flags], [PairRow(f"p{n}", n, 12 + n) for n in range(12)])
    jobs["bared"] = job_of(folder / "one picture", encoder, augment=AugmentConfig(document_captions=0.5), **SMALL)
    jobs["rare"] = job_of(mixed, encoder, logging_steps=4, **SMALL)
    jobs["diverging"] = job_of(mixed, encoder, learning_rate=1e30, max_grad_norm=0.0, max_steps=9, save_steps=1)
    (folder / "zero.json").write_text(json.dumps(SETTINGS))
    jobs["file"] = job_of(mixed, encoder, deepspeed=str(folder / "zero.json"), zero_stage=2, lr_scheduler_type="linear", **SMALL)
    text = write_toys(folder / "text", ["t"] * 12)
    # From 2e-3 on, final losses vary widely with the rounding of weights, in plain torch too; from 1e-4 to 1e-3 all are low.
    jobs["learning"] = job_of(
        text, encoder, per_device_train_batch_size=6, max_steps=60, learning_rate=3e-4, loss=Objective(temperature=0.1)
    )
    own = shutil.copytree(encoder, folder / "of a temperature")
    (own / DESCRIPTION).write_text(json.dumps({**json.loads((own / DESCRIPTION).read_text()), "temperature": 0.2}))
    jobs |= {name: job_of(mixed, start, loss=Objective(temperature=None), **SMALL) for name, start in (("own", own), ("none", encoder))}
    jobs["too wide"] = job_of(mixed, encoder, loss=Objective(widths=(8, 32)), **SMALL)
    return jobs, run(jobs, 1, folder / "alone")


def test_every_stage_trains_as_plain_torch_does(alone):
    jobs, rows = alone
    check_matrix(rows, {name: jobs[name] for name in jobs if name.split()[0] in ("stage", "accumulated", "options", "tempered", "taught")})


def test_two_workers_train_as_one_with_their_batch_does(folder, mixed, hard, encoder):
    jobs = matrix(mixed, hard, encoder, 2)
    check_matrix(run(jobs, 2, folder / "two"), jobs)


def test_augmented_pairs_train_as_in_plain_torch(alone):
    jobs, rows = alone
    assert_same_trace(rows["lessened"], plain(jobs["lessened"]))
    whole = replace(jobs["lessened"], config=replace(jobs["lessened"].config, augment=AugmentConfig()))
    assert [row["loss"] for row in rows["lessened"]] != pytest.approx([row["loss"] for row in plain(whole)], abs=1e-3)


def test_kin_of_an_answer_are_masked_unless_mask_kin_is_off(alone):
    _, rows = alone
    assert {(row["effective_negatives"], row["loss"]) for row in rows["kin True"]} == {(0.0, 0.0)}
    assert all(row["effective_negatives"] >= 2 and row["loss"] > 0 for row in rows["kin False"])


def test_documents_that_augmentation_makes_equal_are_not_negatives_of_each_others_queries(alone):
    jobs, rows = alone
    assert_same_trace(rows["bared"], plain(jobs["bared"]))
    assert min(row["effective_negatives"] for row in rows["bared"]) < 3


def test_activation_checkpointing_changes_nothing(alone):
    _, rows = alone
    assert_same_trace(rows["recomputed"], rows["options"], loss=1e-5, norm=1e-4)


def test_bf16_trains_like_float32_at_its_precision(alone):
    jobs, rows = alone
    reference = plain(jobs["bf16"])
    assert [row["loss"] for row in rows["bf16"]] == pytest.approx([row["loss"] for row in reference], abs=0.15)
    assert [row["loss"] for row in rows["bf16"]] != [row["loss"] for row in reference]


def test_the_loss_falls_on_pairs_that_can_be_learnt(alone):
    _, rows = alone
    losses, accuracies = ([row[name] for row in rows["learning"]] for name in ("loss", "accuracy"))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5]), losses
    assert np.mean(accuracies[-5:]) > 0.75, accuracies
    assert rows["learning"][-1]["positive_similarity"] > rows["learning"][-1]["negative_similarity"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_encoder(folder).state_dict()


def test_adapters_train_only_the_layers_that_they_adapt(alone, encoder, folder):
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


def test_rows_have_the_step_and_the_measures_of_learning(alone):
    _, rows = alone
    row = rows["stage 1"][2]
    assert (row["step"], row["total"], row["rows_without_negatives"]) == (3, STEPS, 0.0) and 2 < row["effective_negatives"] <= 3
    assert row["learning_rate"] == 1e-3 and row["grad_norm"] > 0 and row["pairs_per_second"] > 0
    assert 0 <= row["accuracy"] <= 1 and -1 <= row["negative_similarity"] <= 1
    assert rows["drawn"][0]["effective_negatives"] > 3, "hard negatives count in addition to those of the batch"


def test_a_users_settings_file_trains_with_its_own_scheduler(alone):
    _, rows = alone
    rates = [row["learning_rate"] for row in rows["file"]]
    assert len(rates) == STEPS and 0 < rates[-1] < max(rates) <= 1e-3, rows["file"]


def test_reports_are_means_since_the_last_one(alone):
    jobs, rows = alone
    losses = [row["loss"] for row in plain(jobs["rare"])]
    assert [row["step"] for row in rows["rare"]] == [4, 6]
    assert [row["loss"] for row in rows["rare"]] == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], abs=2e-4)


def test_a_learned_temperature_is_saved_with_the_encoder_and_its_weights_keep_their_names(alone, encoder, folder):
    _, rows = alone
    trained = load_encoder(folder / "alone/tempered 3/final/encoder")
    logged = [row["temperature"] for row in rows["tempered 3"]]
    assert logged[0] == pytest.approx(TEMPERED.temperature) and len(set(logged)) == STEPS
    assert 0 < abs(trained.temperature - logged[-1]) < 0.02 * logged[-1], "that after the last step, which logged the one before it"
    assert trained.widths == TEMPERED.widths and set(trained.state_dict()) == set(weights_of(encoder))
    assert load_encoder(folder / "alone/stage 3/final/encoder").temperature is None


def test_a_training_starts_at_the_temperature_that_the_encoder_learnt(alone, folder):
    _, rows = alone
    assert [row["temperature"] for row in rows["own"]] == pytest.approx([0.2] * STEPS)
    assert load_encoder(folder / "alone/own/final/encoder").temperature == 0.2
    assert "loss.temperature is null and the encoder has none" in rows["none"][-1]["refused"]


def test_widths_that_the_encoder_does_not_have_are_refused(alone):
    assert "loss.widths has 32, and the encoder's vectors are 32 wide" in alone[1]["too wide"][-1]["refused"]


def test_rows_without_negatives_or_teacher_are_counted_in_rows_and_summed_at_the_end(alone, folder):
    _, rows = alone
    final = json.loads((folder / "alone/taught/final/progress.json").read_text())["metrics"]
    for name in ("rows_without_negatives", "rows_without_teacher"):
        assert final[name] == sum(row[name] for row in rows["taught"]) > 0
    assert any(row["masked_by_margin"] > 0 for row in rows["taught"])


def test_another_seed_is_another_training(alone):
    _, rows = alone
    assert [row["loss"] for row in rows["unlike seed"]] != [row["loss"] for row in rows["lora"]]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(alone, folder):
    _, rows = alone
    *_, last = rows["diverging"]
    assert "the loss is nan at step" in last["refused"] and "lower learning_rate" in last["refused"]
    saved = sorted(path.name for path in (folder / "alone/diverging").glob("step_*"))
    assert saved and f"checkpoint is of step {int(saved[-1][5:13])}" in last["refused"]
    assert not (folder / "alone/diverging/final").exists()


@pytest.fixture(scope="module")
def resumed(folder, hard, encoder) -> dict[str, dict[str, list[dict]]]:
    """The rows of two workers without interruption, of two resumed at the checkpoint of step 4, and of one resumed there."""
    losses = {"full 3": TEMPERED, "still 1": TEMPERED}
    tunings = {"full 2": FULL, "full 3": FULL, "lora 3": LORA, "still 0": STILL, "still 1": STILL}
    common = {
        "num_workers": 2,
        "per_device_train_batch_size": 2,
        "save_steps": 4,
        "logging_steps": 3,
        "max_steps": 8,
        "learning_rate": 1e-3,
    }
    jobs = {
        name: job_of(hard, encoder, zero_stage=int(name[-1]), tuning=tuning, weight_decay=0.1, loss=losses.get(name, Objective()), **common)
        for name, tuning in tunings.items()
    }
    whole = run(jobs, 2, folder / "whole")
    alone = {name: on_one(job) for name, job in jobs.items() if "lora" not in name}
    again, fewer = halved(folder, "again"), halved(folder, "fewer")
    shutil.copytree(fewer / "full 2", fewer / "of other batches")
    shutil.copytree(folder / "whole/full 2", fewer / "finished")
    odd = on_one(jobs["full 2"])
    alone |= {"of other batches": replace(odd, config=replace(odd.config, per_device_train_batch_size=3)), "finished": odd}
    return {"whole": whole, "again": run(jobs, 2, again), "fewer": run(alone, 1, fewer)}


def on_one(job: TrainingJob) -> TrainingJob:
    return replace(job, config=replace(job.config, num_workers=1, per_device_train_batch_size=4))


def halved(folder: Path, name: str) -> Path:
    """The trainings as they were when their checkpoint of step 4 was committed."""
    for whole in (folder / "whole").iterdir():
        shutil.copytree(whole / "step_00000004-2", folder / name / whole.name / "step_00000004-2")
        (folder / name / whole.name / "latest.json").write_text(json.dumps("step_00000004-2"))
    return folder / name


def figures(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "pairs_per_second"} for row in rows]


def test_a_resumed_training_equals_an_uninterrupted_one(resumed, folder):
    for name, rows in resumed["whole"].items():
        assert [row["step"] for row in rows] == [3, 6, 8]
        assert figures(resumed["again"][name]) == figures(rows[1:]), name
        whole, again = (weights_of(folder / kind / name / "final/encoder") for kind in ("whole", "again"))
        assert all(torch.equal(whole[key], again[key]) for key in whole), name


@pytest.mark.parametrize("name", ["full 2", "full 3", "still 0", "still 1"])
def test_a_training_resumes_with_fewer_workers_and_the_same_batches(resumed, name):
    assert [row["step"] for row in resumed["fewer"][name]] == [6, 8]
    for row, other in zip(resumed["fewer"][name], resumed["whole"][name][1:], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=3e-5)


def test_a_checkpoint_of_other_batches_is_refused(resumed):
    (row,) = resumed["fewer"]["of other batches"]
    assert "the checkpoint is of batches of 4 pairs, now they have 3" in row["refused"] and row["kind"] is RefusedOnAllRanks


def test_a_finished_training_is_not_trained_again(resumed, folder):
    final = json.loads((folder / "whole/full 2/final/progress.json").read_text())
    assert final["metrics"]["step"] == 8 and final["metrics"]["rows_without_negatives"] == 0
    assert resumed["fewer"]["finished"] == []


class NoticedHost(FolderHost):
    """Its last rank has a notice after the third step."""

    def notice(self) -> Notice:
        self.asked = getattr(self, "asked", 0) + 1
        return Notice.PREEMPTED if dist.get_rank() == dist.get_world_size() - 1 and self.asked == 3 else Notice.NONE


def test_a_notice_of_one_rank_makes_all_save_a_checkpoint_and_end_and_no_step_is_lost(folder, mixed, encoder):
    job = job_of(mixed, encoder, zero_stage=2, num_workers=2, per_device_train_batch_size=2, save_steps=100, max_steps=5)
    begun = run({"noticed": job}, 2, folder / "noticed", NoticedHost)["noticed"]
    assert [row.get("step") for row in begun] == [1, 2, 3, None] and begun[-1]["again"] == Notice.PREEMPTED
    again = run({"noticed": job}, 2, folder / "noticed")["noticed"]
    assert [row["step"] for row in again] == [4, 5]
    assert_same_trace([*begun[:3], *again], plain(job))


# Under Ray


def context_of(tmp_path: Path, name: str) -> Context:
    (tmp_path / name).mkdir()
    return Context(tmp_path / name, str(tmp_path / "scratch"), functools.partial(write_row, tmp_path / f"{name}.jsonl"), seed=7)


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def last_step(path: Path) -> int:
    return max((row["step"] for row in read_rows(path)), default=0)


def test_a_killed_driver_and_a_killed_worker_change_nothing(ray_cluster, tmp_path, mixed, encoder):
    import ray

    if not ray.is_initialized():
        ray.init(address=ray_cluster)
    config = replace(TOY, zero_stage=2, num_workers=2, per_device_train_batch_size=2, save_steps=2, max_steps=12, learning_rate=1e-3)
    first, second = context_of(tmp_path, "first"), context_of(tmp_path, "second")
    (tmp_path / "arguments.pickle").write_bytes(pickle.dumps((first, config, mixed, encoder)))
    code = "import sys; from tests.components.training.toy_training import drive; drive(*sys.argv[1:])"
    driver = subprocess.Popen([sys.executable, "-c", code, ray_cluster, str(tmp_path / "arguments.pickle")])
    try:
        wait_until(lambda: last_step(tmp_path / "first.jsonl") >= 3 or driver.poll() is not None)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not worker_pids())

    outcome = as_task(second, config, mixed, encoder)
    wait_until(lambda: last_step(tmp_path / "second.jsonl") >= 7)
    os.kill(worker_pids()[0], signal.SIGKILL)
    outcome = ray.get(outcome, timeout=300)

    before, after = read_rows(tmp_path / "first.jsonl"), read_rows(tmp_path / "second.jsonl")
    last = {row["step"]: row for row in after}
    first = min(last)
    assert list(last) == list(range(first, 13)), "every step, in order"
    assert 3 <= first <= before[-1]["step"] + 1 and first % 2 == 1, "from the last committed checkpoint on"
    assert all(row["loss"] == pytest.approx(last[row["step"]]["loss"], abs=1e-6) for row in after), "repeated steps are the same"
    assert_same_trace([*before[: first - 1], *last.values()], plain(make_job(config, 7, mixed, encoder)))
    assert outcome.rows == Rows(read=len(MIXED), written=len(MIXED))
    assert outcome.metrics["step"] == 12 and outcome.metrics["loss"] == after[-1]["loss"]
    assert outcome.metrics["gpus"] == 0
    assert len(load_encoder(second.folder).encode([Item("a", text="which flag is red red")])) == 1
    assert sorted(path.name for path in (tmp_path / "scratch/train").iterdir() if path.is_dir()) == ["final", "step_00000010-2"]


@pytest.mark.soak
def test_a_worker_that_is_stopped_is_named_in_one_line_and_the_training_goes_on(ray_cluster, tmp_path, mixed, encoder, caplog):
    import ray

    if not ray.is_initialized():
        ray.init(address=ray_cluster)
    config = replace(TOY, num_workers=2, per_device_train_batch_size=2, save_steps=2, max_steps=400, collective_timeout=5.0)
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


def test_what_a_worker_refuses_is_refused_by_the_work(ray_cluster, tmp_path, encoder):
    import ray

    if not ray.is_initialized():
        ray.init(address=ray_cluster)
    write_pairs(
        tmp_path,
        [Item("q", text="q"), Item("bad", images=(b"no picture",), source="f.json", line=4)],
        [PairRow("p", 0, 1), PairRow("r", 1, 0)],
    )
    config = replace(TOY, per_device_train_batch_size=1, num_workers=2, max_steps=2, max_failures=3)
    with pytest.raises(RefusedOnAllRanks, match=r"item 'bad' \(f\.json:4\) has a picture that cannot be decoded"):
        work(context_of(tmp_path, "out"), config, tmp_path, encoder)
