"""A cache of the features that a frozen vision tower computes of pictures, in host memory."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from mirepoix.models.losses.collectives import total


class FeatureCache:
    """An LRU cache of the states of at most `most` pictures, by hashes of their bytes. A pickled copy starts empty."""

    def __init__(self, most: int):
        self.most = most
        self.kept: OrderedDict[int, torch.Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.most,)

    def get(self, keys: Sequence[int], compute: Callable[[list[int]], torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """States of the pictures with these keys; `compute` runs the tower on the pictures at the given positions, or on a blank one.

        If a picture is missing on any rank, all ranks run the tower: one whose weights are sharded must run on all of them or on none.
        """
        states = {key: self.kept[key] for key in keys if key in self.kept}
        for key in states:
            self.kept.move_to_end(key)
        missed = {key: place for place, key in enumerate(keys) if key not in states}
        if total(torch.tensor(len(missed), device=device)):
            fresh = compute(list(missed.values()))
            for key, state in zip(missed, fresh, strict=False):  # the state of a blank picture is not kept
                states[key] = self.kept[key] = state.to("cpu", copy=True)
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return [states[key] for key in keys]
