"""Candidates that may be the same answer though they are not the same: to a query that wants one, the other is no true negative."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

LARGEST = 16
"""A group of candidates with one text, or one picture, that is larger says nothing of them: it is not paired, and counted."""

Array = npt.NDArray


def kin(rows: Array, texts: Array, pictures: Array, near: Array) -> tuple[list[tuple[int, int, str]], int]:
    """Pairs of rows, in order, with the same text, the same pictures, or near-equal; and how many groups were too large.

    `texts` and `pictures` are hashes of each of the rows, 0 for none; `near` are pairs of rows.
    """
    found: dict[tuple[int, int], str] = {}
    large = 0
    for why, hashes in (("same text", texts), ("same pictures", pictures)):
        for group in _groups(rows, hashes):
            if len(group) > LARGEST:
                large += 1
                continue
            for place, one in enumerate(group):
                for other in group[place + 1 :]:
                    found.setdefault((one, other), why)
    for one, other in np.sort(near, axis=1).tolist():
        found.setdefault((one, other), "near-duplicate")
    return [(one, other, why) for (one, other), why in sorted(found.items())], large


def _groups(rows: Array, hashes: Array) -> Iterator[list[int]]:
    """The rows of each hash that several have."""
    order = np.argsort(hashes, kind="stable")
    order = order[hashes[order] != 0]
    starts = np.flatnonzero(np.append(True, hashes[order][1:] != hashes[order][:-1])) if len(order) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(order))
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        yield rows[order[start:end]].tolist()
