"""What whoever watches a training should know, in sentences: each says what is seen, and what to do about it.

Notes are looked for at reports, over ten steps at least, and said once; again only where what they say was gone for a tenth of the steps.
All but that on the loader follow from sums that are in the checkpoint: a resumed training says what an uninterrupted one does.
"""

import math
import os
from collections.abc import Iterator

from mirepoix.components.training.job import TrainingJob
from mirepoix.components.training.progress import Progress

JUDGED = 10
"""The fewest steps by which a training is judged, but at its end."""
EARLY, GONE = 0.1, 0.1
"""Shares of all steps: those in which a tiny loss is told, and for how many a note has to be gone to be said again."""
TRIVIAL_LOSS, ALL_RIGHT = 1e-3, 0.9995
WAITED = 0.1
"""The share of the time from which on waiting for batches is told."""


def new_notes(job: TrainingJob, progress: Progress, data_wait: float | None) -> list[str]:
    """The notes of a report; `data_wait` is the share of the time that batches were waited for, None where that is not judged."""
    found = dict(_of_loader(job, data_wait))
    seen = progress.seen
    if seen.get("steps", 0.0) >= JUDGED or (seen and progress.step == job.total):
        found |= dict(_of_loss(job, progress.step, seen))
        found |= dict(_of_negatives(job, seen))
        progress.seen = {}
    fresh = [
        text
        for kind, text in found.items()
        if kind not in progress.noted or progress.step - progress.noted[kind] > max(JUDGED, job.config.logging_steps) + GONE * job.total
    ]
    progress.noted |= dict.fromkeys(found, progress.step)
    progress.notes += [{"step": progress.step, "note": text} for text in fresh]
    return fresh


def _of_loss(job: TrainingJob, step: int, seen: dict[str, float]) -> Iterator[tuple[str, str]]:
    steps = seen["steps"]
    loss, accuracy = seen["loss"] / steps, seen["accuracy"] / steps
    tiny = loss < TRIVIAL_LOSS and accuracy >= ALL_RIGHT and step - steps < EARLY * job.total
    if seen["effective_negatives"] and (loss == 0 or tiny):
        yield (
            "trivial loss",
            f"the loss is {loss:.2g} on average over {steps:.0f} steps, so there is next to nothing to learn: the batches are too small or "
            f"too easy; raise global_batch_size (it is {job.config.global_batch_size}), or train with hard negatives",
        )


def _of_negatives(job: TrainingJob, seen: dict[str, float]) -> Iterator[tuple[str, str]]:
    for name, rows in seen.items():
        kind, _, modality = name.partition(": ")
        if kind != "pairs" or not rows or seen[f"bare: {modality}"] != rows:
            continue
        yield (
            f"no negatives: {modality}",
            f"none of the {rows:,.0f} pairs whose answer is {modality} had a negative in {seen['steps']:.0f} steps, so they teach nothing; "
            f"raise global_batch_size (it is {job.config.global_batch_size}), {_more_negatives(job)}or mine hard negatives",
        )


def _more_negatives(job: TrainingJob) -> str:
    if job.config.loss.modality_mask and job.config.homogeneous_by != "target":
        return "give homogeneous=0.5 homogeneous_by=target, "
    return ""


def _of_loader(job: TrainingJob, share: float | None) -> Iterator[tuple[str, str]]:
    if share is None or share <= WAITED:
        return
    threads = job.config.dataloader_num_workers
    cpus = os.cpu_count() or 1
    # So many threads make as many batches in a second as would be trained on if none was waited for.
    needed = max(threads + 1, math.ceil(max(1, threads) / max(1.0 - share, 0.01)))
    advice = f"raise dataloader_num_workers from {threads} to {min(needed, cpus)}"
    if threads >= cpus:
        advice = f"dataloader_num_workers is {threads} and the machine has {cpus} CPUs: take one with more of them, or smaller pictures"
    yield "loader", f"{share:.0%} of the time was spent waiting for batches; {advice}"
