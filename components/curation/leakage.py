"""Leakage between training and held-out rows, the roles that are compared, and the choice of held-out queries in sources without any."""

import numpy as np
import numpy.typing as npt
import xxhash

from mirepoix.components.curation.curate_config import NearRules
from mirepoix.components.curation.kin import kin
from mirepoix.components.curation.near_duplicates import near_pairs
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.models.errors import Refused

TRAIN = "train"
TOGETHER = "queries that share an answer, are like each other, or have answers alike, stay together"

CANDIDATE, ANSWER, TRAINING, HELD_OUT = range(4)
"""Roles of rows: candidate, candidate that answers a held-out query, training query or triple, held-out query or triple."""

Array = npt.NDArray


def compared_roles(leakage: str) -> npt.NDArray[np.bool_]:
    """A matrix over pairs of roles, true where rows are compared: candidates with candidates, training with held-out rows."""
    wanted = np.zeros((4, 4), bool)
    wanted[np.ix_((CANDIDATE, ANSWER), (CANDIDATE, ANSWER))] = True
    if leakage != "off":
        wanted[TRAINING, HELD_OUT] = wanted[HELD_OUT, TRAINING] = True
    if leakage == "all":
        for one, other in ((TRAINING, ANSWER), (CANDIDATE, HELD_OUT), (ANSWER, HELD_OUT)):
            wanted[one, other] = wanted[other, one] = True
    return wanted


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


NO_PAIRS = np.empty((0, 2), np.int64)


def alike(features: RowFeatures, rows: Array, candidates: int, rules: NearRules, largest: int) -> Array:
    """Pairs of rows that are near-equal, of rows with equal pictures, and of candidates with equal texts; see `kin` for `largest`.

    `rows` are in order of preference; those below `candidates` are candidates.
    """
    others = (rows >= candidates).astype(np.int64)
    near = rows[near_pairs(features, rows, others, np.ones((2, 2), bool), rules)[0]]
    known = features.rows[rows]
    return kin(rows, np.where(others, 0, known["text"]), known["pictures"], near, largest)[0]


def without_classes(queries: Array, answers: Array, content: Array, largest: int) -> Array:
    """Which positive judgements are not of a class, an answer of more than so many queries, which both sides of a hold-out may have."""
    pairs = np.unique(np.stack([queries, content[answers]]), axis=1)
    shared, counts = np.unique(pairs[1], return_counts=True)
    return ~np.isin(content[answers], shared[counts > largest])


def choose_held_out(
    queries: Array,
    answers: Array,
    content: Array,
    eligible: Array,
    names: dict[int, str],
    share: float,
    seed: int,
    related: Array = NO_PAIRS,
    uncounted: Array = NO_PAIRS,
) -> list[int]:
    """Chooses whole groups of eligible rows, up to the share of the eligible queries, in an order that the seed decides.

    Rows that are equal, that share an answer, or that are joined by a chain of `related` pairs of rows, are one group: split apart, they
    would leak. `queries` and `answers` are the rows of each positive judgement; `names` are the ids of the eligible rows. Rows that are
    `uncounted` (triples) go with their group. Where even the smallest group is larger than the share, it is taken, if it is at most half of
    the queries.
    """
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for ones, others in ((queries, answers), (related[:, 0], related[:, 1])):
        for one, other in zip(content[ones].tolist(), content[others].tolist(), strict=True):
            parent[root(one)] = root(other)
    groups: dict[int, list[int]] = {}
    for query in np.unique(np.concatenate([queries, eligible])).tolist():
        groups.setdefault(root(int(content[query])), []).append(query)
    free = set(uncounted.ravel().tolist())
    sizes = {node: sum(row not in free for row in group) for node, group in groups.items()}
    whole = [node for node, group in groups.items() if sizes[node] and all(row in names for row in group)]
    order = sorted(whole, key=lambda node: xxhash.xxh3_128_digest(f"{seed} {min(names[row] for row in groups[node])}".encode()))
    count = sum(row not in free for row in eligible.tolist())
    wanted, taken = round(share * count), 0
    chosen: list[int] = []
    for node in order:
        if taken + sizes[node] <= wanted:
            taken += sizes[node]
            chosen += groups[node]
    if not chosen and whole and 2 * sizes[smallest := min(order, key=sizes.__getitem__)] <= count:
        chosen = groups[smallest]
    if not chosen:
        least = f"the smallest group has {min(sizes[node] for node in whole)}" if whole else "all share one with queries of other splits"
        raise Refused(
            f"held_out is {share}, {wanted} of {count} training queries, but {TOGETHER}, and {least}; raise held_out, or set it to 0"
        )
    return sorted(chosen)
