"""Notes of a training: when each is said, what it says, and that it is said once."""

from pathlib import Path

import pytest

from mirepoix.components.training.job import TrainingJob
from mirepoix.components.training.progress import Progress
from mirepoix.components.training.step import Step
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.components.training.watching import notes as notes_module
from mirepoix.components.training.watching.notes import new_notes
from mirepoix.models.losses.contrastive import COUNTS
from mirepoix.models.losses.objective import Objective


def job(total: int = 400, **changes) -> TrainingJob:
    return TrainingJob(TrainConfig(**changes), (0,), Path("pairs"), Path("encoder"), {}, 0, total)


def train(progress: Progress, steps: int = 10, loss: float = 2.0, accuracy: float = 0.5, negatives: float = 7.0, **modalities) -> None:
    figures = {**dict.fromkeys(COUNTS, 0.0), "loss": loss, "accuracy": accuracy, "effective_negatives": negatives}
    for _ in range(steps):
        progress.step += 1
        progress.add(Step(figures, 10, 10, 0, 1, 0.0, modalities or {"text": (8, 0)}), 0.1)


def test_a_training_that_goes_well_has_no_notes():
    progress = Progress()
    for _ in range(40):
        train(progress)
        assert new_notes(job(), progress, 0.1) == []
    assert progress.notes == [] and progress.noted == {}


def test_a_tiny_loss_in_the_first_tenth_is_told_with_what_to_do():
    progress = Progress()
    train(progress, loss=4e-4, accuracy=1.0)
    (text,) = new_notes(job(), progress, None)
    assert text == (
        "the loss is 0.0004 on average over 10 steps, so there is next to nothing to learn: the batches are too small or too easy; "
        "raise global_batch_size (it is 8), or train with hard negatives"
    )
    assert progress.notes == [{"step": 10, "note": text}]


@pytest.mark.parametrize(
    ("step", "loss", "accuracy", "negatives", "told"),
    [
        (0, 9e-4, 1.0, 7.0, True),
        (0, 1.1e-3, 1.0, 7.0, False),
        (0, 9e-4, 0.99, 7.0, False),
        (39, 9e-4, 1.0, 7.0, True),
        (40, 9e-4, 1.0, 7.0, False),  # after a tenth of the steps a low loss is what was trained for
        (300, 0.0, 0.6, 7.0, True),
        (300, 0.0, 0.0, 0.0, False),  # that there are no negatives is a note of its own
    ],
)
def test_what_a_trivial_loss_is(step, loss, accuracy, negatives, told):
    progress = Progress(step=step)
    train(progress, loss=loss, accuracy=accuracy, negatives=negatives)
    assert bool(new_notes(job(), progress, None)) is told


def test_a_modality_of_which_no_pair_had_a_negative_is_named():
    progress = Progress()
    train(progress, text=(6, 1), image=(2, 2), video=(1, 0))
    (text,) = new_notes(job(loss=Objective(modality_mask=True)), progress, None)
    assert text == (
        "none of the 20 pairs whose answer is image had a negative in 10 steps, so they teach nothing; raise global_batch_size (it is 8), "
        "give homogeneous=0.5 homogeneous_by=target, or mine hard negatives"
    )
    train(progress, steps=9, image=(2, 2))
    train(progress, steps=1, image=(2, 1))
    assert new_notes(job(), progress, None) == [], "one had"


def test_the_docs_have_the_notes_as_they_are_said(monkeypatch):
    monkeypatch.setattr(notes_module.os, "cpu_count", lambda: 16)
    table = (Path(__file__).parents[4] / "docs/training.md").read_text().partition("### Notes")[2].partition("### ")[0]
    job_of_docs, progress = job(loss=Objective(modality_mask=True)), Progress()
    train(progress, loss=4e-4, accuracy=1.0, image=(2, 2))
    said = new_notes(job_of_docs, progress, 0.3)
    assert len(said) == 3 and all(f"`{text}`" in table for text in said), said


def test_steps_are_judged_by_ten_however_often_they_are_reported_and_at_the_end():
    progress = Progress()
    for _ in range(9):
        train(progress, steps=1, image=(2, 2))
        assert new_notes(job(), progress, None) == []
    train(progress, steps=1, image=(2, 2))
    assert len(new_notes(job(), progress, None)) == 1
    short = Progress()
    train(short, steps=3, image=(2, 2))
    assert len(new_notes(job(total=3), short, None)) == 1


@pytest.mark.parametrize(
    ("threads", "share", "cpus", "said"),
    [
        (1, 0.3, 16, "30% of the time was spent waiting for batches; raise dataloader_num_workers from 1 to 2"),
        (2, 0.6, 16, "60% of the time was spent waiting for batches; raise dataloader_num_workers from 2 to 5"),
        (0, 0.25, 16, "25% of the time was spent waiting for batches; raise dataloader_num_workers from 0 to 2"),
        (2, 1.0, 4, "100% of the time was spent waiting for batches; raise dataloader_num_workers from 2 to 4"),
        (
            4,
            0.5,
            4,
            "50% of the time was spent waiting for batches; dataloader_num_workers is 4 and the machine has 4 CPUs: "
            "take one with more of them, or smaller pictures",
        ),
        (1, 0.1, 16, None),
        (1, None, 16, None),
    ],
)
def test_a_loader_that_is_waited_for_is_told_with_how_many_threads_would_do(monkeypatch, threads, share, cpus, said):
    monkeypatch.setattr(notes_module.os, "cpu_count", lambda: cpus)
    assert new_notes(job(dataloader_num_workers=threads), Progress(), share) == ([said] if said else [])


def test_a_note_is_said_once_and_again_only_after_it_was_gone_for_a_tenth_of_the_steps():
    progress, said = Progress(), []
    for step in range(10, 401, 10):
        train(progress)
        if new_notes(job(), progress, 0.5 if step in {20, 30, 70, 80, 140} else 0.0):
            said.append(step)
    assert said == [20, 140], "at 70 it had been gone for 40 steps, at 140 for 60"


def test_a_resumed_training_has_the_notes_of_an_uninterrupted_one(tmp_path):
    whole = Progress()
    train(whole, steps=7, image=(2, 2))
    whole.write(tmp_path)
    resumed = Progress.read(tmp_path)
    for progress in (whole, resumed):
        train(progress, steps=3, image=(2, 2))
    assert resumed == whole
    assert new_notes(job(), resumed, None) == new_notes(job(), whole, None) != []
