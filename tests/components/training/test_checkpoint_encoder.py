"""The encoder of a checkpoint is the one that the training would have written there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mirepoix.components.training.checkpoint_encoder import (
    SavedCheckpoint,
    checkpoint_encoder,
    newest_checkpoint,
    opened_checkpoint,
)
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_own_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.serving.store import delete, write
from tests.components.training.toy_training import job_of, run, write_encoder, write_toys

STEPS = 2
LORA = Tuning(towers=("language",), lora=Lora(rank=4, alpha=8, dropout=0.3))
TEMPERED = Objective(temperature=0.1, learned_temperature=True, widths=(8,))
KINDS = {
    "stage 0": {"zero_stage": 0},
    "stage 1, adapters and a temperature": {"zero_stage": 1, "tuning": LORA, "loss": TEMPERED},
    "stage 2, bf16": {"zero_stage": 2, "bf16": True},
    "stage 3, adapters and a temperature": {"zero_stage": 3, "tuning": LORA, "loss": TEMPERED},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def jobs(home) -> dict[str, TrainingJob]:
    """Each kind of training twice: one that ends after two steps, and one that saves a checkpoint there and goes on."""
    encoder, pairs = write_encoder(home), write_toys(home / "pairs", ["i", "t"] * 4)
    found = {}
    for name, changes in KINDS.items():
        shared = {"num_workers": 2, "global_batch_size": 4, "save_steps": STEPS, **changes}
        found[f"{name}, ended"] = job_of(pairs, encoder, max_steps=STEPS, **shared)
        found[f"{name}, going on"] = job_of(pairs, encoder, max_steps=STEPS + 1, **shared)
    run(found, 2, home / "trained")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_checkpoint_is_the_one_that_training_writes_if_it_ends_there(kind, home, jobs, tmp_path):
    job = jobs[f"{kind}, going on"]
    checkpoint = home / "trained" / f"{kind}, going on" / "step_00000002-2"
    found = checkpoint_encoder(checkpoint, job.encoder, job.config)
    assert not found.training
    found.save(tmp_path / "saved")
    written = home / "trained" / f"{kind}, ended" / "final" / "encoder"
    expected, weights = load_file(written / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    assert expected.keys() == weights.keys()
    assert all(weights[name].equal(expected[name]) for name in expected)
    assert (tmp_path / "saved" / "mirepoix.json").read_text() == (written / "mirepoix.json").read_text()
    before = load_file(job.encoder / "model.safetensors")
    assert any(not weights[name].equal(before[name]) for name in before), "the training changed nothing"


def test_of_a_finished_training_it_is_the_encoder_that_was_written(home, jobs):
    job, final = jobs["stage 0, ended"], home / "trained" / "stage 0, ended" / "final"
    found, written = checkpoint_encoder(final, job.encoder, job.config), load_own_encoder(final / "encoder")
    assert all(tensor.equal(written.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_a_checkpoint_of_other_weights_is_refused(home, jobs):
    checkpoint = home / "trained" / "stage 1, adapters and a temperature, going on" / "step_00000002-2"
    job = jobs["stage 0, ended"]
    with pytest.raises(Refused, match=r"^checkpoint .*step_00000002-2 lacks \d+ of \d+ trained weights: "):
        checkpoint_encoder(checkpoint, job.encoder, replace(job.config, loss=TEMPERED))


def listed(*names: str) -> bytes:
    """The list of committed checkpoints as Ray Train writes it, as far as it is read."""
    results = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    return json.dumps({"ray_version": "2", "checkpoint_results": results, "latest_checkpoint_result": results[-1]}).encode()


@pytest.mark.parametrize("where", ["a folder", "an object store"])
def test_the_newest_checkpoint_is_the_last_committed_one_that_is_there(where, tmp_path, bucket):
    scratch = str(tmp_path / "work") if where == "a folder" else bucket("checkpoints/work")
    home = scratch.replace("work", "work/train", 1)
    assert newest_checkpoint(scratch) is None

    def place(*names: str) -> str:
        return home.replace("work/train", "/".join(("work/train", *names)), 1)

    for step in (2, 4, 6):
        write(place(f"step_{step}", "progress.json"), json.dumps({"step": step}).encode())
        write(place(f"step_{step}", "engine", "shard.pt"), b"weights")
    assert newest_checkpoint(scratch) is None, "none is committed"
    write(place("checkpoint_manager_snapshot.json"), listed("step_2", "step_4"))
    found = newest_checkpoint(scratch)
    assert found == SavedCheckpoint(place("step_4"), 4, found.saved) and found.saved > 1.7e9
    with opened_checkpoint(found.target) as folder:
        assert (folder / "engine" / "shard.pt").read_bytes() == b"weights"
        assert json.loads((folder / "progress.json").read_text()) == {"step": 4}
    assert folder.exists() == (where == "a folder"), "a copy is removed, and nothing else"
    delete(place("step_4"))
    assert newest_checkpoint(scratch).step == 2
    write(place("checkpoint_manager_snapshot.json"), listed("step_2")[:20])
    assert newest_checkpoint(scratch) is None, "the list is being written"
