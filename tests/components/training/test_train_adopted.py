"""Adopted models in twenty steps: the loss falls, exactly what is asked moves, and their own library opens what was trained."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.backbones.twin_tokenizers import bert_tokenizer
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.losses.objective import Objective
from tests.components.publishing.test_export import exported, released
from tests.components.training.toy_training import NAMES, TINY, job_of, picture, run, write_toys
from tests.models.adopted.written import by_library, normalize, pooling, transformer, write, write_clip_with_dense

STEPS = 20
ITEMS = [Item("t", text=f"which flag is {NAMES[3]}"), Item("p", images=(picture(NAMES[3]),)), Item("u", text=f"{NAMES[8]} is it")]
ASKED = {
    "text": Tuning(towers=("text",), lora=None),
    "both": Tuning(towers=("text", "vision"), lora=None),
    "adapters": Tuning(towers=("text", "vision"), lora=Lora(4, 8, 0.0)),
}
JOBS = [(name, tower, stage) for name in ("plain", "library") for tower, stage in (("text", 0), ("both", 3), ("adapters", 3))]
WORDED = ("mean", "routed")
"""Models of text alone: a BERT with mean pooling, and a table of word vectors for queries beside that BERT for documents."""
JOBS += [(name, "text", 3) for name in WORDED]
LEARNT = 0.05  # temperature


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> dict[str, Path]:
    """A CLIP straight through transformers, and those that sentence-transformers opens: one with a projection, and two of text alone."""
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    home, texts = tmp_path_factory.mktemp("adopted"), [f"a flag that is {name}" for name in NAMES] * 4
    clip = make_twin(home / "clip", "clip", texts, TINY, seed=1)["model"].name
    bert = make_twin(home / "bert_clip", "bert_clip", texts, TINY, seed=1)["text"].name
    torch.manual_seed(5)
    words = StaticEmbedding(bert_tokenizer(texts, 300)._tokenizer, embedding_dim=TINY.hidden_size)
    router = Router.for_query_document([words], [transformer(bert), pooling(TINY.hidden_size)])
    folders = {
        "plain": Path(clip),
        "library": write_clip_with_dense(home / "written", clip, 32),
        "mean": write(home / "written mean", transformer(bert), pooling(TINY.hidden_size), normalize()),
        "routed": write(home / "written routed", router, normalize()),
    }
    for name, folder in folders.items():
        Adopted.build({"model": Checkpoint(folder)}, AdoptedConfig()).save(home / name)
    return {name: home / name for name in folders}


@pytest.fixture(scope="module")
def trained(before, tmp_path_factory):
    """The rows that each training logged, and the folder of each trained encoder, on one rank."""
    home = tmp_path_factory.mktemp("trained")
    pairs, worded = write_toys(home / "pairs", "itititititit"), write_toys(home / "worded", "t" * 12)
    shared = {
        "max_steps": STEPS,
        "global_batch_size": 6,
        "learning_rate": 2e-3,
        "loss": Objective(temperature=LEARNT, symmetric=True),
    }
    jobs = {
        f"{name} {tower} {stage}": job_of(
            worded if name in WORDED else pairs, before[name], tuning=ASKED[tower], zero_stage=stage, **shared
        )
        for name, tower, stage in JOBS
    }
    return run(jobs, 1, home / "runs"), home / "runs"


@pytest.mark.parametrize(("name", "tower", "stage"), JOBS)
def test_twenty_steps_lower_the_loss_and_move_exactly_what_is_asked(name, tower, stage, before, trained):
    rows, folder = trained
    logged = rows[f"{name} {tower} {stage}"]
    assert "refused" not in logged[-1], logged
    losses = [row["loss"] for row in logged]
    assert len(losses) == STEPS and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    first, after = load_encoder(before[name]), load_encoder(folder / f"{name} {tower} {stage}" / "final" / "encoder")
    asked = {id(weight) for tower_name in ASKED[tower].towers for weight in first.towers[tower_name].parameters()}
    named = dict(first.named_parameters())
    moved = {key for key, weight in after.named_parameters() if not torch.equal(weight, named[key])}
    may_move = {key for key, weight in named.items() if id(weight) in asked}
    if ASKED[tower].lora is not None:  # adapters are on the matrices of linear layers
        linear = {f"{key}.weight" for key, module in first.named_modules() if isinstance(module, torch.nn.Linear)}
        may_move &= linear
    assert moved == may_move


@pytest.mark.parametrize(("name", "tower", "stage"), JOBS)
def test_what_was_trained_opens_in_its_own_library_with_the_same_vectors(name, tower, stage, trained):
    folder = trained[1] / f"{name} {tower} {stage}" / "final" / "encoder"
    encoder, items = load_encoder(folder), ITEMS[::2] if name in WORDED else ITEMS
    for role in ("query", "document"):
        torch.testing.assert_close(encoder.encode(items, role=role).rows_NTD[:, 0], by_library(folder, items, role), atol=1e-5, rtol=0)
    if name == "plain":
        from transformers import AutoModel, AutoTokenizer

        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        with torch.inference_mode():
            found = F.normalize(model.get_text_features(**tokenizer([ITEMS[0].text], return_tensors="pt")).pooler_output, dim=-1)
        torch.testing.assert_close(found[0], encoder.encode(ITEMS[:1]).rows_NTD[0, 0], atol=1e-5, rtol=0)
    assert json.loads((folder / "mirepoix.json").read_text())["architecture"] == "adopted"


@pytest.mark.parametrize(("name", "tower", "stage"), [job for job in JOBS if job[2] == 3 and job[1] != "adapters"])
def test_the_export_of_what_was_trained_opens_in_its_own_library_with_the_same_vectors(name, tower, stage, trained, tmp_path):
    encoder = load_encoder(trained[1] / f"{name} {tower} {stage}" / "final" / "encoder")
    release = released(tmp_path, encoder, instructions={})
    folder, items = exported(release, tmp_path / "exported", "sentence-transformers"), ITEMS[::2] if name in WORDED else ITEMS
    torch.testing.assert_close(encoder.encode(items).rows_NTD[:, 0], by_library(folder, items), atol=1e-5, rtol=0)
