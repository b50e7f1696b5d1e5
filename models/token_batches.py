"""Batches of items of similar length, each within a budget of tokens, and the share of their tokens that is padding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

BATCH_TOKENS = {"cpu": 2048, "gpu": 16384}
"""Most tokens of a batch, padded, where nothing else is said. A CPU is fastest where the activations of a layer stay in its caches."""


def fill(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """The indices of items in batches of at most `most` items, and of at most `budget` tokens when all are padded to the longest.

    An item that is longer than the budget is alone. The longest come first: if a batch does not fit into memory, it is the first one, and
    the memory that it took serves the others. Items of one length keep their order, so batches depend on the lengths alone.
    """
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batches and len(batches[-1]) < most and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest = lengths[place]
    return batches


@dataclass
class Padding:
    """A count of tokens that were read, and of places in batches, which padding fills to the longest item of each."""

    tokens: int = 0
    places: int = 0

    def add(self, lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> None:
        """Counts batches of items, given by their indices."""
        for batch in batches:
            self.tokens += sum(lengths[place] for place in batch)
            self.places += len(batch) * max(lengths[place] for place in batch)

    def __iadd__(self, other: "Padding") -> Self:
        self.tokens += other.tokens
        self.places += other.places
        return self

    @property
    def share(self) -> float:
        """The share of places that padding fills."""
        return 1 - self.tokens / self.places if self.places else 0.0
