"""Signatures of texts and pictures: short arrays that are similar where the contents are.

Shapes: T texts, S shingles of a text, P permutations, N pictures, A cells along the longer side of a picture, B cells across it,
C colours, K keys.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

PERMUTATIONS = 128
SKETCH = 256
"""Most shingles that are stored of a text: those with the smallest hashes, which are a uniform sample of a long text."""
ALONG, ACROSS, STRIPS = 32, 8, 8
PICTURE_SIGNATURE = np.dtype([("hash", "u8"), ("ratio", "f4"), ("cells", "u1", (ALONG, ACROSS, 3))])
"""The signature of a picture: the signs of its low DCT frequencies, the ratio of width to height, colours of cells (long side first)."""
MAX_SIGNATURES = 8
"""Most pictures of an item that get a signature; of more, evenly spaced ones do."""
RATIO, SHIFT, CELL, MEAN = 0.06, 8.0, 10.5, 1.9
"""Largest differences of two near-equal pictures: of the logarithms of their ratios, of the mean of a colour, and beyond that mean shift of
one of 8 x 8 cells and of all cells on average.

A change of shade, size or encoder leaves less than 10 in a cell and 1.7 on average; two drawings of one entity of the generated world
exceed one of the two limits by a tenth or more.
"""
LONG, STRIP = 1.9, 4
"""Least ratio of the sides of a picture that is compared in strips, and the largest difference of a cell between two equal strips."""

Array = npt.NDArray
_GENERATOR = np.random.Generator(np.random.PCG64(20))
_FACTORS_P = _GENERATOR.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_TERMS_P = _GENERATOR.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)
_WEIGHTS = _GENERATOR.integers(0, 1 << 63, (ALONG // STRIPS, ACROSS, 3), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_WAVES = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)


# Texts


def shingles(tokens: Sequence[str]) -> Array:
    """Sorted hashes of all pairs of neighbouring tokens; of the token itself where there is only one."""
    encoded = [token.encode() for token in tokens]
    pairs = [one + b" " + other for one, other in pairwise(encoded)] or encoded
    return np.unique(np.fromiter(map(xxhash.xxh3_64_intdigest, pairs), np.uint64, len(pairs)))


def sketch(shingles_S: Array) -> Array:
    """The shingles of a text that are stored: the `SKETCH` smallest hashes."""
    return shingles_S[:SKETCH]


def minhashes(shingles_T: Sequence[Array]) -> Array:
    """The smallest shingle of each text under each permutation (TP); two texts agree in a share that estimates their Jaccard similarity."""
    hashes, starts = np.concatenate(shingles_T), np.cumsum([0, *map(len, shingles_T)][:-1])
    signature_TP = np.empty((len(shingles_T), PERMUTATIONS), np.uint32)
    for place, (factor, term) in enumerate(zip(_FACTORS_P, _TERMS_P, strict=True)):
        signature_TP[:, place] = np.minimum.reduceat((hashes * factor + term) >> np.uint64(32), starts)
    return signature_TP


def jaccard_similarity(one_S: Array, other_S: Array) -> float:
    """The Jaccard similarity of two texts' shingles, from their sketches: exact unless one of them was truncated."""
    common = np.intersect1d(one_S, other_S, assume_unique=True)
    if max(len(one_S), len(other_S)) < SKETCH:
        return len(common) / max(1, len(one_S) + len(other_S) - len(common))
    least = np.union1d(one_S, other_S)[:SKETCH]
    return len(np.intersect1d(common, least, assume_unique=True)) / len(least)


def banding(threshold: float) -> tuple[int, int]:
    """The count of bands and of rows in each: the most rows with which a pair at the threshold is missed less than once in a million."""
    fitting = [rows for rows in range(1, PERMUTATIONS + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) < 1e-6]
    rows = max(fitting, default=1)
    return PERMUTATIONS // rows, rows


# Pictures


