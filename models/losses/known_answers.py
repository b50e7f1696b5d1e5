"""The documents that are known to answer each query, as a list of query and key: it is as long as the answers that there are.

Shapes: B queries of this rank, N documents of all ranks, H hashes of a document, R hashes of what is known to answer a query, U unique
hashes of the documents, A answers: a query and a hash each, E entries: a hash and a document each; a tile has I queries and J documents.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KnownAnswers:
    """Which keys answer a query, and which documents have each key, for queries and documents in an order in which tiles are ranges."""

    query_A: torch.Tensor  # sorted
    key_A: torch.Tensor
    document_E: torch.Tensor  # key x N + document, sorted, so that the documents of a key that are in a tile are a range
    documents: int

    @classmethod
    def of(cls, relevant_BR: torch.Tensor, keys_NH: torch.Tensor, positive_B: torch.Tensor) -> "KnownAnswers | None":
        """All but those of which the query's own positive is the only document; None without any."""
        documents, device = len(keys_NH), keys_NH.device
        keys_U, key_NH = keys_NH.unique(return_inverse=True)
        document_E = (key_NH * documents + torch.arange(documents, device=device)[:, None]).unique()
        nearest_BR = torch.searchsorted(keys_U, relevant_BR).clamp(max=len(keys_U) - 1)
        found_BR = keys_U[nearest_BR] == relevant_BR
        # A key of one document is looked for in that document alone; of another, that one is not.
        only_U = (document_E // documents).bincount(minlength=len(keys_U)) == 1
        first_U = torch.searchsorted(document_E, torch.arange(len(keys_U), device=device) * documents)
        sole_U = (document_E[first_U] % documents).where(only_U, -1)
        found_BR &= sole_U[nearest_BR] != positive_B[:, None]
        query_A, place_A = found_BR.nonzero(as_tuple=True)
        return cls(query_A, nearest_BR[query_A, place_A], document_E, documents) if len(query_A) else None

    def ranges(self, bounds: list[int]) -> list[int]:
        """Where the answers of the queries from each bound on begin."""
        where: list[int] = torch.searchsorted(self.query_A, torch.tensor(bounds, device=self.query_A.device)).tolist()
        return where

    def tile(self, answers: slice, queries: slice, documents: slice) -> torch.Tensor | None:
        """[I, J] True where a document of the tile is known to answer a query of it; None where there is none."""
        if answers.start == answers.stop:
            return None
        query_A, key_A = self.query_A[answers], self.key_A[answers] * self.documents
        first_A, last_A = (torch.searchsorted(self.document_E, key_A + bound) for bound in (documents.start, documents.stop))
        count_A = last_A - first_A
        row_A = (query_A - queries.start).repeat_interleave(count_A)
        if not len(row_A):
            return None
        within_A = torch.arange(len(row_A), device=row_A.device) - (count_A.cumsum(0) - count_A).repeat_interleave(count_A)
        column_A = self.document_E[first_A.repeat_interleave(count_A) + within_A] % self.documents - documents.start
        known_IJ = torch.zeros(queries.stop - queries.start, documents.stop - documents.start, dtype=torch.bool, device=row_A.device)
        known_IJ[row_A, column_A] = True
        return known_IJ
