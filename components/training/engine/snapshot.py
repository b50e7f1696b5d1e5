"""A copy of an engine's checkpoint in host memory, which is written while the training goes on."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

Key = tuple[Any, ...]


class Copies:
    """Copies of tensors in host memory; those of the same tensors in the next checkpoint are made in the same memory.

    Memory that is new to the process is given to it page by page at the first write, which takes several times as long as the copy.
    """

    def __init__(self) -> None:
        self._copies: dict[Key, torch.Tensor] = {}

    def of(self, value: Any, key: Key) -> Any:
        """The value with each tensor in it copied, detached and on the host; valid until the value of the same key is copied again."""
        copied = self._copied(value, key, {})
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copied(self, value: Any, key: Key, made: dict[Key, torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value.detach(), key, made)
        if isinstance(value, Mapping):
            mapping: Any = copy.copy(value)  # of the same kind, with its attributes: a state dict has versions of its modules
            for name, each in value.items():
                mapping[name] = self._copied(each, (*key, name), made)
            return mapping
        if type(value) in (list, tuple):
            return type(value)(self._copied(each, (*key, number), made) for number, each in enumerate(value))
        return copy.deepcopy(value)

    def _tensor(self, tensor: torch.Tensor, key: Key, made: dict[Key, torch.Tensor]) -> torch.Tensor:
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in made:  # tied weights stay one
            return made[place]
        held = self._copies.get(key)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[key] = held
        held.copy_(tensor, non_blocking=True)
        made[place] = held
        return held


class Recorder:
    """Takes the place of an engine's checkpoint engine, and keeps in memory what that would write."""

    def __init__(self, replaced: Any, copies: Copies):
        self.states: dict[str, Any] = {}
        self._replaced, self._copies = replaced, copies

    def save(self, state_dict: Any, path: str) -> None:
        self.states[path] = self._copies.of(state_dict, (len(self.states),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replaced, name)
