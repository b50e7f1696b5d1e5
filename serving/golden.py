"""Golden vectors: a few items of a corpus with their vectors, by which whoever opens the encoder verifies that it still encodes the same.

golden.json    items, their vectors as documents, and their vectors as queries
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row, row_to_item

# torch and the encoders are imported where an encoder encodes, so that reading a file of golden vectors loads neither.
if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder

GOLDEN = "golden.json"
COSINE = 0.999  # least cosine between a golden vector and the one that is computed on opening
_PICTURES = ("images", "video")


@dataclass(frozen=True)
class Golden:
    """Items with the rows_TD that the encoder gave each, as a document and as a query."""

    items: Sequence[Item]
    vectors: Sequence[np.ndarray]
    queries: Sequence[np.ndarray]

    @classmethod
    def encode(cls, encoder: "Encoder", items: Sequence[Item], batch_size: int = 32) -> "Golden":
        """The golden vectors of these items."""
        vectors, queries = (encoder.encode(items, batch_size, role=role).ragged() for role in ("document", "query"))
        return cls(items, [*vectors], [*queries])

    @property
    def width(self) -> int:
        return int(self.vectors[0].shape[1])

    def write(self, path: Path) -> None:
        """Writes the file; equal vectors give equal bytes."""
        plain = {
            "items": [_to_json(item) for item in self.items],
            "vectors": [rows_TD.tolist() for rows_TD in self.vectors],
            "queries": [rows_TD.tolist() for rows_TD in self.queries],
        }
        path.write_text(json.dumps(plain) + "\n")

    def verify(self, encoder: "Encoder", owner: str) -> float:
        """The least cosine between a golden row and the row that the encoder computes now; refused below `COSINE`.

        `owner` names in the refusal what the vectors belong to.
        """
        now = Golden.encode(encoder, self.items)
        least = 1.0
        for item, expected_TD, found_TD in zip(
            [*self.items] * 2, [*self.vectors, *self.queries], [*now.vectors, *now.queries], strict=True
        ):
            cosine = _least_cosine(expected_TD, found_TD)
            if not cosine >= COSINE:
                raise Refused(
                    f"{owner}: golden item {item.id!r} comes out at cosine {cosine:.4f} to its released "
                    f"vector, and {COSINE} is needed; use the library versions that it was made with, or embed and index again"
                )
            least = min(least, cosine)
        return least


def read_golden(path: Path) -> Golden:
    """The golden vectors that `Golden.write` wrote."""
    return parse_golden(path.read_bytes())


def parse_golden(text: bytes) -> Golden:
    """The golden vectors in the content of a file that `Golden.write` wrote."""
    plain = json.loads(text)
    items = [_from_json(row) for row in plain["items"]]
    vectors, queries = ([np.asarray(rows, np.float32) for rows in plain[name]] for name in ("vectors", "queries"))
    return Golden(items, vectors, queries)


def _least_cosine(expected_TD: np.ndarray, found_TD: np.ndarray) -> float:
    """Over the rows; nan if the shapes differ."""
    if expected_TD.shape != found_TD.shape:
        return float("nan")
    norms_T = np.linalg.norm(expected_TD, axis=1) * np.linalg.norm(found_TD, axis=1)
    return float(((expected_TD * found_TD).sum(1) / np.maximum(norms_T, 1e-8)).min())


def _to_json(item: Item) -> dict[str, Any]:
    """The item without its source, on which no vector depends and which may be a path of the machine."""
    row = item_to_row(item) | {"source": "", "line": 0}
    return {**row, **{name: [base64.b64encode(data).decode() for data in row[name]] for name in _PICTURES}}


def _from_json(row: Mapping[str, Any]) -> Item:
    return row_to_item({**row, **{name: [base64.b64decode(data) for data in row[name]] for name in _PICTURES}})
