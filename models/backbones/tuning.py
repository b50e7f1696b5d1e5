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

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if not getattr(self, name) >= 1:
                raise Refused(f"lora.{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.dropout < 1:
            raise Refused(f"lora.dropout is {self.dropout}; give a share from 0 to below 1")


@dataclass(frozen=True)
class Tuning:
    """Which towers learn, and how; a retriever whose stages differ in more derives its own."""

    towers: tuple[str, ...] = option(("language",), "towers that learn; the others are frozen")
    lora: Lora | None = option(Lora, "they learn through adapters; null: in full")


def unfit(tuning: Tuning, towers: Iterable[str], kind: type[Tuning] = Tuning) -> str | None:
    """Why a tuning does not fit an encoder of these towers and this kind of tuning, if it does not."""
    known = list(towers)
    if type(tuning) is not kind:
        return f"it is a {type(tuning).__name__}; this retriever takes {kind.__name__}: give that"
    unknown = [name for name in tuning.towers if name not in known]
    if tuning.towers and not unknown:
        return None
    return f"towers {', '.join(unknown) or '()'} cannot learn; this retriever has {', '.join(known)}: name one or more of them"


def tune(module: torch.nn.Module, towers: Mapping[str, torch.nn.Module], tuning: Tuning, kind: type[Tuning] = Tuning) -> None:
    """Freezes `module` but for what `tuning` names among its `towers`."""
    if reason := unfit(tuning, towers, kind):
        raise Refused(reason)
    module.requires_grad_(False)
    learning = [towers[name] for name in tuning.towers]
    if tuning.lora is not None:
        _adapt(module, learning, tuning.lora)
        return
    for tower in learning:
        tower.requires_grad_(True)


def _adapt(module: torch.nn.Module, towers: Iterable[torch.nn.Module], lora: Lora) -> None:
    """Puts adapters on the layers of the towers where they stand in `module`: a tower itself may be but a list of parts of it."""
    from peft import LoraConfig, inject_adapter_in_model

    own = {id(layer) for tower in towers for layer in tower.modules() if isinstance(layer, torch.nn.Linear)}
    names = [name for name, layer in module.named_modules() if id(layer) in own]
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names), module)


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
