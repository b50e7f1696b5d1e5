"""What a frozen tower sees in pictures, kept in host memory."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from mirepoix.models.losses.collectives import total


class FeatureCache:
    """States of so many pictures, by keys of their bytes; the least recently used leave first. A copy of it starts empty."""

    def __init__(self, most: int):
        self.most = most
        self.kept: OrderedDict[int, torch.Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.most,)

    def look(self, keys: Sequence[int], see: Callable[[list[int]], torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """States of the pictures with these keys; `see` runs the tower on those at the places that it is given, of none on a blank one.

        If any rank misses a picture, all ranks see, as a tower whose weights are sharded must run on all of them or on none.
        """
        states = {key: self.kept[key] for key in keys if key in self.kept}
        for key in states:
            self.kept.move_to_end(key)
        missed = {key: place for place, key in enumerate(keys) if key not in states}
        if total(torch.tensor(len(missed), device=device)):
            fresh = see(list(missed.values()))
            for key, state in zip(missed, fresh, strict=False):  # of a blank one nothing is kept
                states[key] = self.kept[key] = state.to("cpu", copy=True)
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return [states[key] for key in keys]
