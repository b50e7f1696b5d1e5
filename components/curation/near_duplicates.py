"""Near-duplicate search over a whole corpus by locality-sensitive hashing, and the choice of the rows that are kept.

Two rows are near-equal if they have equally many pictures and frames, near-equal texts (or none), and pictures that are near-equal one by
one in order. The search has two steps. First rows are put into buckets, in several tables of keys that near-equal rows are likely to share;
two rows of one bucket are a candidate pair. Then each candidate pair is verified by the stored sketches and signatures. Both steps run as
Ray tasks if the corpus is large.

    text alone    bands of MinHash signatures; verified by the Jaccard similarity of pairs of tokens, and by equal numbers
    pictures      pairs of the eight bytes of a 64-bit perceptual hash: rows that differ in at most 6 bits share a pair, and are missed
                  only in a crowded bucket; verified by the hash and by the colours of cells. For long pictures whose parts are rearranged:
                  the sum of the hashes of all eighths but one

A row is merged into a near-equal row that is kept, never into one that was merged itself, so that chains do not grow.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, islice, starmap
from typing import Any

import numpy as np
import numpy.typing as npt

from mirepoix.components.curation.curate_config import NearRules
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.signatures import (
    SKETCH,
    banding,
    hamming_distance,
    is_long,
    jaccard_similarity,
    near_equal,
    rearranged,
    strip_keys,
)
from mirepoix.components.ray_tasks import is_small, worker_count

NEIGHBOURS = 64
"""A bucket is crowded if it is larger than this; beyond the budgets below, its rows are compared with this many neighbours each (in the
order of another key) and with the most preferred row.
"""
PAIRS_ACROSS_ROLES = 2_000_000
"""Budget of a table for comparing all pairs of rows of two roles, such as training and held out, in crowded buckets."""
PAIRS_WITHIN_ROLE = 500_000
"""Budget of a table for comparing all pairs of rows of one role in crowded buckets."""
PAIRS_AT_ONCE = 1_000_000
VERIFIED_AT_ONCE = 4096
KEYS_AT_ONCE = 500_000
MINHASH_ROWS = 65_536

Array = npt.NDArray
Mapper = Callable[[Callable[..., Any], Iterator[tuple[Any, ...]]], Iterator[Any]]
Ragged = tuple[Array, Array]  # values of several rows, and how many each has


def near_pairs(features: RowFeatures, rows: Array, roles: Array, compared: Array, rules: NearRules) -> tuple[Array, int, int]:
    """Pairs (P, 2) of positions in `rows`, the lower first, of near-equal rows whose roles are compared.

    Also two counts, each the largest of any table: rows in crowded buckets that were not compared with all rows of their own role, and with
    all of another role. `rows` are in order of preference; `compared[a, b]` is true if rows of role a are compared with later rows of b.
    """
    found: list[Array] = []
    crowded, unmet, roles, fields = 0, 0, roles.astype(np.uint8), features.rows[rows]
    mapper = starmap if is_small(len(features.rows)) else _in_tasks
    for pairs, many, unmet_here in mapper(
        _pairs_in_buckets, ((tables, roles, compared) for tables in _packed(_tables(features, rows, fields, rules)))
    ):
        found.append(pairs)
        crowded, unmet = max(crowded, many), max(unmet, unmet_here)
    candidates = _distinct(found)
    parts = np.split(candidates, range(PAIRS_AT_ONCE, len(candidates), PAIRS_AT_ONCE))
    return np.concatenate([part[_are_near_duplicates(features, rows, fields, part, rules, mapper)] for part in parts]), crowded, unmet


def _in_tasks(work: Callable[..., Any], calls: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
    """Runs each call as a Ray task and yields the results as they arrive; a single call runs in this process, without a task's start-up.

    At most as many tasks as there are workers run at a time, since their arguments are large.
    """
    first = list(islice(calls, 2))
    if len(first) < 2:
        yield from starmap(work, first)
        return
    import ray

    task, most, running = ray.remote(work), worker_count(None), []
    for call in chain(first, calls):
        running.append(task.remote(*call))
        if len(running) == most:
            (finished,), running = ray.wait(running)
            yield ray.get(finished)
    yield from ray.get(running)


def keepers(pairs: Array, count: int) -> Array:
    """For each of `count` positions the one that it is merged into: the first kept one that it is near-equal to, or itself."""
    keeper = np.arange(count)
    for one, other in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if keeper[one] == one and keeper[other] == other:
            keeper[other] = one
    return keeper


# Buckets

Table = tuple[
    Array, Array, Array, Array, int
]  # positions, their keys, other keys that order each bucket, perceptual hashes, most bits in which these differ


def _tables(features: RowFeatures, rows: Array, fields: Array, rules: NearRules) -> Iterator[Table]:
    """Each table of keys, mixed with what near-equal rows must have in common, so that rows that differ in it share no bucket."""
    common = _common(fields, rules)
    for places, keys, *rest in _keyed(features, rows, fields, rules):
        yield places, keys ^ common[places], *rest


def _common(fields: Array, rules: NearRules) -> Array:
    """A hash of what near-equal rows must have in common: counts of pictures and frames, whether there is a text, its numbers or words."""
    of = ("images", "frames", "numbers" if rules.texts is not None else "text")
    factors = np.random.default_rng(len(of)).integers(1, 1 << 63, len(of) + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashed = (fields["text"] != 0).astype(np.uint64) * factors[-1]
    for name, factor in zip(of, factors, strict=False):
        hashed += fields[name].astype(np.uint64) * factor
    return (hashed ^ (hashed >> np.uint64(32))) * factors[0]


def _keyed(features: RowFeatures, rows: Array, fields: Array, rules: NearRules) -> Iterator[Table]:
    """Each table of keys; where the limit of bits is 64, perceptual hashes are not compared."""
    none = np.empty(0, np.uint64)
    alone = np.flatnonzero((fields["signatures"] == 0) & (fields["text"] != 0))
    yield alone, fields["text"][alone], fields["text"][alone], none, 64
    if rules.texts is not None:
        alone = np.flatnonzero(fields["minhash"])
        bands, width = banding(rules.texts)
        factors = np.random.default_rng(width).integers(1, 1 << 63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

        def keys_of(band: int) -> Array:
            found = [np.empty(0, np.uint64)]
            for part in np.split(alone, range(MINHASH_ROWS, len(alone), MINHASH_ROWS)):
                found.append(features.minhashes(rows[part], band * width, (band + 1) * width).astype(np.uint64) @ factors)
            return np.concatenate(found)

        keys = first = keys_of(0)
        for band in range(1, bands + 1):
            following = keys_of(band) if band < bands else first
            yield alone, keys, following, none, 64
            keys = following
    pictured = np.flatnonzero(fields["signatures"])
    yield pictured, fields["pictures"][pictured], fields["text"][pictured], none, 64
    if rules.pictures is None or not len(pictured):
        return
    hashes = features.first_signatures("hash", rows[pictured])
    yield pictured, fields["text"][pictured] ^ hashes, hashes, none, 64
    octets = hashes[:, None].view(np.uint8).reshape(-1, 8)
    mixed = np.packbits(np.unpackbits(octets, axis=1).reshape(-1, 8, 8).swapaxes(1, 2).reshape(-1, 64), axis=1).astype(np.uint64)
    for one, other in combinations(range(8), 2):
        yield pictured, mixed[:, one] << np.uint64(8) | mixed[:, other], hashes, hashes, rules.pictures
    if rules.rearranged and len(long := pictured[is_long(features.first_signatures("ratio", rows[pictured]))]):
        parts = [long[start : start + VERIFIED_AT_ONCE] for start in range(0, len(long), VERIFIED_AT_ONCE)]
        for keys in np.concatenate([strip_keys(features.first_signatures("cells", rows[part])) for part in parts]).T:
            yield long, keys, keys, none, 64


def _packed(tables: Iterator[Table]) -> Iterator[list[Table]]:
    """The tables in groups that are large enough to be worth the start-up of a task."""
    pack: list[Table] = []
    for table in tables:
        pack.append(table)
        if sum(len(places) for places, *_ in pack) >= KEYS_AT_ONCE:
            yield pack
            pack = []
    if pack:
        yield pack


def _pairs_in_buckets(tables: list[Table], roles: Array, compared: Array) -> tuple[Array, int, int]:
    """The pairs of positions with equal keys in any of the tables, and the counts of rows in crowded buckets (see `near_pairs`)."""
    found = [_pairs_of_table(*table, roles[table[0]], compared) for table in tables if len(table[0])]
    crowded = max((crowded for _, crowded, _ in found), default=0)
    unmet = max((unmet for _, _, unmet in found), default=0)
    return _distinct([pairs for pairs, _, _ in found]), crowded, unmet


def _pairs_of_table(
    places: Array, keys: Array, whole: Array, hashes: Array, bits: int, roles: Array, compared: Array
) -> tuple[Array, int, int]:
    order = np.lexsort((np.arange(len(keys)), whole, keys))
    keys, whole = keys[order], whole[order]
    starts, sizes = _runs(keys)
    crowded = sizes > NEIGHBOURS
    everyone, kinds = range(len(compared)), (roles[order], starts[crowded], sizes[crowded])
    found, unmet = _pairs_of_roles(
        *kinds, [pair for pair in combinations(everyone, 2) if compared[pair] or compared[pair[::-1]]], PAIRS_ACROSS_ROLES
    )
    same_role, alone = _pairs_of_roles(*kinds, [(role, role) for role in everyone if compared[role, role]], PAIRS_WITHIN_ROLE)
    found += same_role
    neighbours = min(NEIGHBOURS, int(sizes.max(initial=1)) - 1)
    left = np.arange(len(keys))
    for step in range(1, neighbours + 1):
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
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & compared[roles[pairs[:, 0]], roles[pairs[:, 1]]]]
    if bits < 64:
        pairs = pairs[hamming_distance(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) <= bits]
    return places[_distinct([pairs])], alone, unmet


def _pairs_of_roles(roles: Array, starts: Array, sizes: Array, couples: list[tuple[int, int]], budget: int) -> tuple[list[Array], int]:
    """All pairs of rows of the given roles in the smallest buckets, within the budget; and the count of rows in the other buckets."""
    found, unmet = [], 0
    for bucket in np.argsort(sizes, kind="stable"):
        start, size = starts[bucket], sizes[bucket]
        of = {role: start + np.flatnonzero(roles[start : start + size] == role) for role in set(chain(*couples))}
        needed = sum(len(of[one]) * (len(of[one]) - 1) // 2 if one == other else len(of[one]) * len(of[other]) for one, other in couples)
        if needed > budget:
            unmet += int(size)
            continue
        budget -= needed
        found += [_all_pairs(of[one]) if one == other else _crossed(of[one], of[other]) for one, other in couples]
    return found, unmet


def _all_pairs(places: Array) -> Array:
    return np.stack([places[side] for side in np.triu_indices(len(places), 1)], 1)


def _crossed(ones: Array, others: Array) -> Array:
    return np.stack([np.repeat(ones, len(others)), np.tile(others, len(ones))], 1)


def _distinct(pairs: Sequence[Array]) -> Array:
    """All pairs, sorted, without repetition."""
    codes = np.unique(np.concatenate([np.empty(0, np.int64), *(found[:, 0] << 32 | found[:, 1] for found in pairs)]))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _runs(values: Array) -> tuple[Array, Array]:
    """The starts and lengths of runs of equal values."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.empty(0, np.int64)
    return starts, np.diff(np.append(starts, len(values)))


