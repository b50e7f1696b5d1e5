"""MIRe's attentive pooling, against its equations written out in loops."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from mirepoix.models.backbones.twins import seeded
from mirepoix.models.retrievers.query_pooling import NOWHERE, Pooling

SIZES = {"vision_width": 6, "width": 4, "heads": 3, "global_tokens": 2, "global_hidden": 5, "patch_hidden": 7}


@pytest.fixture(scope="module")
def pooling():
    with seeded(0):
        made = Pooling(**SIZES)
        for weight in made.parameters():
            torch.nn.init.normal_(weight)
        made.values.weight.data *= 1e-3  # so small that the norm behind them does not hide their scale
    return made


def looked(weights, picture):
    """E_g of one picture, row by row."""
    hidden = torch.tanh(weights["global_in.weight"] @ picture[0] + weights["global_in.bias"])
    flat = weights["global_out.weight"] @ hidden + weights["global_out.bias"]
    width = len(weights["head_norm.weight"])
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def attended(weights, patches, guide):
    """E_m of one item, head by head and token by token."""
    width = len(weights["head_norm.weight"])
    inner = []
    for patch in patches:
        normed = layer_norm(patch, patch.shape, weights["patch_norm.weight"], weights["patch_norm.bias"])
        inner.append(gelu(weights["patch_in.weight"] @ normed + weights["patch_in.bias"]))
    rows = []
    for start in range(0, len(weights["keys.weight"]), width):
        keys = torch.stack([weights["keys.weight"][start : start + width] @ patch for patch in inner])
        values = torch.stack([weights["values.weight"][start : start + width] @ patch for patch in inner])
        pooled = torch.zeros(width)
        for token in guide:
            exponents = torch.exp(keys @ token / math.sqrt(width))
            pooled = pooled + exponents / exponents.sum() @ values / len(guide)
        normed = layer_norm(pooled, pooled.shape, weights["head_norm.weight"], weights["head_norm.bias"])
        rows.append(weights["head_out.weight"] @ normed + weights["head_out.bias"])
    return rows


def drawn(*shape):
    with seeded(sum(shape)):
        return torch.randn(*shape)


def test_items_with_one_picture_and_with_several_get_what_the_equations_say(pooling):
    states, guides = drawn(4, 1 + 5, 6), drawn(3, 8, 4)
    pictures = torch.tensor([[2, NOWHERE], [0, 1], [3, NOWHERE]])
    lengths = [8, 3, 1]
    mask = (torch.arange(8) < torch.tensor(lengths)[:, None]).long()
    global_rows, attentive = pooling(states, pictures, guides, mask)
    weights = pooling.state_dict()
    assert torch.allclose(global_rows, torch.stack([row for picture in states for row in looked(weights, picture)]), atol=1e-5)
    of_items = [states[2, 1:], torch.cat([states[0, 1:], states[1, 1:]]), states[3, 1:]]
    expected = [
        row for patches, guide, length in zip(of_items, guides, lengths, strict=True) for row in attended(weights, patches, guide[:length])
    ]
    assert torch.allclose(attentive, torch.stack(expected), atol=1e-5)


def test_padding_of_guides_adds_nothing_whatever_it_holds(pooling):
    states, guide, one = drawn(1, 6, 6), drawn(1, 3, 4), torch.zeros(1, 1, dtype=torch.long)
    short = pooling(states, one, guide, torch.ones(1, 3))[1]
    padded = torch.cat([guide, drawn(1, 9, 4)], dim=1)
    long = pooling(states, one, padded, torch.tensor([[1.0] * 3 + [0.0] * 9]))[1]
    assert torch.allclose(short, long, atol=1e-6)


def test_text_weighs_patches_and_enters_no_vector(pooling):
    """Where all patches are the same, their weights have no effect, and nor has the guide."""
    one, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 3)
    alike, varied = drawn(1, 1, 6).expand(1, 6, 6), drawn(1, 6, 6)
    guides = drawn(1, 3, 4), drawn(1, 3, 4).flip(-1)
    assert torch.allclose(*(pooling(alike, one, guide, mask)[1] for guide in guides), atol=1e-5)
    assert not torch.allclose(*(pooling(varied, one, guide, mask)[1] for guide in guides), atol=1e-2)


def test_gradients_reach_the_guide_through_the_weights_alone(pooling):
    guide = drawn(1, 3, 4).requires_grad_()
    one, mask = torch.zeros(1, 1, dtype=torch.long), torch.tensor([[1.0, 1.0, 0.0]])
    pooling(drawn(1, 6, 6), one, guide, mask)[1].square().sum().backward()
    assert guide.grad[0, :2].abs().amin(-1).gt(0).all() and not guide.grad[0, 2].any()


def test_linear_layers_start_as_xavier_drew_them_without_bias():
    with seeded(0):
        fresh = Pooling(32, 16, 3, 2, 64, 48)
    for name, weight in fresh.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif weight.ndim == 2:
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.95 * bound < weight.abs().max() <= bound, name
