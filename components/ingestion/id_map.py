"""A map from the 64-bit hashes of ids to integers, compact enough for millions of ids."""

from collections.abc import Hashable, Iterable, Iterator

import numpy as np

RECENT = 100_000  # most ids in the dict


class IdMap:
    """Integers by the 64-bit hash of a name: the newest in a dict, the others in sorted arrays, merged like a log-structured tree."""

    def __init__(self, *types: str):
        self.types = ("i8", *types)  # of the hash, and of each number
        self.recent: dict[int, tuple[int, ...]] = {}
        self.chunks: list[list[np.ndarray]] = []

    def find(self, names: Iterable[Hashable]) -> Iterator[tuple[int, tuple[int, ...] | None]]:
        """The hash of each name and its numbers, or None; lazily, so that numbers set while iterating are found."""
        if len(self.recent) >= RECENT:
            self._merge_recent()
        keys = np.array([hash(name) for name in names], np.int64)
        found: list[tuple[int, ...] | None] = [None] * len(keys)
        for hashes, *columns in self.chunks:
            at = np.minimum(np.searchsorted(hashes, keys), len(hashes) - 1)
            for number in np.flatnonzero(hashes[at] == keys):
                found[number] = tuple(int(column[at[number]]) for column in columns)
        for key, old in zip(keys.tolist(), found, strict=True):
            yield key, self.recent.get(key, old)

    def _merge_recent(self) -> None:
        rows = zip(*((key, *numbers) for key, numbers in self.recent.items()), strict=True)
        chunk = [np.array(column, type) for column, type in zip(rows, self.types, strict=True)]
        while True:
            order = np.argsort(chunk[0], kind="stable")
            chunk = [column[order] for column in chunk]
            if not self.chunks or len(self.chunks[-1][0]) > 4 * len(order):
                break
            chunk = [np.concatenate(pair) for pair in zip(self.chunks.pop(), chunk, strict=True)]
        self.chunks.append(chunk)
        self.recent = {}
