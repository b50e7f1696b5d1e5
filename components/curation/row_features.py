"""What is known of each row of a corpus without its pictures: arrays on disk, filled in the order of the rows."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.curation.signatures import LOOK, PERMUTATIONS

ROW = np.dtype(
    [
        ("content", "V16"),  # hash of text and pictures, byte by byte
        ("text", "u8"),  # hash of the tokens; 0: no text
        ("numbers", "u8"),  # hash of the tokens that hold a digit
        ("pictures", "u8"),  # hash of pictures and frames, byte by byte; 0: none
        ("tokens", "u4"),
        ("images", "u4"),
        ("frames", "u4"),
        ("sketch", "u2"),  # shingles that are kept
        ("looks", "u1"),  # pictures that are looked at
        ("minhash", "u1"),  # 1: text alone, so it has a MinHash signature
    ]
)
KINDS = {"row": ROW, "sketch": np.dtype("u8"), "looks": LOOK, "minhash": np.dtype(("u4", (PERMUTATIONS,)))}
FACTS_SCHEMA = pa.schema([pa.field(name, pa.binary(), nullable=False) for name in KINDS])

Array = npt.NDArray


class RowFeatures:
    """Files that facts are added to, and once they are sealed the arrays that they hold."""

    def __init__(self, folder: Path):
        self._paths = {name: folder / f"{name}.facts" for name in KINDS}
        self._files = {name: path.open("wb") for name, path in self._paths.items()}

    def add(self, table: pa.Table) -> None:
        for name, file in self._files.items():
            for piece in table[name].to_pylist():
                file.write(piece)

    def seal(self) -> None:
        for file in self._files.values():
            file.close()
        self.rows: Array = np.fromfile(self._paths["row"], ROW)
        self._sketches, self._looks, self._minhashes = (_mapped(self._paths[name], KINDS[name]) for name in ("sketch", "looks", "minhash"))
        self._ends = {name: np.cumsum(self.rows[name], dtype=np.int64) for name in ("sketch", "looks", "minhash")}

    def looks(self, rows: Array) -> tuple[Array, Array]:
        """The pictures of the given rows that are looked at, one row's after the other's, and how many each has."""
        return self._gathered(self._looks, "looks", rows)

    def first_looks(self, name: str, rows: Array) -> Array:
        """One field of the look at the first picture of each of the given rows, which all have one."""
        return self._looks[name][self._ends["looks"][rows] - self.rows["looks"][rows]]

    def sketches(self, rows: Array) -> tuple[Array, Array]:
        """The shingles of the given rows that are kept, one row's after the other's, and how many each has."""
        return self._gathered(self._sketches, "sketch", rows)

    def _gathered(self, values: Array, name: str, rows: Array) -> tuple[Array, Array]:
        counts = self.rows[name][rows].astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return values[np.repeat(self._ends[name][rows] - counts, counts) + within], counts

    def minhashes(self, rows: Array, first: int, last: int) -> Array:
        """Some permutations of the signatures of the given rows, which all are of text alone."""
        return self._minhashes[self._ends["minhash"][rows] - 1, first:last]


def _mapped(path: Path, kind: np.dtype) -> Array:
    """The file's array without reading it; an empty file cannot be mapped."""
    base, shape = kind.subdtype or (kind, ())
    if not path.stat().st_size:
        return np.empty((0, *shape), base)
    return np.memmap(path, base, mode="r").reshape(-1, *shape)
