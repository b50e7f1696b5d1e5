"""What the queries of all ranks are scored against: the documents of all ranks, gathered.

Shapes: B pairs of this rank, P pairs of all ranks, M documents of this rank, N documents of all ranks, H hashes of a document.
"""

from dataclasses import dataclass

import torch

from mirepoix.models.losses.collectives import gather, gather_vectors, rank_and_world, sizes
from mirepoix.models.losses.labels import Labels
from mirepoix.models.vectors import Vectors


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch on each rank; a rank has at least one pair, and no two need have as many."""

    pairs: list[int]
    documents: list[int]
    query_rows: list[int]
    document_rows: list[int]

    @classmethod
    def of(cls, queries: Vectors, documents: Vectors, labels: Labels) -> "Sizes":
        lengths = len(labels.codes_M), len(labels.keys_MH), len(labels.scores_M), len(queries) + int(labels.counts_B.sum())
        assert {*lengths} == {len(documents)}, (lengths, len(documents))
        numbers = len(queries), len(documents), queries.rows_NTD.shape[1], documents.rows_NTD.shape[1]
        own = cls(*sizes(*numbers, device=documents.rows_NTD.device))
        assert min(own.pairs), f"the numbers of pairs of the ranks are {own.pairs}, and each needs at least one"
        return own

    @property
    def scores(self) -> int:
        """How many scores of query rows with document rows the whole batch has: the same on every rank, and for any number of ranks."""
        return sum(self.pairs) * max(self.query_rows) * sum(self.documents) * max(self.document_rows)


@dataclass(frozen=True)
class Pool:
    """The documents of all ranks in rank order, and where the positives, and those of this rank, are among them."""

    documents: Vectors
    keys_NH: torch.Tensor
    codes_N: torch.Tensor
    place_P: torch.Tensor  # of the positives of all pairs
    first: int  # of the pairs of all ranks the first of this rank
    sizes: Sizes

    @classmethod
    def gathered(cls, documents: Vectors, labels: Labels, sizes: Sizes) -> "Pool":
        rank, device = rank_and_world()[0], documents.rows_NTD.device
        starts = [sum(sizes.documents[:each]) for each in range(len(sizes.documents))]
        places = [torch.arange(start, start + pairs, device=device) for start, pairs in zip(starts, sizes.pairs, strict=True)]
        return cls(
            gather_vectors(documents, sizes.documents, max(sizes.document_rows)),
            gather(labels.keys_MH, sizes.documents),
            gather(labels.codes_M, sizes.documents),
            torch.cat(places),
            sum(sizes.pairs[:rank]),
            sizes,
        )

    @property
    def place_B(self) -> torch.Tensor:
        """Of the positives of this rank."""
        return self.place_P[self.first : self.first + self.sizes.pairs[rank_and_world()[0]]]
