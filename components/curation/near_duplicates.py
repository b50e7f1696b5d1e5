"""Which rows of a whole corpus are near-equal, and which of them stand for the others.

Near-equal are two rows with as many pictures and frames each, near-equal texts (or none) and near-equal pictures, one by one in order. The
search is in two steps. Keys that near-equal rows are likely to share put them into buckets, table by table, and those in one bucket become
candidates; some tables at a time are a Ray task. Then every candidate is verified by what was kept of texts and pictures, in tasks as well.

    text alone    MinHash signatures in bands; verified by the Jaccard similarity of pairs of tokens, and by equal numbers
    pictures      each two of the eight bytes of a 64-bit perceptual hash: rows that differ in at most 6 signs share one, and
                  are missed only in a crowded bucket; verified by the hash and by colours in cells. Long pictures may also be rearranged:
                  the sum of the hashes of all eighths but one

A row that is near-equal to one that is kept is merged into it, and never into one that was merged itself: chains do not grow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice, starmap
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.signatures import SKETCH, alike, apart, banding, is_long, rearranged, similarity, strip_keys
from mirepoix.components.ray_tasks import worker_count
from mirepoix.models.errors import Refused
from mirepoix.models.options import option

REACH = 64
"""In a larger bucket, once there is no room, a row is compared with so many of its role next to it by another key, and with the first."""
ACROSS = 2_000_000
"""Pairs of rows of two roles, as of training and of what is held out, that the larger buckets of a table may have: all are compared."""
WITHIN = 500_000
"""The same for pairs of rows of one role."""
PAIRS_AT_ONCE = 1_000_000
VERIFIED_AT_ONCE = 4096
KEYS_AT_ONCE = 500_000
AT_ONCE = 65_536

Array = npt.NDArray
Ragged = tuple[Array, Array]  # values of several rows, and how many each has


@dataclass(frozen=True)
class NearRules:
    """When two rows are near-equal."""

    texts: float | None = option(0.9, "least share of pairs of neighbouring tokens that two texts have in common; null: only equal texts")
    pictures: int | None = option(
        8, "most of 64 signs of a perceptual hash in which two pictures differ (up to 6 are never missed); null: only equal pictures"
    )
    rearranged: bool = option(True, "long pictures with the same eighths in another order are near-equal too")

    def __post_init__(self) -> None:
        if self.texts is not None and not 0.5 <= self.texts <= 1:
            raise Refused(f"near.texts is {self.texts}; give a share from 0.5 to 1, or null")
        if self.pictures is not None and not 0 <= self.pictures <= 8:
            raise Refused(f"near.pictures is {self.pictures}; give 0 to 8 of 64 signs, or null")


def near_pairs(facts: RowFeatures, rows: Array, roles: Array, wanted: Array, rules: NearRules) -> tuple[Array, int, int]:
    """Pairs (P, 2) of places in `rows`, the lower first, of near-equal rows whose roles want each other.

    Also how many rows were in a crowded bucket, where they did not meet all of their own role, and of another role: the most of a table.
    `rows` are in the order in which they are preferred. `wanted[a, b]` says whether a row of role a and a later one of role b are compared.
    """
    found: list[Array] = []
    crowded, unmet, roles, known = 0, 0, roles.astype(np.uint8), facts.rows[rows]
    for pairs, many, strangers in _done(_bucketed, ((tables, roles, wanted) for tables in _packed(_tables(facts, rows, known, rules)))):
        found.append(pairs)
        crowded, unmet = max(crowded, many), max(unmet, strangers)
    candidates = _distinct(found)
    parts = np.split(candidates, range(PAIRS_AT_ONCE, len(candidates), PAIRS_AT_ONCE))
    return np.concatenate([part[_verified(facts, rows, known, part, rules)] for part in parts]), crowded, unmet


def _done(work: Callable[..., Any], calls: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
    """What each call returns, as they end, each a task; of a single one, which is worth no task's start, it is worked out here.

    Only as many are started at a time as there are workers: what they work on is large, and so are they.
    """
    first = list(islice(calls, 2))
    if len(first) < 2:
        yield from starmap(work, first)
        return
    task, most, running = ray.remote(work), worker_count(None), []
    for call in chain(first, calls):
        running.append(task.remote(*call))
        if len(running) == most:
            (done,), running = ray.wait(running)
            yield ray.get(done)
    yield from ray.get(running)


def keepers(pairs: Array, count: int) -> Array:
    """For each of `count` places the one that stands for it: the first that it is near-equal to of those that are kept, or itself."""
    keeper = np.arange(count)
    for one, other in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if keeper[one] == one and keeper[other] == other:
            keeper[other] = one
    return keeper


# Buckets

Table = tuple[
    Array, Array, Array, Array, int
]  # places, their keys, other keys for the order within one, perceptual hashes, most signs apart


def _tables(facts: RowFeatures, rows: Array, known: Array, rules: NearRules) -> Iterator[Table]:
    """Each table of keys, given what is known of the rows: those that differ in what near-equal ones have in common share none."""
    common = _common(known, rules)
    for places, keys, *rest in _keyed(facts, rows, known, rules):
        yield places, keys ^ common[places], *rest


def _common(known: Array, rules: NearRules) -> Array:
    """A hash of what near-equal rows have in common: how many pictures and frames, whether there is a text, and which numbers, or words."""
    of = ("images", "frames", "numbers" if rules.texts is not None else "text")
    factors = np.random.default_rng(len(of)).integers(1, 1 << 63, len(of) + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashed = (known["text"] != 0).astype(np.uint64) * factors[-1]
    for name, factor in zip(of, factors, strict=False):
        hashed += known[name].astype(np.uint64) * factor
    return (hashed ^ (hashed >> np.uint64(32))) * factors[0]


def _keyed(facts: RowFeatures, rows: Array, known: Array, rules: NearRules) -> Iterator[Table]:
    """Each table of keys; without a limit to the signs, 64, the hashes are not compared."""
    none = np.empty(0, np.uint64)
    alone = np.flatnonzero((known["looks"] == 0) & (known["text"] != 0))
    yield alone, known["text"][alone], known["text"][alone], none, 64
    if rules.texts is not None:
        alone = np.flatnonzero(known["minhash"])
        bands, width = banding(rules.texts)
        factors = np.random.default_rng(width).integers(1, 1 << 63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

        def keys_of(band: int) -> Array:
            found = [np.empty(0, np.uint64)]
            for part in np.split(alone, range(AT_ONCE, len(alone), AT_ONCE)):
                found.append(facts.minhashes(rows[part], band * width, (band + 1) * width).astype(np.uint64) @ factors)
            return np.concatenate(found)

        keys = first = keys_of(0)
        for band in range(1, bands + 1):
            following = keys_of(band) if band < bands else first
            yield alone, keys, following, none, 64
            keys = following
    shown = np.flatnonzero(known["looks"])
    yield shown, known["pictures"][shown], known["text"][shown], none, 64
    if rules.pictures is None or not len(shown):
        return
    hashes = facts.first_looks("hash", rows[shown])
    yield shown, known["text"][shown] ^ hashes, hashes, none, 64
    octets = hashes[:, None].view(np.uint8).reshape(-1, 8)
    mixed = np.packbits(np.unpackbits(octets, axis=1).reshape(-1, 8, 8).swapaxes(1, 2).reshape(-1, 64), axis=1).astype(np.uint64)
    for one, other in combinations(range(8), 2):
        yield shown, mixed[:, one] << np.uint64(8) | mixed[:, other], hashes, hashes, rules.pictures
    if rules.rearranged and len(long := shown[is_long(facts.first_looks("ratio", rows[shown]))]):
        parts = [long[start : start + VERIFIED_AT_ONCE] for start in range(0, len(long), VERIFIED_AT_ONCE)]
        for keys in np.concatenate([strip_keys(facts.first_looks("cells", rows[part])) for part in parts]).T:
            yield long, keys, keys, none, 64


def _packed(tables: Iterator[Table]) -> Iterator[list[Table]]:
    """As many tables at a time as make a task worth its start."""
    pack: list[Table] = []
    for table in tables:
        pack.append(table)
        if sum(len(places) for places, *_ in pack) >= KEYS_AT_ONCE:
            yield pack
            pack = []
    if pack:
        yield pack


def _bucketed(tables: list[Table], roles: Array, wanted: Array) -> tuple[Array, int, int]:
    """The pairs of places with equal keys in one of the tables, and how many places of one are in too large buckets."""
    found = [_paired(*table, roles[table[0]], wanted) for table in tables if len(table[0])]
    crowded, unmet = (max((told[number] for told in found), default=0) for number in (1, 2))
    return _distinct([pairs for pairs, _, _ in found]), crowded, unmet


def _paired(places: Array, keys: Array, whole: Array, hashes: Array, signs: int, roles: Array, wanted: Array) -> tuple[Array, int, int]:
    order = np.lexsort((np.arange(len(keys)), whole, keys))
    keys, whole = keys[order], whole[order]
    starts, sizes = _runs(keys)
    crowded = sizes > REACH
    everyone, kinds = range(len(wanted)), (roles[order], starts[crowded], sizes[crowded])
    found, unmet = _met(*kinds, [pair for pair in combinations(everyone, 2) if wanted[pair] or wanted[pair[::-1]]], ACROSS)
    alike, alone = _met(*kinds, [(role, role) for role in everyone if wanted[role, role]], WITHIN)
    found += alike
    reach = min(REACH, int(sizes.max(initial=1)) - 1)
    left = np.arange(len(keys))
    for step in range(1, reach + 1):
        left = left[left < len(keys) - step]
        left = left[keys[left] == keys[left + step]]
        found.append(np.stack([left, left + step], 1))
    if crowded.any():
        busy = np.repeat(crowded, sizes)
        first = np.repeat(_firsts(order, starts, sizes), sizes)
        within, lengths = _runs_of(keys, whole)
        equal = np.repeat(_firsts(order, within, lengths), lengths)
        found += [np.stack([head, np.arange(len(keys))], 1)[busy] for head in (first, equal)]
    pairs = np.sort(order[np.concatenate(found)], axis=1) if found else np.empty((0, 2), np.int64)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & wanted[roles[pairs[:, 0]], roles[pairs[:, 1]]]]
    if signs < 64:
        pairs = pairs[apart(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) <= signs]
    return places[_distinct([pairs])], alone, unmet


def _met(roles: Array, starts: Array, sizes: Array, couples: list[tuple[int, int]], room: int) -> tuple[list[Array], int]:
    """All pairs of rows of two given roles in buckets, the smaller ones first while there is room; and how many rows the others have."""
    found, unmet = [], 0
    for bucket in np.argsort(sizes, kind="stable"):
        start, size = starts[bucket], sizes[bucket]
        of = {role: start + np.flatnonzero(roles[start : start + size] == role) for role in set(chain(*couples))}
        needed = sum(len(of[one]) * (len(of[one]) - 1) // 2 if one == other else len(of[one]) * len(of[other]) for one, other in couples)
        if needed > room:
            unmet += int(size)
            continue
        room -= needed
        found += [_all_pairs(of[one]) if one == other else _crossed(of[one], of[other]) for one, other in couples]
    return found, unmet


def _all_pairs(places: Array) -> Array:
    return np.stack([places[side] for side in np.triu_indices(len(places), 1)], 1)


def _crossed(ones: Array, others: Array) -> Array:
    return np.stack([np.repeat(ones, len(others)), np.tile(others, len(ones))], 1)


def _distinct(pairs: Sequence[Array]) -> Array:
    """All pairs, each once, in order."""
    codes = np.unique(np.concatenate([np.empty(0, np.int64), *(found[:, 0] << 32 | found[:, 1] for found in pairs)]))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _runs(values: Array) -> tuple[Array, Array]:
    """Where runs of equal values start, and how long they are."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.empty(0, np.int64)
    return starts, np.diff(np.append(starts, len(values)))


