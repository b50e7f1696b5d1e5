"""An adapter is factored from two sets of weights exactly, or refused."""

import pytest
import torch

from mirepoix.components.publishing.lora_adapter import adapters, low_rank
from mirepoix.models.errors import Refused


def product(rank, shape=(64, 96), scale=0.01, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    up, down = torch.randn(shape[0], rank, generator=drawn), torch.randn(rank, shape[1], generator=drawn)
    return scale * up @ down


@pytest.fixture
def base():
    return {"a.weight": 0.05 * torch.randn(64, 96), "a.bias": torch.zeros(64), "norm.weight": torch.ones(96)}


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_a_change_is_found_with_its_rank_and_to_the_rounding_of_its_weights(rank, base):
    change = (base["a.weight"] + product(rank)) - base["a.weight"]
    up, down = low_rank(change, 0.5)
    assert up.shape == (64, rank) and down.shape == (rank, 96)
    assert (up @ down - change).abs().max() < 1e-6


def test_changes_of_several_stages_are_one_of_the_sum_of_their_ranks(base):
    first = base["a.weight"] + product(2, seed=1)
    second = first + product(3, scale=0.001, seed=2)
    up, down = low_rank(second - base["a.weight"], 0.5)
    assert down.shape[0] == 5
    assert torch.allclose(base["a.weight"] + up @ down, second, atol=1e-6)


def test_a_small_part_of_a_change_is_kept_as_long_as_it_is_above_rounding(base):
    change = product(1) + product(1, scale=1e-4, seed=3)
    assert low_rank(change, 0.5)[1].shape[0] == 2


def test_a_change_of_full_rank_has_no_adapter_however_small_it_is():
    assert low_rank(1e-3 * torch.randn(64, 96), 0.5) is None
    assert low_rank(product(39), 1.0) is None  # that many ranks are more numbers than the matrix has


def test_the_same_weights_give_the_same_adapter(base):
    first, again = (low_rank(product(3), 0.5) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_only_layers_that_changed_are_in_it(base):
    trained = {**base, "b.weight": base["a.weight"].clone(), "a.weight": base["a.weight"] + product(2)}
    found = adapters(trained, {**base, "b.weight": base["a.weight"]}, {"a", "b"})
    assert list(found) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "added nothing"),
        ({"a.bias": torch.ones(64)}, "the change of a.bias is not of low rank"),
        ({"norm.weight": torch.zeros(96)}, "the change of norm.weight is not of low rank"),
        ({"a.weight": torch.randn(64, 96)}, "the change of a.weight is not of low rank"),
        ({"a.weight": torch.randn(64, 95)}, "the change of a.weight is not of low rank"),
        ({"new.weight": torch.ones(1)}, "1 weights are only in the release or only in its base (new.weight"),
    ],
)
def test_changes_that_no_adapter_can_contain_are_refused_with_the_weights_name(change, message, base):
    with pytest.raises(Refused) as caught:
        adapters({**base, **change}, base, {"a"})
    assert message in str(caught.value)
