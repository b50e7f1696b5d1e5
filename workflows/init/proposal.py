"""The config that is proposed for a folder, and why: recipe, backbone, and the settings that differ from the recipe's."""

import math
import os
from dataclasses import dataclass, field
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.workflows.init.costs import Costs, costs
from mirepoix.workflows.init.language import language_of
from mirepoix.workflows.init.machine import Machine, is_here
from mirepoix.workflows.init.models import (
    CHINESE_CLIP,
    CLIP_B32,
    CLIP_L14,
    MINILM,
    MINILM_MULTILINGUAL,
    SIGLIP_MULTILINGUAL,
    Model,
)
from mirepoix.workflows.init.survey import Survey
from mirepoix.workflows.init.words import counted, duration, first_names, gigabytes
from mirepoix.workflows.recipes.finetune import TRAINING

SEARCH, FINETUNE = "search", "finetune"
LEAST_PAIRS, LONGEST = 200, 3600.0
"""A training is proposed from so many pairs on, and where its estimate is so many seconds at most; chosen here. A captioned picture is two
pairs: the caption asks for the picture, and the picture for the caption."""
NEAR = 2.0
"""An estimate within this factor of the longest may be on its other side, and that is said."""
EPOCHS, LEAST_STEPS = 5, 50
"""A training goes over the pairs so often, in the recipe's steps at most and in so many at least; chosen here."""
MOST_THREADS = 16
LARGE_GPU = 8 << 30
"""Free bytes of a GPU from which the larger CLIP is proposed."""
FREE = 0.8
"""Share of the available memory that a run may take."""


@dataclass(frozen=True)
class Proposal:
    """A recipe with its settings, the reasons for them, and what it costs here."""

    recipe: str
    why: str
    other: str  # how to have the other recipe
    model: Model
    why_model: str
    here: bool  # whether the model is on this machine
    costs: Costs
    language: str
    settings: dict[str, Any] = field(default_factory=dict)  # parts of the config
    alternative: dict[str, Any] = field(default_factory=dict)  # what the other recipe has, with its name
    warnings: tuple[str, ...] = ()


def propose(found: Survey, machine: Machine, recipe: str | None = None) -> Proposal:
    """What is proposed for a folder on this machine; with the recipe that is asked for, if one is."""
    if recipe not in (None, SEARCH, FINETUNE):
        raise Refused(f"--recipe is {recipe!r}; init writes {SEARCH} or {FINETUNE}, and `mirepoix describe RECIPE` any other")
    contents = found.contents
    language = language_of(contents.texts) if contents.texts else ""
    pictures = max(found.pictures.usable, sum(count for letters, count in contents.candidates.items() if "i" in letters or "v" in letters))
    texts = sum(count for letters, count in contents.candidates.items() if "t" in letters) + sum(contents.splits.values())
    model, why_model = _model(bool(pictures), language, machine)
    trained_on = _trained_on(contents.splits)
    pairs = contents.splits.get(trained_on, 0)
    steps = min(TRAINING.max_steps or 0, max(LEAST_STEPS, math.ceil(EPOCHS * pairs / TRAINING.global_batch_size)))
    seen = steps * TRAINING.global_batch_size
    here = is_here(model.id)
    sample = contents.texts
    trained = costs(model, machine, found.pictures, (pictures, texts), seen, TRAINING.global_batch_size, here, sample)
    plain = costs(model, machine, found.pictures, (pictures, texts), here=here, sample=sample)
    said = _said_pairs(contents.queries.get(trained_on, {}))
    chosen, why = (recipe, "as --recipe says") if recipe else _recipe(pairs, said, trained, machine)
    if chosen == FINETUNE and not pairs:
        raise Refused(f"--recipe is {FINETUNE}, and {found.folder} has no pair to train on: no caption, and no query; give {SEARCH}")
    cost = trained if chosen == FINETUNE else plain
    if chosen == FINETUNE:
        other = f"{SEARCH}, without a training, is in the file as a comment; or mirepoix run FILE instruct=null curate.held_out=0"
    elif pairs:
        time = duration(trained.seconds)
        other = f"{FINETUNE}, on the split {trained_on} ({said}), is in the file as a comment: about {time} here"
    else:
        other = f"`recipe: {FINETUNE}` trains, once there are captions or queries"
    settings, training = _settings(found, machine, model), _training(found, machine, model, steps)
    settings |= training if chosen == FINETUNE else {}
    alternative = {"recipe": SEARCH} if chosen == FINETUNE else {"recipe": FINETUNE, **training} if pairs else {}
    warnings = tuple(_warnings(found, machine, model, cost, here))
    return Proposal(chosen, why, other, model, why_model, here, cost, language, settings, alternative, warnings)


def _trained_on(splits: dict[str, int]) -> str:
    """The split that is trained on; validation where there is none of that name and another is left to measure on."""
    return "validation" if "train" not in splits and "validation" in splits and len(splits) > 1 else "train"


def _said_pairs(tasks: dict[str, int]) -> str:
    """The pairs of a split in words: captioned pictures where each is asked for by its caption, and asks for it."""
    both = tasks.get("t->i", 0)
    if both and tasks == {"t->i": both, "i->t": both}:
        return f"{counted(both, 'captioned picture')}, which {'is' if both == 1 else 'are'} {2 * both:,} pairs"
    return counted(sum(tasks.values()), "pair")