def _runs_of(keys: Array, whole: Array) -> tuple[Array, Array]:
    starts = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]) | (whole[1:] != whole[:-1])]))
    return starts, np.diff(np.append(starts, len(keys)))


def _firsts(order: Array, starts: Array, sizes: Array) -> Array:
    """Where in each run the place stands that is preferred to all others of it."""
    least = np.minimum.reduceat(order, starts)
    return np.flatnonzero(order == np.repeat(least, sizes))


# Verification


def _verified(facts: RowFeatures, rows: Array, known: Array, pairs: Array, rules: NearRules) -> Array:
    """Which of the candidate pairs are near-equal."""
    one, other = known[pairs[:, 0]], known[pairs[:, 1]]
    true = (one["images"] == other["images"]) & (one["frames"] == other["frames"]) & ((one["text"] == 0) == (other["text"] == 0))
    same_text = one["text"] == other["text"]
    if rules.texts is None:
        true &= same_text
    else:
        fewer, more = np.minimum(one["tokens"], other["tokens"]), np.maximum(one["tokens"], other["tokens"])
        true &= same_text | ((one["numbers"] == other["numbers"]) & (fewer >= rules.texts * more) & (fewer > 0))
    same_pictures = one["pictures"] == other["pictures"]
    if rules.pictures is None:
        true &= same_pictures
    for fine, same, gather, compare in (
        (true & ~same_text, rules.texts, facts.sketches, _same_texts),
        (true & ~same_pictures, rules, facts.looks, _same_pictures),
    ):
        chosen = np.flatnonzero(fine & true)
        parts = [chosen[start : start + VERIFIED_AT_ONCE] for start in range(0, len(chosen), VERIFIED_AT_ONCE)]
        calls = ((part, gather(rows[pairs[part, 0]]), gather(rows[pairs[part, 1]]), same) for part in parts)
        for part, near in _done(compare, calls):
            true[part] = near
    return true