def picture_signature(picture: Image.Image, extent: tuple[float, float] | None = None) -> Array:
    """The signature of an RGB picture; `extent` is its size in fractional pixels, where its last pixels are partly padding."""
    width, height = extent or picture.size
    finest = min(picture.size) // 64
    if finest > 1:
        picture, width, height = picture.reduce(finest), width / finest, height / finest
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS, box=(0, 0, width, height)), np.float64)
    low = (_WAVES @ grey @ _WAVES.T).ravel()
    middle = np.partition(low, (31, 32))[31:33].sum() / 2
    wide, high = (ALONG, ACROSS) if width >= height else (ACROSS, ALONG)
    # Colour by colour, in products of small matrices: for large ones some libraries start threads, which then wait for each other.
    cells = _areas(picture.height, height, high) @ np.asarray(picture, np.float32).transpose(2, 0, 1) @ _areas(picture.width, width, wide).T
    made = np.zeros((), PICTURE_SIGNATURE)
    made["hash"] = np.packbits(low > middle).view(">u8")[0]
    made["ratio"] = width / height
    made["cells"] = np.rint(cells.transpose(2, 1, 0) if width >= height else cells.transpose(1, 2, 0))
    return made


@lru_cache(maxsize=256)
def _areas(pixels: int, extent: float, cells: int) -> Array:
    """The weight of each pixel in each of `cells` equal parts of the extent."""
    edges = np.linspace(0, extent, cells + 1)
    starts = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], np.minimum(starts + 1, extent)) - np.maximum(edges[:-1, None], starts)
    return (overlap.clip(0) * (cells / extent)).astype(np.float32)


def sampled_pictures(pictures: int) -> list[int]:
    """The positions of the pictures of an item that get a signature."""
    return (
        list(range(pictures)) if pictures <= MAX_SIGNATURES else np.linspace(0, pictures - 1, MAX_SIGNATURES).round().astype(int).tolist()
    )


def hamming_distance(one_N: Array, other_N: Array) -> Array:
    """In how many of the 64 bits two hashes differ."""
    return np.bitwise_count(one_N ^ other_N)


def near_equal(one_N: Array, other_N: Array, bits: int) -> Array:
    """Which pairs of pictures are near-equal: in at least 64 - `bits` bits of the hash, and in their colours, cell by cell."""
    close = (hamming_distance(one_N["hash"], other_N["hash"]) <= bits) & _same_ratio(one_N, other_N)
    difference = _eighths(one_N[close]) - _eighths(other_N[close])
    shift = difference.mean((1, 2), keepdims=True)
    beyond = np.abs(difference - shift)
    close[close] = (np.abs(shift).max((1, 2, 3)) <= SHIFT) & (beyond.max((1, 2, 3)) <= CELL) & (beyond.mean((1, 2, 3)) <= MEAN)
    return close


def _eighths(looks_N: Array) -> Array:
    return looks_N["cells"].reshape(-1, 8, ALONG // 8, ACROSS, 3).mean(2)


def _same_ratio(one_N: Array, other_N: Array) -> Array:
    return np.abs(np.log(one_N["ratio"] / other_N["ratio"])) <= RATIO


def strip_keys(cells_NABC: Array) -> Array:
    """Keys (NK) of which two rearrangements of one picture share some: sums of the hashes of all strips but one, in two roundings."""
    strips = cells_NABC.reshape(-1, STRIPS, ALONG // STRIPS, ACROSS, 3).astype(np.uint16)
    keys = []
    for rounding in (0, 16):
        hashes = (((strips + rounding) // 32).astype(np.uint64) * _WEIGHTS).sum((2, 3, 4))
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _FACTORS_P[0]
        hashes ^= hashes >> np.uint64(29)
        keys.append(hashes.sum(1, keepdims=True) - hashes + np.uint64(rounding))
    return np.concatenate(keys, axis=1)


def is_long(ratios_N: Array) -> Array:
    """Which pictures are long enough, by the ratio of their sides, to be several pictures side by side."""
    return np.maximum(ratios_N, 1 / ratios_N) >= LONG


def rearranged(one_N: Array, other_N: Array) -> Array:
    """Which pairs of long pictures consist of equal eighths, in any order."""
    found = is_long(one_N["ratio"]) & is_long(other_N["ratio"]) & _same_ratio(one_N, other_N)
    for place in np.flatnonzero(found):
        one, other = (look["cells"].reshape(STRIPS, -1).astype(np.int16) for look in (one_N[place], other_N[place]))
        equal = np.abs(one[:, None] - other[None]).max(2) <= STRIP
        found[place] = equal.any(0).all() and equal.any(1).all() and _matched(equal)
    return found


def _matched(fits: Array) -> bool:
    """Whether a perfect matching of rows to columns exists (augmenting paths)."""
    taken: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in np.flatnonzero(fits[row]).tolist():
            if column not in tried:
                tried.add(column)
                if column not in taken or place(taken[column], tried):
                    taken[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))
