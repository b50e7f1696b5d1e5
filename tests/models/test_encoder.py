"""What every encoder owes, whichever retriever it is."""

import json
import pickle

import pytest
import torch

from mirepoix.models.encoder import ARCHITECTURES, DESCRIPTION, architecture, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.tuning import Lora, Tuning
from mirepoix.models.vectors import Vectors

from .conftest import ITEMS, picture

TWINS = {"unite": "tiny_qwen"}


def test_every_retriever_is_under_the_contract():
    assert set(TWINS) == set(ARCHITECTURES)


@pytest.fixture(params=sorted(TWINS))
def encoder(request):
    cls = architecture(request.param)
    return cls.open(request.getfixturevalue(TWINS[request.param]), cls.Config()).eval()


def test_rows_have_unit_norm_and_the_mask_is_true(encoder):
    vectors = encoder.encode(ITEMS)
    assert len(vectors) == len(ITEMS)
    assert vectors.width == encoder.dimension
    assert vectors.mask_NT.any(1).all()
    assert torch.allclose(vectors.rows_NTD.norm(dim=-1)[vectors.mask_NT], torch.ones(int(vectors.mask_NT.sum())), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, len(ITEMS)])
def test_a_batch_of_one_equals_a_batch_of_many(encoder, batch_size):
    alone = Vectors.cat([encoder.encode([item]) for item in ITEMS])
    together = encoder.encode(ITEMS, batch_size)
    assert torch.allclose(alone.rows_NTD, together.rows_NTD, atol=1e-5)
    assert torch.equal(alone.mask_NT, together.mask_NT)


def test_encoding_twice_is_the_same(encoder):
    assert torch.equal(encoder.encode(ITEMS).rows_NTD, encoder.encode(ITEMS).rows_NTD)


def test_every_part_of_an_item_counts(encoder):
    base = Item("x", text="two stars", images=(picture(),), instruction="Find it.")
    changes = [
        Item("x", text="two circles", images=(picture(),), instruction="Find it."),
        Item("x", text="two stars", images=(picture("blue"),), instruction="Find it."),
        Item("x", text="two stars", images=(picture(),), instruction="Find another."),
        Item("x", text="two stars", instruction="Find it."),
        Item("x", images=(picture(),), instruction="Find it."),
    ]
    rows = encoder.encode([base, *changes]).rows_NTD.flatten(1)
    assert ((rows[1:] - rows[0]).abs().amax(1) > 1e-4).all()


def test_the_id_does_not_count(encoder):
    one, other = encoder.encode([Item("a", text="two stars"), Item("b", text="two stars")]).rows_NTD
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("tuning", [Tuning(lora=None), Tuning(lora=Lora(2, 4, 0.0))], ids=["in full", "adapters"])
def test_gradients_reach_what_is_tuned_and_nothing_else(encoder, tuning):
    encoder.tune(tuning)
    rows, _ = encoder(**encoder.collator(ITEMS))
    (rows * torch.randn_like(rows)).sum().backward()
    tower = dict(encoder.towers)[tuning.towers[0]]
    own = {id(parameter) for parameter in tower.parameters()}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert id(parameter) in own, name
            assert parameter.grad is not None, name
        else:
            assert parameter.grad is None, name
    assert any(parameter.grad.abs().sum() > 0 for parameter in tower.parameters() if parameter.requires_grad)


def test_what_was_saved_gives_equal_vectors(encoder, tmp_path):
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.config == encoder.config
    assert torch.equal(again.encode(ITEMS).rows_NTD, encoder.encode(ITEMS).rows_NTD)


def test_adapters_are_merged_when_saved(encoder, tmp_path):
    encoder.tune(Tuning(lora=Lora(2, 4, 0.0))).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    encoder.save(tmp_path)
    assert torch.allclose(load_encoder(tmp_path).encode(ITEMS).rows_NTD, encoder.encode(ITEMS).rows_NTD, atol=1e-4)


def test_it_pickles(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.encode(ITEMS).rows_NTD, encoder.encode(ITEMS).rows_NTD)
    collator = pickle.loads(pickle.dumps(encoder.collator))
    assert not any(isinstance(part, torch.nn.Module) for part in vars(collator).values())


def test_nothing_to_encode_is_refused(encoder):
    with pytest.raises(Refused, match="at least one item"):
        encoder.encode([])


def test_the_names_of_its_towers_are_known_without_weights(encoder):
    assert tuple(encoder.towers) == type(encoder).TOWERS


def test_an_unknown_tower_is_refused_with_those_there_are(encoder):
    with pytest.raises(Refused, match=", ".join(encoder.towers)):
        encoder.tune(Tuning(towers=("audio",)))


def test_encoding_does_not_end_training_mode(encoder):
    encoder.train()
    encoder.encode(ITEMS[:1])
    assert encoder.training


def test_a_folder_that_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(Refused, match=DESCRIPTION):
        load_encoder(tmp_path)


def test_an_unknown_retriever_is_refused_with_those_there_are(tmp_path):
    (tmp_path / DESCRIPTION).write_text(json.dumps({"architecture": "clippy", "config": {}}))
    with pytest.raises(Refused, match="unite"):
        load_encoder(tmp_path)


def test_a_config_of_another_version_is_refused(encoder, tmp_path):
    encoder.save(tmp_path)
    told = json.loads((tmp_path / DESCRIPTION).read_text())
    told["config"]["shoe_size"] = 43
    (tmp_path / DESCRIPTION).write_text(json.dumps(told))
    with pytest.raises(Refused, match="shoe_size"):
        load_encoder(tmp_path)
