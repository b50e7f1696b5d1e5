"""The index of a release with the documents that its results show: what the endpoint answers from, and a search in this process.

Shapes: T rows of an item, D width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.release import Release


class SearchResult(NamedTuple):
    """A document and its score."""

    id: str
    score: float
    modality: str
    text: str
    pictured: bool
    source: str | None = None  # where it was read from, as `documents.shown_source` has it


class Searcher:
    """Searches the index of a release, and reads the documents of the hits."""

    def __init__(self, release: Release):
        self.index, self.documents = release.open_index(), release.open_documents()

    def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        """The k best documents for a query, of all modalities or of exactly one."""
        query = RaggedRows(rows_TD, np.array([0, len(rows_TD)]))
        (hits,) = self.index.search(query, k, None if target is None else {target})
        positions = [self.index.position(hit.id) for hit in hits]
        shown = [self.documents[position] for position in positions if position is not None]
        return [
            SearchResult(hit.id, hit.score, document.modality.letters, document.text, document.pictured, document.source)
            for hit, document in zip(hits, shown, strict=True)
        ]

    def thumbnail(self, id: str) -> bytes | None:
        """The small picture of a document; None where it has none, or where there is no such document."""
        position = self.index.position(id)
        return None if position is None else self.documents.thumbnail(position)


def instruction_for(instructions: Mapping[str, str], query: Modality, target: Modality | None) -> str:
    """The instruction that an encoder was trained with for a query of this modality and this target, or the general one.

    `instructions` is by task ("t->i"), with the general one under "", as a release has them.
    """
    task = f"{query.letters}->{target.letters}" if target is not None else ""
    return instructions.get(task, instructions.get("", ""))
