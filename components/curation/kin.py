"""Kin: candidates likely to be equally correct answers, so none is used as a negative of a query that another one answers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.corpus.parts import KIN_SCHEMA, PartWriter
from mirepoix.components.curation.row_index import RowIndex

KIN_ROWS = 100_000  # written at a time
WHY = ("same text", "same pictures", "near-duplicate")

Array = npt.NDArray


def kin(rows: Array, texts: Array, pictures: Array, near: Array, largest: int) -> tuple[Array, Array, int]:
    """Pairs of rows (P, 2), sorted, with equal texts, with equal pictures, or near-equal; for each the first reason that holds, in `WHY`.

    `texts` and `pictures` are a hash of each row, 0 for none; `near` are pairs of near-equal rows. A group of more than `largest` rows with
    one hash, such as a stock phrase, gives no pairs; the third result counts such groups.
    """
    of_texts, many = _equal_pairs(rows, texts, largest)
    of_pictures, more = _equal_pairs(rows, pictures, largest)
    found = np.concatenate([of_texts, of_pictures, np.sort(near, axis=1).astype(np.int64)])
    why = np.repeat(np.arange(len(WHY)), [len(of_texts), len(of_pictures), len(near)])
    _, first = np.unique(found[:, 0] << 32 | found[:, 1], return_index=True)
    return found[first], why[first], many + more


def write_kin(folder: Path, index: RowIndex, pairs: Array, why: Array) -> int:
    """Writes kin/, the ids of each pair with its reason; returns how many."""
    with PartWriter(folder, "kin") as writer:
        for part in np.split(np.arange(len(pairs)), range(KIN_ROWS, len(pairs), KIN_ROWS)):
            ones, others = (pa.array(index.ids(rows), pa.string()) for rows in pairs[part].T)
            writer.write(pa.table([ones, others, pa.array(np.array(WHY)[why[part]], pa.string())], KIN_SCHEMA.names))
    return writer.written


def _equal_pairs(rows: Array, hashes: Array, largest: int) -> tuple[Array, int]:
    """The pairs of rows with equal hashes, the lower row first, and the count of groups larger than `largest`."""
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
