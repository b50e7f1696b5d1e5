"""The order in which an encoder's modules run, forward and backward, recorded by hooks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from mirepoix.models.encoder import Encoder


def module_order(encoder: Encoder, batch: Mapping[str, torch.Tensor]) -> list[str]:
    """Every call of a module, with whether what it is given, and what it gives, needs a gradient; then the order of the backward pass.

    An engine that shards weights gathers those of a module at these moments, so the lists of all ranks must be equal.
    """
    names, order = {module: name for name, module in encoder.named_modules()}, []

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        needs = any(tensor.requires_grad for tensor in tensors((args, *kwargs.values())))
        order.append(f"{names[module]} is given {'a gradient' if needs else 'none'}")

    def after(module: torch.nn.Module, _: Any, output: Any) -> None:
        needed = [tensor for tensor in tensors((output,)) if tensor.requires_grad]
        order.append(f"{names[module]} gives {'a gradient' if needed else 'none'}")
        for tensor in needed[:1]:
            tensor.register_hook(lambda _: order.append(f"{names[module]} backward"))

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names if module is not encoder]
    hooks += [module.register_forward_hook(after) for module in names if module is not encoder]
    try:
        rows_NTD, _ = encoder(**batch)
        order.append("loss")
        (rows_NTD * torch.linspace(0, 1, rows_NTD.numel()).reshape(rows_NTD.shape)).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        encoder.zero_grad()
    return order


def tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from tensors(value.values())
        elif isinstance(value, tuple | list):
            yield from tensors(value)