def _same_texts(part: Array, one: Ragged, other: Ragged, threshold: float) -> tuple[Array, Array]:
    """Which texts have so many shingles in common."""
    counts, others = one[1], other[1]
    pair = np.concatenate([np.repeat(np.arange(len(part)), counts), np.repeat(np.arange(len(part)), others)])
    values = np.concatenate([one[0], other[0]])
    order = np.lexsort((values, pair))
    pair, values = pair[order], values[order]
    both = (pair[1:] == pair[:-1]) & (values[1:] == values[:-1])
    common = np.bincount(pair[1:][both], minlength=len(part))
    near = common >= threshold * (counts + others - common)
    ends, other_ends = np.cumsum(counts), np.cumsum(others)
    for place in np.flatnonzero(np.maximum(counts, others) == SKETCH):
        cut = one[0][ends[place] - counts[place] : ends[place]], other[0][other_ends[place] - others[place] : other_ends[place]]
        near[place] = similarity(*cut) >= threshold
    return part, near


def _same_pictures(part: Array, one: Ragged, other: Ragged, rules: NearRules) -> tuple[Array, Array]:
    """Which rows, with as many pictures each, have near-equal pictures only."""
    (ones, counts), (others, _) = one, other
    equal = alike(ones, others, rules.pictures)
    if rules.rearranged:
        equal[~equal] = rearranged(ones[~equal], others[~equal])
    return part, np.logical_and.reduceat(equal, np.cumsum(counts) - counts)