def _runs_of(keys: Array, whole: Array) -> tuple[Array, Array]:
    starts = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]) | (whole[1:] != whole[:-1])]))
    return starts, np.diff(np.append(starts, len(keys)))


def _firsts(order: Array, starts: Array, sizes: Array) -> Array:
    """The index of the most preferred position of each run."""
    least = np.minimum.reduceat(order, starts)
    return np.flatnonzero(order == np.repeat(least, sizes))


# Verification


def _are_near_duplicates(features: RowFeatures, rows: Array, fields: Array, pairs: Array, rules: NearRules, mapper: Mapper) -> Array:
    """Which of the candidate pairs are near-equal."""
    one, other = fields[pairs[:, 0]], fields[pairs[:, 1]]
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
        (true & ~same_text, rules.texts, features.sketches, _same_texts),
        (true & ~same_pictures, rules, features.signatures, _same_pictures),
    ):
        chosen = np.flatnonzero(fine & true)
        parts = [chosen[start : start + VERIFIED_AT_ONCE] for start in range(0, len(chosen), VERIFIED_AT_ONCE)]
        calls = ((part, gather(rows[pairs[part, 0]]), gather(rows[pairs[part, 1]]), same) for part in parts)
        for part, near in mapper(compare, calls):
            true[part] = near
    return true


def _same_texts(part: Array, one: Ragged, other: Ragged, threshold: float) -> tuple[Array, Array]:
    """Which pairs of texts have at least this Jaccard similarity of shingles."""
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
        near[place] = jaccard_similarity(*cut) >= threshold
    return part, near


def _same_pictures(part: Array, one: Ragged, other: Ragged, rules: NearRules) -> tuple[Array, Array]:
    """Which pairs of rows have near-equal pictures at every position; both rows have equally many."""
    (ones, counts), (others, _) = one, other
    assert rules.pictures is not None  # the caller asks whether pictures are compared
    equal = near_equal(ones, others, rules.pictures)
    if rules.rearranged:
        equal[~equal] = rearranged(ones[~equal], others[~equal])
    return part, np.logical_and.reduceat(equal, np.cumsum(counts) - counts)
