"""Freezes an encoder except for the towers that a tuning names, in full or through low-rank adapters; merges adapters back."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mirepoix.models.backbones.tuning_config import Lora, Tuning, tuning_problem
from mirepoix.models.errors import Refused


def tune(module: torch.nn.Module, towers: Mapping[str, torch.nn.Module], tuning: Tuning, kind: type[Tuning] = Tuning) -> None:
    """Freezes `module` except for the `towers` that `tuning` names, or for new adapters on these."""
    if reason := tuning_problem(tuning, towers, kind):
        raise Refused(reason)
    module.requires_grad_(False)
    trained = [towers[name] for name in tuning.towers]
    if tuning.lora is not None:
        _adapt(module, trained, tuning.lora)
        return
    for tower in trained:
        tower.requires_grad_(True)


def _adapt(module: torch.nn.Module, towers: Iterable[torch.nn.Module], lora: Lora) -> None:
    """Adds adapters to the linear layers of the towers, by their names in `module`: a tower may be only a list of parts of it."""
    from peft import LoraConfig, inject_adapter_in_model

    own = {id(layer) for tower in towers for layer in tower.modules() if isinstance(layer, torch.nn.Linear)}
    names = [name for name, layer in module.named_modules() if id(layer) in own]
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names), module)


def merged(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in `state` with the adapters of `module` merged into them, by their names without adapters."""
    plain = dict(state)
    for prefix in _adapted(module):
        down, up = (plain.pop(f"{prefix}.lora_{letter}.default.weight") for letter in "AB")
        weight = plain.pop(f"{prefix}.base_layer.weight")
        adapted: Any = module.get_submodule(prefix)
        scale = adapted.scaling["default"]
        plain[f"{prefix}.weight"] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
        if f"{prefix}.base_layer.bias" in plain:
            plain[f"{prefix}.bias"] = plain.pop(f"{prefix}.base_layer.bias")
    return plain


def _adapted(module: torch.nn.Module) -> Iterable[str]:
    if "peft" not in sys.modules:  # which adds the adapters
        return ()
    from peft.tuners.lora import Linear

    return [prefix for prefix, part in module.named_modules() if isinstance(part, Linear)]
