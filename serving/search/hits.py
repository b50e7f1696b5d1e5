"""What every index returns, and how an item is found by its id."""

from typing import NamedTuple

import pyarrow as pa


class Hit(NamedTuple):
    """An item that a search found."""

    id: str
    score: float


def position(ids: pa.ChunkedArray, id: str) -> int | None:
    """The place of an id among sorted ones, by bisection; None if it is not among them."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle].as_py() < id:
            low = middle + 1
        else:
            high = middle
    return low if low < len(ids) and ids[low].as_py() == id else None
