"""Leakage between training and held-out rows, and the choice of held-out queries where a source has training rows only."""

import numpy as np
import numpy.typing as npt
import xxhash

from mirepoix.models.errors import Refused

TRAIN = "train"

Array = npt.NDArray


def leaking(pairs: Array, content: Array, training: Array, held_out: Array, preference: Array) -> dict[int, int]:
    """The training rows that are equal (by `content`) or near-equal (by `pairs`) to a held-out row, each with the most preferred such row.

    Lower values of `preference` are preferred.
    """
    origin: dict[int, int] = {}

    def note(row: int, other: int) -> None:
        if row not in origin or preference[other] < preference[origin[row]]:
            origin[row] = other

    equal: dict[int, int] = {}
    for row in held_out[np.argsort(preference[held_out])].tolist():
        equal.setdefault(int(content[row]), row)
    for row in training[np.isin(content[training], content[held_out])].tolist():
        note(row, equal[int(content[row])])
    is_training, is_held_out = (_marked(rows, len(content)) for rows in (training, held_out))
    for one, other in np.concatenate([pairs, pairs[:, ::-1]]).tolist():
        if is_training[one] and is_held_out[other]:
            note(one, other)
    return origin


def first_of(chosen: Array, *rows: Array) -> Array:
    """Elementwise: the first of several rows that is among the chosen ones; -1 where none is."""
    found = np.full_like(rows[0], -1)
    for candidates in reversed(rows):
        here = np.isin(candidates, chosen)
        found[here] = candidates[here]
    return found


def _marked(rows: Array, count: int) -> Array:
    marks = np.zeros(count, bool)
    marks[rows] = True
    return marks


def choose_held_out(
    queries: Array, answers: Array, content: Array, eligible: Array, names: dict[int, str], share: float, seed: int
) -> list[int]:
    """Chooses whole groups of eligible queries, up to the share, in an order that the seed decides.

    Queries that are equal or share an answer are one group: split apart, they would leak. `queries` and `answers` are the rows of each
    positive judgement; `names` are the ids of the eligible queries.
    """
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for query, answer in zip(content[queries].tolist(), content[answers].tolist(), strict=True):
        parent[root(query)] = root(answer)
    groups: dict[int, list[int]] = {}
    for query in np.unique(np.concatenate([queries, eligible])).tolist():
        groups.setdefault(root(int(content[query])), []).append(query)
    whole = [group for group in groups.values() if all(query in names for query in group)]
    wanted = round(share * len(eligible))
    taken: list[int] = []
    for group in sorted(whole, key=lambda group: xxhash.xxh3_128_digest(f"{seed} {min(names[query] for query in group)}".encode())):
        if len(taken) + len(group) <= wanted:
            taken += group
    if not taken:
        smallest = f"the smallest group has {min(map(len, whole))}" if whole else "all share one with queries of other splits"
        raise Refused(
            f"held_out is {share}, {wanted} of {len(eligible)} training queries, but queries that share an answer stay together and "
            f"{smallest}; raise held_out, or set it to 0"
        )
    return sorted(taken)
