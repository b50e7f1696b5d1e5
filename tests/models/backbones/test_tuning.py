"""Which parameters learn and which are frozen, on a module small enough to check by hand."""

import pytest
import torch

from mirepoix.models.backbones.tuning import merged, tune
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.errors import Refused


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4, bias=False))
        self.right = torch.nn.Sequential(torch.nn.Linear(4, 4))

    def forward(self, x):
        return self.right(self.left(x))


def learning(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.fixture
def module():
    return Two()


def towers(module):
    return {"left": module.left, "right": module.right}


def test_a_tower_in_full_learns_and_the_other_is_frozen(module):
    tune(module, towers(module), Tuning(("left",), lora=None))
    assert learning(module) == {"left.0.weight", "left.0.bias", "left.2.weight"}


def test_all_towers_may_learn(module):
    tune(module, towers(module), Tuning(("left", "right"), lora=None))
    assert learning(module) == set(dict(module.named_parameters()))


def test_with_adapters_only_these_learn_on_every_linear_layer_of_the_tower(module):
    tune(module, towers(module), Tuning(("left",), lora=Lora(2, 4, 0.0)))
    assert learning(module) == {f"left.{layer}.lora_{letter}.default.weight" for layer in (0, 2) for letter in "AB"}


def test_new_adapters_change_nothing(module):
    x = torch.randn(3, 4)
    before = module(x)
    tune(module, towers(module), Tuning(("left",), lora=Lora(2, 4, 0.0)))
    assert torch.allclose(module(x), before)


def test_merged_weights_compute_what_adapters_computed(module):
    tune(module, towers(module), Tuning(("left",), lora=Lora(2, 4, 0.0)))
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    x = torch.randn(3, 4)
    plain = Two()
    plain.load_state_dict(merged(module, module.state_dict()))
    assert torch.allclose(plain(x), module(x), atol=1e-6)


def test_without_adapters_merging_changes_nothing(module):
    assert merged(module, module.state_dict()).keys() == module.state_dict().keys()


@pytest.mark.parametrize("names", [("middle",), ()])
def test_towers_that_are_not_there_are_refused_with_those_that_are(module, names):
    with pytest.raises(Refused, match="left, right"):
        tune(module, towers(module), Tuning(names))
