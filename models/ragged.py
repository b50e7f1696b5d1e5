"""Rows of items without padding: how vectors lie on disk and in an index, in numpy, so that a search needs no torch.

Shapes: N items, R rows of all items, T rows of one item, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class RaggedRows:
    """The rows of all items, one item after another; item n has the rows `bounds[n]` to `bounds[n + 1]`."""

    rows_RD: np.ndarray
    bounds: np.ndarray  # N + 1 row numbers

    def __post_init__(self) -> None:
        assert self.rows_RD.ndim == 2 and self.bounds.ndim == 1, (self.rows_RD.shape, self.bounds.shape)
        assert self.bounds[0] == 0 and self.bounds[-1] == len(self.rows_RD), (self.rows_RD.shape, self.bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """The rows_TD of each item."""
        for start, end in zip(self.bounds, self.bounds[1:], strict=False):
            yield self.rows_RD[start:end]

    def __getitem__(self, items: slice | Sequence[int] | np.ndarray) -> "RaggedRows":
        """The given items, in the given order."""
        chosen = np.arange(len(self))[items]
        counts = self.counts_N[chosen]
        ends = np.cumsum(counts)
        rows_R = np.repeat(self.bounds[chosen] - (ends - counts), counts) + np.arange(counts.sum())
        return RaggedRows(self.rows_RD[rows_R], np.append(0, ends))

    @property
    def width(self) -> int:
        return int(self.rows_RD.shape[1])

    @property
    def counts_N(self) -> np.ndarray:
        """How many rows each item has."""
        return np.diff(self.bounds)

    @classmethod
    def single(cls, rows_ND: np.ndarray) -> Self:
        """One row per item."""
        return cls(rows_ND, np.arange(len(rows_ND) + 1))

    @classmethod
    def cat(cls, parts: Sequence["RaggedRows"]) -> Self:
        """The items of all parts, one part after another."""
        counts_N = np.concatenate([part.counts_N for part in parts])
        return cls(np.concatenate([part.rows_RD for part in parts]), np.append(0, np.cumsum(counts_N)))
