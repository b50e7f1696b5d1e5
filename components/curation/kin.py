"""Candidates that may be the same answer though they are not the same: to a query that wants one, the other is no true negative."""

import numpy as np
import numpy.typing as npt

WHY = ("same text", "same pictures", "near-duplicate")

Array = npt.NDArray


def kin(rows: Array, texts: Array, pictures: Array, near: Array, largest: int) -> tuple[Array, Array, int]:
    """Pairs of rows (P, 2), in order, with the same text, the same pictures, or near-equal; the number in `WHY` of the first of these.

    `texts` and `pictures` are hashes of each of the rows, 0 for none; `near` are pairs of rows. Of more than `largest` rows with one hash
    no pairs are made; the last that is returned is how many such groups there are.
    """
    of_texts, many = _alike(rows, texts, largest)
    of_pictures, more = _alike(rows, pictures, largest)
    found = np.concatenate([of_texts, of_pictures, np.sort(near, axis=1).astype(np.int64)])
    why = np.repeat(np.arange(len(WHY)), [len(of_texts), len(of_pictures), len(near)])
    _, first = np.unique(found[:, 0] << 32 | found[:, 1], return_index=True)
    return found[first], why[first], many + more


def _alike(rows: Array, hashes: Array, largest: int) -> tuple[Array, int]:
    """The pairs of rows with one hash, the lower first, and how many hashes too many rows have."""
    order = np.lexsort((rows, hashes))
    order = order[hashes[order] != 0]
    rows, hashes = rows[order], hashes[order]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])) if len(rows) else np.empty(0, np.int64)
    sizes = np.diff(np.append(starts, len(rows)))
    found = [np.empty((0, 2), np.int64)]
    for size in np.unique(sizes[(sizes > 1) & (sizes <= largest)]).tolist():
        groups = rows[starts[sizes == size][:, None] + np.arange(size)]
        found.append(np.stack([groups[:, side] for side in np.triu_indices(size, 1)], 2).reshape(-1, 2))
    return np.concatenate(found), int((sizes > largest).sum())
