"""What of an encoder learns: whole towers, or low-rank adapters on them; and adapters merged back into plain weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer of the towers that learn."""

    rank: int = option(8, "rank of the adapters")
    alpha: int = option(16, "scale of the adapters, over the rank")
    dropout: float = option(0.05, "dropout in front of the adapters")


@dataclass(frozen=True)
class Tuning:
    """Which towers learn, and how."""

    towers: tuple[str, ...] = option(("language",), "towers that learn; the others are frozen")
    lora: Lora | None = option(Lora, "they learn through adapters; null: in full")


def unfit(tuning: Tuning, towers: Iterable[str]) -> str | None:
    """Why a tuning does not fit an encoder of these towers, if it does not."""
    known = list(towers)
    unknown = [name for name in tuning.towers if name not in known]
    if tuning.towers and not unknown:
        return None
    return f"towers {', '.join(unknown) or '()'} cannot learn; this retriever has {', '.join(known)}: name one or more of them"


def tune(module: torch.nn.Module, towers: Mapping[str, torch.nn.Module], tuning: Tuning) -> None:
    """Freezes `module` but for what `tuning` names among its `towers`."""
    if reason := unfit(tuning, towers):
        raise Refused(reason)
    module.requires_grad_(False)
    for name in tuning.towers:
        if tuning.lora is None:
            towers[name].requires_grad_(True)
        else:
            _adapt(towers[name], tuning.lora)


def _adapt(tower: torch.nn.Module, lora: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = sorted({name.rsplit(".", 1)[-1] for name, module in tower.named_modules() if isinstance(module, torch.nn.Linear)})
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names), tower)


def merged(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in `state` as they were named before adapters came to `module`, with these added in."""
    plain = dict(state)
    for prefix in _adapted(module):
        down, up = (plain.pop(f"{prefix}.lora_{letter}.default.weight") for letter in "AB")
        weight = plain.pop(f"{prefix}.base_layer.weight")
        scale = module.get_submodule(prefix).scaling["default"]
        plain[f"{prefix}.weight"] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
        if f"{prefix}.base_layer.bias" in plain:
            plain[f"{prefix}.bias"] = plain.pop(f"{prefix}.base_layer.bias")
    return plain


def _adapted(module: torch.nn.Module) -> Iterable[str]:
    from peft.tuners.lora import Linear

    return [prefix for prefix, part in module.named_modules() if isinstance(part, Linear)]
