"""What a text and a picture are known again by: short arrays that are alike where the things are.

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
"""Shingles of a text that are kept: all of them, or those with the smallest hashes, which are a fair sample of a long text."""
ALONG, ACROSS, STRIPS = 32, 8, 8
LOOK = np.dtype([("hash", "u8"), ("ratio", "f4"), ("cells", "u1", (ALONG, ACROSS, 3))])
"""A picture: the signs of its low frequencies, width by height, and its colours in cells, the longer side first."""
LOOKS = 8
"""Pictures of an item that are looked at: all of them, or so many evenly spaced frames."""
RATIO, SHIFT, CELL, MEAN = 0.06, 8.0, 10.5, 1.9
"""How far two near-equal pictures may be apart: in the logarithm of their ratio, as a whole in a colour, and beyond that in one of 8 x 8
cells and in all of them on the average.

Another shade, size or encoder leaves less than 10 in a cell and 1.7 on the average; two drawings of one thing by the generated world are
beyond one of the two by a tenth or more.
"""
LONG, STRIP = 1.9, 4
"""Least ratio of a picture that is looked at in strips, and the largest difference between a cell of two equal strips."""

Array = npt.NDArray
_GENERATOR = np.random.Generator(np.random.PCG64(20))
_FACTORS_P = _GENERATOR.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_TERMS_P = _GENERATOR.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)
_WEIGHTS = _GENERATOR.integers(0, 1 << 63, (ALONG // STRIPS, ACROSS, 3), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_WAVES = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)


# Texts


def shingles(tokens: Sequence[str]) -> Array:
    """Sorted hashes of the pairs of neighbouring tokens, or of the only token."""
    encoded = [token.encode() for token in tokens]
    pairs = [one + b" " + other for one, other in pairwise(encoded)] or encoded
    return np.unique(np.fromiter(map(xxhash.xxh3_64_intdigest, pairs), np.uint64, len(pairs)))


def sketch(shingles_S: Array) -> Array:
    """What of a text's shingles is kept to compare them."""
    return shingles_S[:SKETCH]


def minhashes(shingles_T: Sequence[Array]) -> Array:
    """For each text the least of its shingles in each of many random orders (TP); two texts agree in as many as they share shingles."""
    hashes, starts = np.concatenate(shingles_T), np.cumsum([0, *map(len, shingles_T)][:-1])
    signature_TP = np.empty((len(shingles_T), PERMUTATIONS), np.uint32)
    for place, (factor, term) in enumerate(zip(_FACTORS_P, _TERMS_P, strict=True)):
        signature_TP[:, place] = np.minimum.reduceat((hashes * factor + term) >> np.uint64(32), starts)
    return signature_TP


def similarity(one_S: Array, other_S: Array) -> float:
    """The share of shingles that two texts have in common, from their sketches: exact unless one of them was cut."""
    common = np.intersect1d(one_S, other_S, assume_unique=True)
    if max(len(one_S), len(other_S)) < SKETCH:
        return len(common) / max(1, len(one_S) + len(other_S) - len(common))
    least = np.union1d(one_S, other_S)[:SKETCH]
    return len(np.intersect1d(common, least, assume_unique=True)) / len(least)


def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows of each: as many rows as leave a pair at the threshold with less than one chance in a million to be missed."""
    fitting = [rows for rows in range(1, PERMUTATIONS + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) < 1e-6]
    rows = max(fitting, default=1)
    return PERMUTATIONS // rows, rows


# Pictures


def picture_signature(picture: Image.Image, extent: tuple[float, float] | None = None) -> Array:
    """What a picture in RGB is known again by, as a record of `LOOK`; its last pixels may be in part beyond what it shows."""
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
    made = np.zeros((), LOOK)
    made["hash"] = np.packbits(low > middle).view(">u8")[0]
    made["ratio"] = width / height
    made["cells"] = np.rint(cells.transpose(2, 1, 0) if width >= height else cells.transpose(1, 2, 0))
    return made


@lru_cache(maxsize=256)
def _areas(pixels: int, extent: float, cells: int) -> Array:
    """The share that each pixel has in each cell, of `cells` that divide what the pixels show evenly."""
    edges = np.linspace(0, extent, cells + 1)
    starts = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], np.minimum(starts + 1, extent)) - np.maximum(edges[:-1, None], starts)
    return (overlap.clip(0) * (cells / extent)).astype(np.float32)


def looked_at(pictures: int) -> list[int]:
    """The places of the pictures of an item that are looked at."""
    return list(range(pictures)) if pictures <= LOOKS else np.linspace(0, pictures - 1, LOOKS).round().astype(int).tolist()


def apart(one_N: Array, other_N: Array) -> Array:
    """In how many of the 64 signs two hashes differ."""
    return np.bitwise_count(one_N ^ other_N)


def alike(one_N: Array, other_N: Array, signs: int) -> Array:
    """Which pictures are near-equal: in the signs of their low frequencies, and then in their colours, cell by cell."""
    close = (apart(one_N["hash"], other_N["hash"]) <= signs) & _same_ratio(one_N, other_N)
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
    """Keys of which two rearrangements of one picture share some: the sum of the hashes of all strips but one, in two roundings (NK)."""
    strips = cells_NABC.reshape(-1, STRIPS, ALONG // STRIPS, ACROSS, 3).astype(np.uint16)
    keys = []
    for rounding in (0, 16):
        hashes = (((strips + rounding) // 32).astype(np.uint64) * _WEIGHTS).sum((2, 3, 4))
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _FACTORS_P[0]
        hashes ^= hashes >> np.uint64(29)
        keys.append(hashes.sum(1, keepdims=True) - hashes + np.uint64(rounding))
    return np.concatenate(keys, axis=1)


def is_long(ratios_N: Array) -> Array:
    """Which pictures, by their ratios, are long enough to be made of parts side by side."""
    return np.maximum(ratios_N, 1 / ratios_N) >= LONG


def rearranged(one_N: Array, other_N: Array) -> Array:
    """Which long pictures have equal eighths in any order."""
    found = is_long(one_N["ratio"]) & is_long(other_N["ratio"]) & _same_ratio(one_N, other_N)
    for place in np.flatnonzero(found):
        one, other = (look["cells"].reshape(STRIPS, -1).astype(np.int16) for look in (one_N[place], other_N[place]))
        equal = np.abs(one[:, None] - other[None]).max(2) <= STRIP
        found[place] = equal.any(0).all() and equal.any(1).all() and _matched(equal)
    return found


def _matched(fits: Array) -> bool:
    """Whether each row can be given a column of its own that it fits."""
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