def _recipe(pairs: int, said: str, trained: Costs, machine: Machine) -> tuple[str, str]:
    if pairs < LEAST_PAIRS:
        least = f"{LEAST_PAIRS} pairs" if pairs and "captioned" not in said else f"{LEAST_PAIRS // 2} captioned pictures"
        there = f"to train on there {_verb(said)} {said}, and" if pairs else "there is nothing to train on;"
        return SEARCH, f"the model as it is: {there} a training is proposed from {least} on"
    if trained.memory > FREE * machine.memory:
        needed, free = gigabytes(trained.memory), gigabytes(machine.memory)
        return SEARCH, f"the model as it is: training takes about {needed} of memory, and {free} are free"
    near = ""
    if not machine.gpu and LONGEST / NEAR < trained.training < LONGEST * NEAR:
        proposed = f"a training of up to {duration(LONGEST)} is proposed"
        near = f"; {proposed}, and the estimate of {duration(trained.training)} is not far from that: take either recipe"
    if not machine.gpu and trained.training > LONGEST:
        cores = counted(machine.cpus, "core")
        return SEARCH, f"the model as it is: training takes about {duration(trained.training)} on {cores}{near}"
    return FINETUNE, f"to train on there are {said}, and it is measured on held-out queries before and after{near}"


def _verb(said: str) -> str:
    return "is" if said.startswith("1 ") else "are"


def _model(pictures: bool, language: str, machine: Machine) -> tuple[Model, str]:
    """The model for what is in the folder, and the grounds."""
    said = f"the texts are {language}" if language else "there are no texts, so queries are taken to be English"
    if not pictures:
        model = MINILM if language in ("", "English") else MINILM_MULTILINGUAL
        if machine.library:
            return model, f"there are texts alone, and {said}"
        if language in ("", "English"):
            missing = 'a smaller model of texts alone needs the extra: pip install "mirepoix[sentence-transformers]"'
            return CLIP_B32, f"it reads texts of up to 77 tokens; {missing}"
    if language == "Chinese":
        return CHINESE_CLIP, said
    if language not in ("", "English"):
        return SIGLIP_MULTILINGUAL, said
    if machine.gpu_memory >= LARGE_GPU:
        return CLIP_L14, f"{said}, and {machine.gpu} has {gigabytes(machine.gpu_memory)} free; {CLIP_B32.id} is a tenth of the work"
    return CLIP_B32, said


def _settings(found: Survey, machine: Machine, model: Model) -> dict[str, Any]:
    """The parts of the config that both recipes have."""
    sources: dict[str, Any] = {"path": [_entry(found)]}
    if table := found.table:
        roles = [(role, name) for role in ("picture", "text", "query", "id", "split") for name in table.chosen(role)]
        sources["columns"] = [f"{role}={name}" for role, name in roles]
        if found.images:
            sources["images"] = found.images
    if _trained_on(found.contents.splits) != "train":
        sources["splits"] = [f"{_trained_on(found.contents.splits)}=train"]
    if found.captioned:
        sources["captions"] = "apart"
    embedding = {"threads": min(machine.cpus, MOST_THREADS)} | ({"use_gpu": True} if machine.gpu else {})
    return {"sources": sources, "backbone": {"name": model.id}, "embed": embedding}


def _training(found: Survey, machine: Machine, model: Model, steps: int) -> dict[str, Any]:
    """The parts of the config that a training has besides."""
    # The private cluster has six logical CPUs at least, of which a stage and its controller take one each.
    training: dict[str, Any] = {"max_steps": steps, "cpus_per_worker": min(machine.cpus, MOST_THREADS, max(6, machine.cpus) - 2)}
    if model.vision is None:
        training |= {"tuning": {"towers": ["text"]}, "loss": {"temperature": 0.05}}
    return {"curate": {"held_out": 0.1 if set(found.contents.splits) <= {"train"} else 0.0}, "instruct": training}


def _entry(found: Survey) -> str:
    """The folder, or its one table, as an absolute path, which is right from any folder; with its format where it may be another."""
    path = os.path.join(os.path.abspath(found.folder), found.file) if found.file else os.path.abspath(found.folder)
    return f"{found.format}+{path}" if found.named else path


def _warnings(found: Survey, machine: Machine, model: Model, cost: Costs, here: bool) -> list[str]:
    said = []
    for ending, count, what in found.pictures.unread:
        said.append(f"{count:,} .{ending}: {what}")
    if found.pictures.refused:
        names = first_names([f"{name} ({reason})" for name, reason in found.pictures.refused])
        said.append(f"{len(found.pictures.refused)} of the {found.pictures.looked} pictures looked at would be rejected: {names}")
    if cost.memory > machine.memory:
        said.append(f"this takes about {gigabytes(cost.memory)} of memory, and {gigabytes(machine.memory)} are free")
    if machine.disk and cost.disk + cost.download > machine.disk:
        said.append(f"this takes about {gigabytes(cost.disk + cost.download)} on the disk, and {gigabytes(machine.disk)} are free")
    if machine.offline and not here:
        said.append(f"HF_HUB_OFFLINE is set and {model.id} is not here: give the folder of a model as backbone.name")
    return said
