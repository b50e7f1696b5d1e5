"""A training goes on with any other number of workers, more or fewer, from the checkpoint of any, as if it had not been interrupted."""

import shutil
from pathlib import Path

import pytest

from mirepoix.components.training.job import TrainingJob
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.losses.objective import Objective
from tests.components.training.toy_training import job_of, run, write_encoder, write_toys

TEMPERED = Objective(temperature=0.1, learned_temperature=True)
LORA = Tuning(towers=("language",), lora=Lora(4, 8, 0.0))


@pytest.fixture(scope="module", params=[(3,), pytest.param((0, 1, 2), marks=pytest.mark.soak)], ids=["stage 3", "stages 0 to 2"])
def restored(request, tmp_path_factory) -> dict[str, dict[str, list[dict]]]:
    """The rows of one worker without interruption; of three and of two that go on with its step 2; and of two that go on with the three's
    step 4."""
    folder = tmp_path_factory.mktemp("restored")
    encoder, pairs = write_encoder(folder), write_toys(folder / "pairs", ["i", "t", "t"] * 8, negatives=(2, 0, 1), scored=True)
    common = {"global_batch_size": 6, "save_steps": 2, "max_steps": 6, "learning_rate": 1e-3, "weight_decay": 0.1}
    losses = {1: TEMPERED, 3: TEMPERED}
    jobs = {
        f"stage {stage}": job_of(pairs, encoder, zero_stage=stage, loss=losses.get(stage, Objective()), **common) for stage in request.param
    }
    if 3 in request.param:  # at stage 1, where beside adapters the temperature is all that does not decay: some ranks have no part of it
        jobs["adapters"] = job_of(pairs, encoder, zero_stage=1, loss=TEMPERED, tuning=LORA, **common)
    alone = run(jobs, 1, folder / "1")
    resume(jobs, folder / "1", "step_00000002-1", folder / "1 to 3", "")
    three = run(jobs, 3, folder / "1 to 3")
    resume(jobs, folder / "1", "step_00000002-1", folder / "2", "1 to 2, ")
    resume(jobs, folder / "1 to 3", "step_00000004-3", folder / "2", "3 to 2, ")
    two = run({f"{way}, {name}": job for way in ("1 to 2", "3 to 2") for name, job in jobs.items()}, 2, folder / "2")
    return {"1": alone, "1 to 3": three} | {way: {name: two[f"{way}, {name}"] for name in jobs} for way in ("1 to 2", "3 to 2")}


def resume(jobs: dict[str, TrainingJob], before: Path, checkpoint: str, after: Path, prefix: str) -> None:
    """The folders of trainings that were interrupted when a checkpoint was committed."""
    for name in jobs:
        shutil.copytree(before / name / checkpoint, after / f"{prefix}{name}" / checkpoint)


@pytest.mark.parametrize(("way", "steps"), [("1 to 2", [3, 4, 5, 6]), ("1 to 3", [3, 4, 5, 6]), ("3 to 2", [5, 6])])
def test_steps_after_a_change_of_the_number_of_workers_are_those_of_one(restored, way, steps):
    for name, whole in restored["1"].items():
        rows = restored[way][name]
        assert [row["step"] for row in rows] == steps, name
        for row in rows:
            expected = whole[row["step"] - 1]
            assert row["loss"] == pytest.approx(expected["loss"], abs=3e-5), name
            assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3), name
            assert row["temperature"] == pytest.approx(expected["temperature"], rel=1e-6), name
            assert row["workers"] == int(way[-1])
