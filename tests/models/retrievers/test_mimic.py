"""MiMIC: words and pictures are combined in the decoder alone, and in training an item may be mixed with what one of its sources makes.

Shapes: L tokens, P patches, H heads, K width of a head, D width of T5.
"""

import copy
import math

import pytest
import torch

from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.backbones.twins import seeded
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.retrievers.mimic import Mimic
from mirepoix.models.retrievers.mimic_config import MimicConfig, MimicTuning
from tests.models.conftest import ITEMS, picture
from tests.models.retrievers.plain_towers import Plain, learnt, of, order, still

READABLE = [item for item in ITEMS if not item.video]
MANY = Item("many", text="three things", images=(picture(), picture("blue", 30), picture("green", 80)), instruction="Find it.")
FUSIONS = ["joint", "sum"]


@pytest.fixture(scope="module")
def built(twin):
    made = {}
    for fusion in FUSIONS:
        with seeded(0):
            made[fusion] = Mimic.build(twin("t5_clip"), MimicConfig(fusion=fusion)).eval()
    return made


@pytest.fixture(params=FUSIONS)
def encoder(request, built):
    return built[request.param]


@pytest.fixture
def own(encoder):
    """An encoder that a test may change."""
    return copy.deepcopy(encoder)


def normed(state_D: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
    return scale_D * state_D / (state_D.square().mean() + 1e-6).sqrt()


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def attended(weights: dict[str, torch.Tensor], heads: int, asked_D: torch.Tensor, states: list[torch.Tensor]) -> torch.Tensor:
    """The attention of a query over the states, head by head."""
    size = len(weights["q"]) // heads
    found = []
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        query_K = weights["q"][rows] @ asked_D
        shares = softmax([float(query_K @ (weights["k"][rows] @ state_D)) for state_D in states])
        found.append(sum(share * (weights["v"][rows] @ state_D) for share, state_D in zip(shares, states, strict=True)))
    return weights["o"] @ torch.cat(found)


@torch.inference_mode()
def slowly(plain: Plain, item: Item, fusion: str) -> torch.Tensor:
    """The vector of one item, from the equations; of the decoder nothing but the weights is used."""
    weights, config = plain.t5.state_dict(), plain.t5.config
    text, patches = plain.words(item), plain.patches(item)
    words = []
    if text:
        words = list(plain.t5.encoder(input_ids=torch.tensor([plain.ids(text)])).last_hidden_state[0])
    sources = [[*words, *patches]] if fusion == "joint" else [source for source in (words, patches) if source]
    state_D = weights["shared.weight"][0]
    for number in range(config.num_decoder_layers):
        block = {name.removeprefix(f"decoder.block.{number}.layer."): weight for name, weight in weights.items()}

        def of_attention(name, block=block):
            return {letter: block[f"{name}.{letter}.weight"] for letter in "qkvo"}

        asked_D = normed(state_D, block["0.layer_norm.weight"])
        state_D = state_D + attended(of_attention("0.SelfAttention"), config.num_heads, asked_D, [asked_D])
        asked_D = normed(state_D, block["1.layer_norm.weight"])
        across = of_attention("1.EncDecAttention")
        state_D = state_D + sum(attended(across, config.num_heads, asked_D, source) for source in sources)
        asked_D = normed(state_D, block["2.layer_norm.weight"])
        state_D = state_D + block["2.DenseReluDense.wo.weight"] @ (block["2.DenseReluDense.wi.weight"] @ asked_D).clamp(min=0)
    state_D = normed(state_D, weights["decoder.final_layer_norm.weight"])
    return state_D / state_D.square().sum().sqrt()


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_those_of_the_equations(encoder, role, tmp_path):
    encoder.save(tmp_path)
    plain = Plain(tmp_path)
    long = Item("long", text="a small red circle on snow " * 30, images=(picture("blue"),))
    items = [*READABLE, MANY, long]
    expected = torch.stack([slowly(plain, item, encoder.config.fusion) for item in items])
    assert torch.allclose(encoder.encode(items, role=role).rows_NTD[:, 0], expected, atol=1e-5)


def test_words_and_patches_do_not_see_each_other(encoder):
    alone, beside = Item("a", text="two stars"), Item("b", text="two stars", images=(picture(),))
    states = []
    hook = encoder.text.encoder.register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state))
    one, other = encoder.encode([alone]), encoder.encode([beside])
    hook.remove()
    assert torch.equal(*states)
    assert not torch.allclose(one.rows_NTD, other.rows_NTD, atol=1e-3)


def test_the_fusions_differ_where_there_are_two_sources_and_only_there(built):
    joint, summed = (built[fusion].encode(READABLE).rows_NTD[:, 0] for fusion in FUSIONS)
    for item, one_D, other_D in zip(READABLE, joint, summed, strict=True):
        both = bool(item.images and item.text)
        assert torch.allclose(one_D, other_D, atol=1e-5 if not both else 1e-3) is not both


