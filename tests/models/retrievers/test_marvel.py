"""MARVEL: patches in the place of embeddings, the three new tokens, and what each of its steps trains.

Shapes: L tokens and patches, P patches of a picture, D width of T5.
"""

import copy

import pytest
import torch
from safetensors.torch import load_file

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.backbones.twins import seeded
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.retrievers.marvel import TOKENS, Marvel
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from tests.models.conftest import ITEMS, picture
from tests.models.retrievers.plain_towers import Plain, learnt, of, order, still

READABLE = [item for item in ITEMS if not item.video]
MANY = Item("many", text="three things", images=(picture(), picture("blue", 30), picture("green", 80)), instruction="Find it.")
PATCHES = 16  # of a twin's picture
ADAPTATION = MarvelTuning(towers=("vision", "projector"), text_length=64)
AFTER = MarvelTuning()  # steps 2 and 3: what sets these apart is their negatives


@pytest.fixture(scope="module")
def encoder(twin):
    with seeded(0):
        return Marvel.build(twin("t5_clip"), MarvelConfig()).eval()


@pytest.fixture
def own(encoder):
    """An encoder that a test may change."""
    return copy.deepcopy(encoder)


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    encoder.save(folder := tmp_path_factory.mktemp("marvel"))
    return folder


@torch.inference_mode()
def slowly(plain: Plain, item: Item) -> torch.Tensor:
    """The vector of one item, from the equations."""
    text, patches = plain.words(item), plain.patches(item)
    table_TD, token = plain.t5.shared.weight, plain.tokenizer.convert_tokens_to_ids
    if not patches:
        inputs = [table_TD[number] for number in plain.ids(text)]
    elif not text:
        inputs = patches
    else:
        caption = [table_TD[number] for number in plain.ids(f"caption: {text}")]
        inputs = [table_TD[token("<im_start>")], *patches, table_TD[token("<im_end>")], *caption]
    state_D = plain.t5(inputs_embeds=torch.stack(inputs)[None], decoder_input_ids=torch.tensor([[0]])).last_hidden_state[0, 0]
    return state_D / state_D.square().sum().sqrt()


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_those_of_the_equations(encoder, folder, role):
    plain = Plain(folder)
    long = Item("long", text="a small red circle on snow " * 30, images=(picture("blue"),))
    items = [*READABLE, MANY, long]
    expected = torch.stack([slowly(plain, item) for item in items])
    assert torch.allclose(encoder.encode(items, role=role).rows_NTD[:, 0], expected, atol=1e-5)


def test_patches_overwrite_the_embeddings_of_their_places_picture_after_picture(own):
    with torch.no_grad():
        own.text.shared.weight[own.patch] = 1e6  # never read
    batch = own.collator([], [Item("a", text="two stars", images=MANY.images[:2]), Item("b", images=MANY.images[2:])])
    read = {}
    own.text.encoder.register_forward_pre_hook(lambda _, args, kwargs: read.update(kwargs), with_kwargs=True)
    with torch.inference_mode():
        own(**batch)
        patches_VPD = own.patches(batch["pixel_values"])
        start_D, end_D = own.text.shared.weight[[own.collator.start, own.collator.end]]
    captioned_LD, alone_LD = read["inputs_embeds"]
    assert torch.equal(captioned_LD[0], start_D)
    assert torch.equal(captioned_LD[1 : 1 + 2 * PATCHES], patches_VPD[:2].flatten(0, 1))
    assert torch.equal(captioned_LD[1 + 2 * PATCHES], end_D)
    assert torch.equal(alone_LD[:PATCHES], patches_VPD[2])
    assert read["attention_mask"].sum(1).tolist() == [2 + 2 * PATCHES + len(own.collator.words("caption: two stars")), PATCHES]


def test_a_query_with_a_picture_is_read_as_a_document_is(encoder):
    asked = [item for item in READABLE if item.images]
    assert torch.equal(encoder.encode(asked, role="query").rows_NTD, encoder.encode(asked, role="document").rows_NTD)


def test_its_tokens_in_a_text_are_letters(encoder):
    for token in TOKENS:
        ids = encoder.collator([Item("a", text=f"a {token} b")])["input_ids"][0].tolist()
        assert not set(ids) & set(encoder.parts["text"].tokenizer.convert_tokens_to_ids(list(TOKENS)))
        assert len(ids) > len(token)


def test_a_t5_without_its_tokens_gets_them_and_keeps_the_rest(encoder, twin):
    published = open_checkpoint(twin("t5_clip")["text"], "text")
    grown_TD, table_TD = encoder.text.shared.weight, published.model.shared.weight
    assert len(grown_TD) == encoder.text.config.vocab_size == len(table_TD) + len(TOKENS)
    assert torch.equal(grown_TD[: len(table_TD)], table_TD)
    assert len({tuple(row) for row in grown_TD[len(table_TD) :].tolist()}) == len(TOKENS)


