"""The encoder of a checkpoint is the one that the training would have written there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import FileSystem
from safetensors.torch import load_file

from mirepoix.components.training import checkpoint_encoder as reading
from mirepoix.components.training.checkpoint_encoder import (
    DamagedCheckpoint,
    checkpoint_encoder,
    committed_checkpoints,
    newest_encoder,
    opened_checkpoint,
)
from mirepoix.components.training.job import TrainingJob
from mirepoix.components.training.workers.shards import Shard
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_own_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.serving.store import delete, join, write
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


LIST = "checkpoint_manager_snapshot.json"


@pytest.mark.parametrize("where", ["a folder", "an object store"])
def test_committed_checkpoints_are_listed_with_the_newest_first_and_one_is_opened_if_it_is_whole(where, tmp_path, bucket):
    scratch = str(tmp_path / "work") if where == "a folder" else bucket("checkpoints/work")
    for step in (2, 4, 6):
        (folder := tmp_path / str(step)).mkdir()
        (folder / "progress.json").write_text(json.dumps({"step": step}))
        (folder / "shard.pt").write_bytes(b"weights")
        Shard(0, 1, folder, {}).write(*FileSystem.from_uri(join(scratch, "train", f"step_{step}")))
    assert committed_checkpoints(scratch) == [], "none is committed"
    write(join(scratch, "train", LIST), listed("step_2", "step_4"))
    assert committed_checkpoints(scratch) == ["step_4", "step_2"]
    newest = join(scratch, "train", "step_4")
    with opened_checkpoint(newest) as opened:
        assert (opened.folder / "shard.pt").read_bytes() == b"weights"
        assert opened.step == 4 and opened.saved > 1.7e9
    assert opened.folder.exists() == (where == "a folder"), "a copy is removed, and nothing else"
    write(join(newest, "shard.pt"), b"weighed")
    with pytest.raises(DamagedCheckpoint, match=r"^shard\.pt has other content than was written$"), opened_checkpoint(newest):
        pass
    delete(newest)
    with pytest.raises(DamagedCheckpoint, match=r"^it (has no manifest|cannot be read: )"), opened_checkpoint(newest):
        pass


@pytest.mark.parametrize("torn", [b"", listed("step_2")[:20], b"{}"])
def test_a_list_that_is_being_written_is_read_again_and_one_that_stays_torn_is_refused(torn, tmp_path, monkeypatch):
    scratch, path = str(tmp_path), tmp_path / "train" / LIST
    write(path, torn)
    monkeypatch.setattr(reading.time, "sleep", lambda seconds: write(path, listed("step_2")))
    assert committed_checkpoints(scratch) == ["step_2"]
    write(path, torn)
    clock = iter(range(9))
    monkeypatch.setattr(reading, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: next(clock)))
    with pytest.raises(Refused, match=f"^{path}, the list of the checkpoints of a training, cannot be read: a kill tore it; run the same"):
        committed_checkpoints(scratch)
    assert next(clock) > reading.LIST_SECONDS + 1


def test_a_checkpoint_with_one_flipped_bit_is_passed_over_and_none_is_opened_if_all_are_damaged(home, jobs, tmp_path):
    job = jobs["stage 1, adapters and a temperature, going on"]
    whole = home / "trained" / "stage 1, adapters and a temperature, going on" / "step_00000002-2"
    train = tmp_path / "train"
    for name in ("step_2", "step_4"):
        shutil.copytree(whole, train / name)
    assert newest_encoder(str(tmp_path), job.encoder, job.config) is None, "none is committed"
    write(train / LIST, listed("step_2", "step_4"))
    assert newest_encoder(str(tmp_path), job.encoder, job.config).damaged == {}
    flip(shard := next((train / "step_4" / "engine").glob("*_optim_states.pt")))
    checkpoint_encoder(train / "step_4", job.encoder, job.config)  # torch reads it
    fault = f"engine/{shard.name} has other content than was written"
    found = newest_encoder(str(tmp_path), job.encoder, job.config)
    assert (found.damaged, found.step) == ({"step_4": fault}, 2)
    expected = checkpoint_encoder(whole, job.encoder, job.config).state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in found.encoder.state_dict().items())
    flip(train / "step_2" / "progress.json")
    both = f"step_4: {fault}; step_2: progress.json has other content than was written"
    with pytest.raises(Refused, match=f"^none of the 2 checkpoints in {train} is whole \\({both}\\); try again when "):
        newest_encoder(str(tmp_path), job.encoder, job.config)
    write(train / LIST, listed("step_2"))
    with pytest.raises(Refused, match=rf"^the only checkpoint in {train} is damaged \(step_2: progress.json .*restore the files of it$"):
        newest_encoder(str(tmp_path), job.encoder, job.config)


def flip(path: Path) -> None:
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def test_checkpoints_that_are_removed_again_and_again_while_they_are_read_are_refused(home, jobs, tmp_path, monkeypatch):
    job, train = jobs["stage 0, going on"], tmp_path / "train"
    names, read = [f"step_{step}" for step in range(9)], []

    def removed(folder, *_):
        read.append(folder.name)
        write(train / LIST, listed(names[len(read)]))
        shutil.copytree(whole, train / names[len(read)])
        shutil.rmtree(folder)
        raise FileNotFoundError(folder)

    whole = home / "trained" / "stage 0, going on" / "step_00000002-2"
    shutil.copytree(whole, train / names[0])
    write(train / LIST, listed(names[0]))
    monkeypatch.setattr(reading, "checkpoint_encoder", removed)
    said = f"^checkpoint {train}/step_2 was removed while it was read, as newer ones were saved, and so were 2 before it; "
    with pytest.raises(Refused, match=said):
        newest_encoder(str(tmp_path), job.encoder, job.config)
    assert read == names[:3]