def test_the_order_of_an_items_pictures_counts_for_nothing(encoder):
    one, other = encoder.encode([MANY, Item("turned", text=MANY.text, images=MANY.images[::-1], instruction=MANY.instruction)]).rows_NTD
    assert torch.allclose(one, other, atol=1e-5)


def test_a_source_that_no_item_has_is_not_run(encoder):
    assert not any(name.startswith(("vision", "projector")) for name in ran(encoder, READABLE[0]))
    assert not any(name.startswith("text.encoder") for name in ran(encoder, READABLE[1]))


def ran(encoder, item: Item) -> set[str]:
    names = set()
    hooks = [module.register_forward_hook(lambda *_, name=name: names.add(name)) for name, module in encoder.named_modules()]
    encoder.encode([item])
    for hook in hooks:
        hook.remove()
    return names


@pytest.mark.parametrize(("mix", "ratio", "mix_in"), [("interpolate", 0.3, 0.4), ("replace", 0.3, 1.0)])
def test_some_items_of_two_sources_are_mixed_with_what_one_makes(own, mix, ratio, mix_in):
    """Value and gradient of the formula, with single sources as the encoder reads items that have no other, and the draws known."""
    items = [*READABLE, MANY, Item("again", text="snow", images=(picture("green"),))] * 2
    own.tune(MimicTuning(mix_in=mix_in, mix=mix, mix_ratio=ratio))
    weights_ND = torch.randn(len(items), own.dimension)
    torch.manual_seed(3)
    mixed_N1D, mask_N1 = own(**own.training_collator(items))
    (mixed_N1D[:, 0] * weights_ND).sum().backward()
    gradients = {name: parameter.grad for name, parameter in own.named_parameters() if parameter.requires_grad}

    own.zero_grad()
    own.tune(MimicTuning(mix_in=0.0))
    torch.manual_seed(3)
    drawn_N, chance_N = torch.rand(2, len(items)).tolist()
    expected, kinds = [], []
    for item, drawn, chance in zip(items, drawn_N, chance_N, strict=True):
        whole_D = one(own, item)
        kinds.append("whole")
        if item.images and item.text and drawn < mix_in:
            kinds[-1] = "text" if chance < 0.5 else "picture"
            alone = Item("words", text=item.text, instruction=item.instruction) if chance < 0.5 else Item("picture", images=item.images)
            share = 1.0 if mix == "replace" else ratio
            whole_D = (1 - share) * whole_D + share * one(own, alone)
            whole_D = whole_D / whole_D.norm()
        expected.append(whole_D)
    (torch.stack(expected) * weights_ND).sum().backward()
    assert {"whole", "text", "picture"} == set(kinds)
    assert mask_N1.all()
    assert torch.allclose(mixed_N1D[:, 0], torch.stack(expected), atol=1e-5)
    for name, gradient in gradients.items():
        expected_gradient = own.get_parameter(name).grad
        assert torch.allclose(gradient, expected_gradient, atol=1e-4 * max(1.0, float(expected_gradient.abs().max()))), name


def one(encoder, item: Item) -> torch.Tensor:
    return encoder(**encoder.collator([item]))[0][0, 0]


def test_nothing_is_mixed_or_drawn_outside_training_or_where_none_is_to_be(own):
    before = own.encode(READABLE).rows_NTD
    own.tune(MimicTuning(mix_in=1.0)).eval()
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert torch.equal(own(**own.training_collator(READABLE))[0], own(**own.collator(READABLE))[0])
    assert torch.allclose(own.encode(READABLE).rows_NTD, before, atol=1e-6)
    own.tune(MimicTuning(mix_in=0.0))
    assert torch.allclose(own(**own.training_collator(READABLE))[0], before, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mix_in", [0.0, 0.5])
def test_the_same_modules_run_in_the_same_order_whatever_items_consist_of(own, mix_in):
    own.tune(MimicTuning(mix_in=mix_in))
    mixed = order(own, READABLE)
    for kind in ("text", "picture"):
        assert order(own, [item for item in READABLE if item.id == kind]) == mixed


@pytest.mark.parametrize(
    "towers",
    [("text", "vision", "projector"), ("text", "projector"), ("vision", "projector")],
    ids=["all, the default", "vision frozen", "text frozen"],
)
def test_a_stage_in_either_round_trains_what_it_names(encoder, towers):
    assert learnt(encoder, MimicTuning(towers=towers), READABLE) == of(encoder, *towers) - still(encoder)
    assert MimicTuning().towers == encoder.config.TOWERS


def test_adapters_on_any_tower_are_merged_when_saved(own, tmp_path):
    own.tune(MimicTuning(towers=own.config.TOWERS, lora=Lora(2, 4, 0.0))).eval()
    for name, parameter in own.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    own.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.config.fusion == own.config.fusion
    assert torch.allclose(again.encode(READABLE).rows_NTD, own.encode(READABLE).rows_NTD, atol=1e-4)
