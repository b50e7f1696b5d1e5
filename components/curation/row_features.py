"""The features of all rows that curation compares: hashes, sketches and signatures, as arrays on disk in the order of the rows."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.curation.signatures import PERMUTATIONS, PICTURE_SIGNATURE

ROW = np.dtype(
    [
        ("content", "V16"),  # hash of the bytes of text and pictures
        ("text", "u8"),  # hash of the tokens; 0: no text
        ("numbers", "u8"),  # hash of the tokens that have a digit
        ("pictures", "u8"),  # hash of the bytes of pictures and frames; 0: none
        ("tokens", "u4"),
        ("images", "u4"),
        ("frames", "u4"),
        ("sketch", "u2"),  # count of stored shingles
        ("signatures", "u1"),  # count of pictures with a signature
        ("minhash", "u1"),  # 1: text alone, which has a MinHash signature
    ]
)
KINDS = {"row": ROW, "sketch": np.dtype("u8"), "signatures": PICTURE_SIGNATURE, "minhash": np.dtype(("u4", (PERMUTATIONS,)))}
FEATURES_SCHEMA = pa.schema([pa.field(name, pa.binary(), nullable=False) for name in KINDS])

Array = npt.NDArray


class RowFeatures:
    """Files to which features are appended; after `finish`, arrays of what they contain."""

    def __init__(self, folder: Path):
        self._paths = {name: folder / f"{name}.bin" for name in KINDS}
        self._files = {name: path.open("wb") for name, path in self._paths.items()}

    def add(self, table: pa.Table) -> None:
        for name, file in self._files.items():
            for piece in table[name].to_pylist():
                file.write(piece)

    def finish(self) -> None:
        for file in self._files.values():
            file.close()
        self.rows: Array = np.fromfile(self._paths["row"], ROW)
        self._sketches, self._signatures, self._minhashes = (
            _mapped(self._paths[name], KINDS[name]) for name in ("sketch", "signatures", "minhash")
        )
        self._ends = {name: np.cumsum(self.rows[name], dtype=np.int64) for name in ("sketch", "signatures", "minhash")}

    def contents(self) -> Array:
        """A content id for each row: two rows have the same one if they are equal byte by byte."""
        return np.unique(self.rows["content"].view([("", "u8"), ("", "u8")]), return_inverse=True)[1]

    def signatures(self, rows: Array) -> tuple[Array, Array]:
        """The picture signatures of the given rows, concatenated, and the count of each row's."""
        return self._gathered(self._signatures, "signatures", rows)

    def first_signatures(self, name: str, rows: Array) -> Array:
        """A field of the first picture's signature, for rows that all have a picture."""
        return self._signatures[name][self._ends["signatures"][rows] - self.rows["signatures"][rows]]

    def sketches(self, rows: Array) -> tuple[Array, Array]:
        """The stored shingles of the given rows, concatenated, and the count of each row's."""
        return self._gathered(self._sketches, "sketch", rows)

    def _gathered(self, values: Array, name: str, rows: Array) -> tuple[Array, Array]:
        counts = self.rows[name][rows].astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return values[np.repeat(self._ends[name][rows] - counts, counts) + within], counts

    def minhashes(self, rows: Array, first: int, last: int) -> Array:
        """The permutations `first` to `last` of the MinHash signatures, for rows that are all text alone."""
        return self._minhashes[self._ends["minhash"][rows] - 1, first:last]


def _mapped(path: Path, kind: np.dtype) -> Array:
    """The file memory-mapped as an array; an empty file, which cannot be mapped, as an empty array."""
    base, shape = kind.subdtype or (kind, ())
    if not path.stat().st_size:
        return np.empty((0, *shape), base)
    return np.memmap(path, base, mode="r").reshape(-1, *shape)