def test_the_room_in_a_published_table_is_used_and_stays(twin, tmp_path):
    """T5's has 28 rows more than its tokenizer has tokens; the published code takes the first of them as they are, in this order."""
    published = open_checkpoint(twin("t5_clip")["text"], "text")
    tokens = len(published.tokenizer)
    published.model.resize_token_embeddings(tokens + 28)
    with torch.no_grad():
        published.model.shared.weight[:tokens].mul_(0.01).add_(5)
    published.save(tmp_path, published.model.state_dict())
    encoder = Marvel.build({**twin("t5_clip"), "text": Checkpoint(tmp_path)}, MarvelConfig())
    table_TD = encoder.text.shared.weight
    assert len(table_TD) == tokens + 28
    assert torch.equal(table_TD, published.model.shared.weight)
    ids = encoder.parts["text"].tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"])
    assert ids == [tokens, tokens + 1, tokens + 2]


def test_where_a_table_has_no_room_its_tokens_are_drawn_like_the_rows_that_were_learnt(twin, tmp_path):
    published = open_checkpoint(twin("t5_clip")["text"], "text")
    tokens = len(published.tokenizer)
    with torch.no_grad():
        published.model.shared.weight.mul_(0.01).add_(5)
    published.save(tmp_path, published.model.state_dict())
    with seeded(0):
        table_TD = Marvel.build({**twin("t5_clip"), "text": Checkpoint(tmp_path)}, MarvelConfig()).text.shared.weight
    assert torch.equal(table_TD[:tokens], published.model.shared.weight)
    assert (table_TD[tokens : tokens + 3] - 5).abs().max() < 0.1
    assert 0.005 < table_TD[tokens : tokens + 3].std() < 0.02


def test_opened_again_its_tokens_are_as_they_were_saved(encoder, folder):
    with seeded(5):
        again = load_encoder(folder)
    assert torch.equal(again.text.shared.weight, encoder.text.shared.weight)
    assert len(again.parts["text"].tokenizer) == len(encoder.parts["text"].tokenizer)
    assert torch.equal(again.encode([MANY]).rows_NTD, encoder.encode([MANY]).rows_NTD)


def test_embeddings_that_t5s_halves_share_are_saved_once_and_shared_again(own, tmp_path):
    trained = {name: parameter + 0.01 for name, parameter in own.named_parameters()}  # as in training: whole, each once
    own.load_state_dict(trained, strict=False)
    own.save(tmp_path)
    table = "shared.weight"
    assert [name for name in load_file(tmp_path / "text" / "model.safetensors") if "shared" in name or "embed_tokens" in name] == [table]
    again = load_encoder(tmp_path)
    assert torch.equal(again.text.decoder.embed_tokens.weight, trained[f"text.{table}"])
    assert again.text.encoder.embed_tokens.weight is again.text.shared.weight is again.text.decoder.embed_tokens.weight
    assert torch.equal(again.encode(READABLE).rows_NTD, own.encode(READABLE).rows_NTD)


def test_step_1_trains_the_vision_tower_and_the_projector_with_t5_frozen(encoder):
    assert learnt(encoder, ADAPTATION, READABLE) == of(encoder, "vision", "projector")


def test_steps_2_and_3_train_t5_and_the_projector_with_clip_frozen(encoder):
    assert learnt(encoder, AFTER, READABLE) == of(encoder, "text", "projector") - still(encoder)


def test_the_new_tokens_learn_with_t5_but_for_the_one_that_is_overwritten(own):
    start, patch, end = own.parts["text"].tokenizer.convert_tokens_to_ids(list(TOKENS))
    own.tune(AFTER)
    rows_NTD, _ = own(**own.training_collator(READABLE, READABLE))
    (rows_NTD * torch.randn_like(rows_NTD)).sum().backward()
    gradient_TD = own.text.shared.weight.grad
    assert gradient_TD[start].any() and gradient_TD[end].any() and not gradient_TD[patch].any()


def test_a_step_may_read_shorter_texts_than_the_encoder_does(own):
    long = [Item("text", text="a small red circle " * 100), Item("both", text="a small red circle " * 100, images=(picture(),))]
    own.tune(ADAPTATION)
    assert own.training_collator([], long)["attention_mask"].sum(1).tolist() == [64, PATCHES + 2 + 64]
    assert own.collator([], long)["attention_mask"].sum(1).tolist() == [128, PATCHES + 2 + 128]
    own.tune(AFTER)
    assert own.training_collator([], long)["attention_mask"].sum(1).tolist() == [128, PATCHES + 2 + 128]


@pytest.mark.parametrize("step", [ADAPTATION, AFTER], ids=["step 1", "steps 2 and 3"])
def test_the_same_modules_run_in_the_same_order_whatever_items_consist_of(own, step):
    own.tune(step)
    mixed = order(own, READABLE)
    for kind in ("text", "picture"):
        assert order(own, [item for item in READABLE if item.id == kind]) == mixed


def test_adapters_on_any_tower_are_merged_when_saved(own, tmp_path):
    tuning = MarvelTuning(towers=own.config.TOWERS, lora=Lora(2, 4, 0.0))
    own.tune(tuning).eval()
    assert not own.text.shared.weight.requires_grad
    for name, parameter in own.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    own.save(tmp_path)
    assert torch.allclose(load_encoder(tmp_path).encode(READABLE).rows_NTD, own.encode(READABLE).rows_NTD, atol=1e-4)
