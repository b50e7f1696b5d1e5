"""Which items of a corpus have golden vectors."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from mirepoix.components.corpus.parts import modality_codes
from mirepoix.components.embedding.reuse import GoldenVectors
from mirepoix.models.item import encoded_hash, table_to_items
from mirepoix.serving.golden import Golden

GOLDEN_ITEMS = 4
"""Items of each modality with golden vectors, by which a release is verified where it is opened."""


class FirstItems:
    """The first items of each modality, so many of each."""

    def __init__(self, each: int, only: Collection[int] | None = None):
        self.each, self.only = each, only  # None: of every modality
        self.found: dict[int, int] = defaultdict(int)  # by modality
        self._chosen: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Takes what the next items of a corpus have of those that are wanted."""
        codes_N = modality_codes(table)
        rows: list[int] = []
        for code in np.unique(codes_N).tolist():
            if self.only is not None and code not in self.only:
                continue
            taken = np.flatnonzero(codes_N == code)[: self.each - self.found[code]]
            self.found[code] += len(taken)
            rows += taken.tolist()
        if rows:
            self._chosen.append(table.take(pa.array(sorted(rows), pa.int64())))

    def tables(self) -> list[pa.Table]:
        """The items in their order, as one table, or none if there are none."""
        return [pa.concat_tables(self._chosen).combine_chunks()] if self._chosen else []


class GoldenChoice:
    """The items with golden vectors: the first of each modality.

    Where no item has to be encoded, they are the first of those with golden vectors already, if every modality has one.
    """

    of_corpus = True  # a corpus without items has none

    def __init__(self) -> None:
        self.first, self._first_known = FirstItems(GOLDEN_ITEMS), FirstItems(GOLDEN_ITEMS)
        self._vectors: GoldenVectors = {}

    def add(self, table: pa.Table) -> None:
        """Takes the next items of the corpus, where none has golden vectors already."""
        self.first.add(table)

    def begin(self, vectors: GoldenVectors) -> None:
        """Takes golden vectors that are known; after it, the items of the corpus are shown by `see`."""
        self._vectors = vectors

    def see(self, table: pa.Table, hashes: pa.Array) -> None:
        """Takes the next items of the corpus, with their hashes."""
        self.add(table)
        known = np.array([each in self._vectors for each in hashes.to_pylist()], bool)
        if known.any():
            self._first_known.add(table.filter(pa.array(known)))

    def to_encode(self) -> list[pa.Table]:
        """The items that get golden vectors, if these are not known, as one table, or none."""
        return self.first.tables()

    def whole(self, encoded: Golden) -> Golden:
        """All golden vectors, with those of the items that were encoded."""
        return encoded

    def known(self, opens: bool) -> Golden | None:
        """The golden vectors as far as they are known; None if they have to be encoded. `opens`: an encoder is opened in any case."""
        for tables in [self.first.tables()] if opens else [self.first.tables(), self._first_known.tables()]:
            items = [item for table in tables for item in table_to_items(table)]
            vectors = [self._vectors.get(encoded_hash(item)) for item in items]
            found = [each for each in vectors if each is not None]
            codes = {code for table in tables for code in modality_codes(table).tolist()}
            if found and len(found) == len(items) and codes == {*self.first.found}:
                return Golden(items, [as_document for as_document, _ in found], [as_query for _, as_query in found])
        return None
