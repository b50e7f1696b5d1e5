"""Every retriever trains as plain torch does in one process: on 1, 2 and (soak) 3 ranks with different modalities, at ZeRO 0 and 3.

So do those that run one tower of a text and another of a picture where one rank has texts alone and the other pictures alone.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.backbones.twins import make_twin, seeded
from mirepoix.models.encoder import encoder_class, load_encoder
from mirepoix.models.encoder_config import ARCHITECTURES, EncoderConfig, config_class
from mirepoix.models.item import Item, Modality
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.marvel_config import MarvelTuning
from mirepoix.models.retrievers.mire_config import MireTuning
from tests.components.training.plain_training import assert_same_trace, plain
from tests.components.training.toy_training import NAMES, TINY, Watched, assert_same_gradients, job_of, picture, run, write_toys
from tests.models.adopted.written import by_library, write_clip_with_dense

BATCH, STEPS = 6, 3
KINDS = "tttittctttittittcictttttttcttctttttt"
"""In the first step, pictures with text and pictures alone each have negatives of their own modality, which are not masked."""
PARTED = "ppttttpppptt"
"""In both steps on two ranks, the first has pictures alone, queries and documents, and the second sentences alone."""
PARTED_STEPS = 2
ONE_AT_A_TIME = ("adopted", "library", "univldr")
"""Retrievers that run one tower of a text and another of a picture."""
LOSS = Objective(symmetric=True, modality_mask=True, temperature=0.1)
MORE: dict[str, dict] = {"mimic": {"mix_in": 0.0}, "mire": {"cached_pictures": 8}}
"""Settings that turn off random draws, which differ between ranks, so that every world size trains the same."""
SUMMED = AdoptedConfig(several="sum")
SETTINGS = {"adopted": SUMMED}
"""Of the adopted models, a CLIP straight through transformers and, as "library", one with a projection, through sentence-transformers."""
PUBLISHED: dict[str, Tuning] = {
    "marvel step 1": MarvelTuning(towers=("vision", "projector")),
    "marvel steps 2 and 3": MarvelTuning(),
    "mire alignment": MireTuning(towers=("pooling",), text_rows=False),
    "unite adapters": Tuning(lora=Lora(8, 16, 0.0)),
}
"""Stages with frozen towers, tested on two ranks."""
SHOWN = [Item("t", text=f"which flag is {NAMES[3]}"), Item("p", images=(picture(NAMES[3]),))]
LEARN_OF_PICTURES = {"vision", "projector", "pooling"}


def tuned(cls: type[EncoderConfig], **more) -> Tuning:
    return cls.TUNING(towers=cls.TOWERS, lora=None, **more)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_toys(tmp_path_factory.mktemp("toys"), KINDS, negatives=[0, 1, 2])


@pytest.fixture(scope="module")
def parted(tmp_path_factory) -> Path:
    return write_toys(tmp_path_factory.mktemp("parted"), PARTED)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    """A random encoder of each retriever; those of a family are built over one twin."""
    home, texts = tmp_path_factory.mktemp("encoders"), [f"a flag that is {name}" for name in NAMES] * 4
    twins = {}
    for name in ARCHITECTURES:
        cls = config_class(name)
        family = cls.FAMILIES[0]
        twins[family] = twins.get(family) or make_twin(home / family, family, texts, TINY, seed=1)
        with seeded(2):
            encoder_class(cls).build(twins[family], SETTINGS.get(name, cls())).save(home / name)
    library = Adopted.build({"model": Checkpoint(write_clip_with_dense(home / "written", twins["clip"]["model"].name, 32))}, SUMMED)
    library.save(home / "library")
    return {name: home / name for name in (*ARCHITECTURES, "library")}


def tunings(world: int) -> dict[str, Tuning]:
    """The trained weights, by the name of the retriever and its stage."""
    whole = {name: tuned(config_class(name), **MORE.get(name, {})) for name in ARCHITECTURES} | {"library": tuned(AdoptedConfig)}
    return whole | (PUBLISHED if world == 2 else {})


def jobs_of(pairs: Path, encoders: dict[str, Path], world: int) -> dict[str, TrainingJob]:
    """Trainings whose global batches are the same at every world size, and one with draws that differ by rank; on two ranks more stages."""
    shared = {"max_steps": STEPS, "num_workers": world, "global_batch_size": BATCH, "loss": LOSS, "learning_rate": 1e-3}
    jobs = {}
    for stage in (0, 3):
        for name, tuning in tunings(world).items():
            jobs[f"{name} {stage}"] = job_of(pairs, encoders[name.split()[0]], tuning=tuning, zero_stage=stage, **shared)
        drawing = tuned(config_class("mimic"), mix_in=1.0)
        jobs[f"drawing {stage}"] = job_of(pairs, encoders["mimic"], tuning=drawing, zero_stage=stage, **shared)
    return jobs


def parted_jobs(parted: Path, encoders: dict[str, Path]) -> dict[str, TrainingJob]:
    """Trainings on two ranks at ZeRO-3, in chunks, of retrievers that run one tower of a text and another of a picture."""
    shared: dict[str, Any] = {"chunk_tokens": 60, "num_workers": 2, "global_batch_size": BATCH, "max_steps": PARTED_STEPS, "zero_stage": 3}
    return {
        f"{name} parted": job_of(parted, encoders[name], tuning=tunings(1)[name], loss=LOSS, learning_rate=1e-3, **shared)
        for name in ONE_AT_A_TIME
    }


@pytest.fixture(scope="module")
def references(pairs, encoders) -> dict[str, list[dict[str, Any]]]:
    jobs = jobs_of(pairs, encoders, 2)
    return {name: plain(jobs[f"{name} 0"]) for name in tunings(2)}


@pytest.fixture(scope="module")
def trained(pairs, parted, encoders, tmp_path_factory):
    """The rows of the trainings with so many ranks, and the folder of what they saved."""

    @cache
    def made(world: int) -> tuple[dict[str, list[dict[str, Any]]], Path]:
        folder = tmp_path_factory.mktemp("trained") / str(world)
        jobs = jobs_of(pairs, encoders, world) | (parted_jobs(parted, encoders) if world == 2 else {})
        return run(jobs, world, folder, Watched), folder

    return made


@pytest.mark.parametrize("world", [2, 3])
def test_in_the_first_step_only_some_ranks_have_a_picture_and_in_a_later_step_none_has(pairs, encoders, world):
    store = PairStore(pairs)
    plan = BatchPlan(store, BATCH, jobs_of(pairs, encoders, world)["unite 0"].seed)
    steps = []
    for step in range(STEPS):
        codes = [[item.modality for item in (pair.positive, *pair.negatives)] for pair in store.pairs(plan.batch(step))]
        seen = [any(code & Modality.IMAGE for code in pair) for pair in codes]
        steps.append([any(seen[first : first + BATCH // world]) for first in range(0, BATCH, BATCH // world)])
    assert len(set(steps[0])) == 2, "the step whose gradients are compared"
    assert any(not any(ranks) for ranks in steps), steps


def test_in_every_step_one_rank_has_pictures_alone_and_the_other_texts_alone(parted, encoders):
    store = PairStore(parted)
    plan = BatchPlan(store, BATCH, parted_jobs(parted, encoders)["adopted parted"].seed)
    for step in range(PARTED_STEPS):
        codes = [item.modality for pair in store.pairs(plan.batch(step)) for item in (pair.query, pair.positive)]
        assert (set(codes[:BATCH]), set(codes[BATCH:])) == ({Modality.IMAGE}, {Modality.TEXT})


def test_in_the_first_step_every_tower_that_reads_pictures_has_a_gradient(encoders, references):
    for name, tuning in tunings(2).items():
        encoder, gradients = load_encoder(encoders[name.split()[0]]), references[name][0]["gradients"]
        names = {id(weight): path for path, weight in encoder.named_parameters()}
        most = max(float(gradient.abs().max()) for gradient in gradients.values())
        for tower in LEARN_OF_PICTURES & {*tuning.towers}:
            own = [gradients[f"encoder.{names[id(weight)]}"] for weight in encoder.towers[tower].parameters()]
            assert max(float(gradient.abs().max()) for gradient in own) > 1e-3 * most, (name, tower)


@pytest.mark.parametrize("world", [1, 2, pytest.param(3, marks=pytest.mark.soak)])
def test_it_trains_as_one_process_with_the_whole_batch(references, trained, world):
    rows, _ = trained(world)
    for name in tunings(world):
        expected = references[name]
        for stage in (0, 3):
            assert_same_trace(rows[f"{name} {stage}"], expected)
            assert_same_gradients(rows[f"{name} {stage}"][0]["gradients"], expected[0]["gradients"])
    assert_same_trace(rows["drawing 3"], rows["drawing 0"])
    assert_same_gradients(rows["drawing 3"][0]["gradients"], rows["drawing 0"][0]["gradients"])
    assert [row["loss"] for row in rows["drawing 0"]] != pytest.approx([row["loss"] for row in references["mimic"]], abs=1e-4)


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
def test_it_trains_as_one_process_where_one_rank_has_texts_alone_and_the_other_pictures_alone(name, parted, encoders, trained, tmp_path):
    """What both ranks save is what one process saves; the adopted ones open in their own library with the same vectors."""
    job, (rows, folder) = parted_jobs(parted, encoders)[f"{name} parted"], trained(2)
    expected = plain(job, tmp_path / "one")
    assert all(row["chunks"] > 1 for row in rows[f"{name} parted"])
    assert_same_trace(rows[f"{name} parted"], expected)
    assert_same_gradients(rows[f"{name} parted"][0]["gradients"], expected[0]["gradients"])
    saved = folder / f"{name} parted" / "final" / "encoder"
    together, alone = load_encoder(saved), load_encoder(tmp_path / "one")
    weights = alone.state_dict()
    assert together.state_dict().keys() == weights.keys()
    for key, weight in together.state_dict().items():
        bound = 1e-3 if key.endswith("k_proj.bias") else 1e-4  # no vector depends on that bias, whose gradients are rounding alone
        torch.testing.assert_close(weight, weights[key], atol=bound, rtol=0)
    found = together.encode(SHOWN).rows_NTD[:, 0]
    assert (found - load_encoder(encoders[name]).encode(SHOWN).rows_NTD[:, 0]).abs().amax(1).min() > 0.05, "both towers have learnt"
    if name != "univldr":
        torch.testing.assert_close(found, by_library(saved, SHOWN), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_position_biases_of_t5_do_not_decay(pairs, encoders, stage, tmp_path):
    """In three steps at a rate of 1e-3, a decay of 100 leaves 0.9 cubed of a matrix."""
    whole = {"max_steps": 3, "global_batch_size": BATCH, "learning_rate": 1e-3, "weight_decay": 100.0, "loss": LOSS}
    job = job_of(pairs, encoders["mimic"], tuning=tuned(config_class("mimic"), mix_in=0.0), zero_stage=stage, **whole)
    run({"mimic": job}, 1, tmp_path)
    before, after = (load_encoder(folder).state_dict() for folder in (encoders["mimic"], tmp_path / "mimic/final/encoder"))
    for tower in ("encoder", "decoder"):
        name = f"text.{tower}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        torch.testing.assert_close(after[name], before[name], atol=4e-3, rtol=0)
    assert float(after["projector.linear.weight"].norm() / before["projector.linear.weight"].norm()) == pytest.approx(0.729, abs=0.03)
