"""The order in which queries and documents are scored, and the tiles of scores that are computed: those in which there may be negatives.

Queries are sorted by the modality of their positive; documents are the positives sorted by modality, then the hard negatives sorted by
modality. So under the modality mask the scores to compute are blocks, one for each modality, whose edges are cut into even pieces. Sorting
is stable, so the positives of this rank's queries of one modality are one range of its documents, in the order of the queries: within a
tile they are on a diagonal.

Shapes: B pairs of this rank, P pairs of all ranks, N documents of all ranks, S rows of a query, T rows of a document; a tile has I queries
and J documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from mirepoix.models.losses.figures import CODES
from mirepoix.models.losses.known_answers import KnownAnswers
from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.pool import Pool
from mirepoix.models.vectors import Vectors

Q = TypeVar("Q", Vectors, torch.Tensor)

SIZES = {"cpu": (512, 1024)}
"""Query rows and document rows of a tile, by the kind of device.

Measured at widths 256 and 1024: from 256 x 256 to 2048 x 2048 the CPU seconds of the loss are the same within what repetitions differ by.
"""

LARGE = 2048, 4096
"""Those of any other kind of device; chosen here: 32 MiB of float32, with some 17 billion operations at width 1024."""


@dataclass(frozen=True)
class Tile:
    """The scores of a range of the sorted queries with a range of the sorted documents."""

    queries: slice
    documents: slice
    answers: slice  # of the known answers, those of these queries
    shift: int  # what a query's place and that of its positive differ by

    def diagonal(self, scores_IJ: torch.Tensor) -> tuple[slice, torch.Tensor]:
        """The queries whose positives are in the tile, and a view of the scores of these positives."""
        first = max(self.queries.start, self.documents.start - self.shift)
        last = max(first, min(self.queries.stop, self.documents.stop - self.shift))
        column = max(first + self.shift - self.documents.start, 0)
        of_these = scores_IJ[first - self.queries.start : last - self.queries.start, column : column + last - first]
        return slice(first, last), of_these.diagonal()


@dataclass(frozen=True)
class Strip:
    """The tiles of one range of documents, one above the other."""

    documents: slice
    positives: bool  # of positives; else of hard negatives
    tiles: list[Tile]


@dataclass(frozen=True)
class Tiles:
    """The tiles of a batch; queries and documents in them are in sorted order."""

    order_B: torch.Tensor
    order_N: torch.Tensor
    pair_P: torch.Tensor  # the pairs of the first P of the sorted documents
    strips: list[Strip]
    known: KnownAnswers | None
    sorted: bool  # the queries are in this order already

    @classmethod
    def of(cls, queries: Vectors, pool: Pool, labels: Labels, modality_mask: bool, size: tuple[int, int] | None = None) -> "Tiles":
        """Cut to about `size` query rows and document rows; by default to what suits the device."""
        device, pairs = pool.codes_N.device, len(queries)
        code_N = pool.codes_N if modality_mask else torch.zeros_like(pool.codes_N)
        code_P, code_B = code_N[pool.place_P], code_N[pool.place_B]
        hard_N = torch.ones_like(code_N, dtype=torch.bool)
        hard_N[pool.place_P] = False
        hard = hard_N.nonzero()[:, 0]
        order_B, pair_P = code_B.argsort(stable=True), code_P.argsort(stable=True)
        order_N = torch.cat([pool.place_P[pair_P], hard[code_N[hard].argsort(stable=True)]])
        counted = (code_B, code_P[: pool.first], code_P, code_N[hard])
        counts = torch.stack([torch.bincount(codes, minlength=CODES) for codes in counted], 1).tolist()

        rows, columns = size or SIZES.get(device.type, LARGE)
        most = max(1, rows // queries.rows_NTD.shape[1]), max(1, columns // pool.documents.rows_NTD.shape[1])
        blocks, query, positive, negative = [], 0, 0, len(pair_P)
        for own, before, positives, negatives in counts:
            asked, shift = slice(query, query + own), positive + before - query
            blocks += [(asked, shift, slice(positive, positive + positives), True)]
            blocks += [(asked, len(order_N), slice(negative, negative + negatives), False)]
            query, positive, negative = query + own, positive + positives, negative + negatives

        known = None
        if labels.relevant_BR is not None:
            place_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=device))
            known = KnownAnswers.of(labels.relevant_BR[order_B], pool.keys_NH[order_N], place_N[pool.place_B[order_B]])
        strips = []
        for asked, shift, documents, are_positives in blocks:
            pieces = list(_pieces(asked, most[0]))
            bounds = known.ranges([asked.start, *(piece.stop for piece in pieces)]) if known else [0] * (len(pieces) + 1)
            answers = [slice(*ends) for ends in pairwise(bounds)]
            for strip in _pieces(documents, most[1]) if pieces else ():
                tiles = [Tile(piece, strip, each, shift) for piece, each in zip(pieces, answers, strict=True)]
                strips.append(Strip(strip, are_positives, tiles))
        return cls(order_B, order_N, pair_P, strips, known, sum(own == pairs for own, *_ in counts) == 1)

    def sort(self, queries: Q) -> Q:
        """Brings queries into the order of the tiles."""
        sorted_queries: Q = queries if self.sorted else queries[self.order_B]
        return sorted_queries

    def unsort(self, of_queries: torch.Tensor, dim: int) -> torch.Tensor:
        """Brings what has the sorted queries along a dimension into the order of the batch."""
        return of_queries if self.sorted else torch.empty_like(of_queries).index_copy_(dim, self.order_B, of_queries)

    def known_in(self, tile: Tile) -> torch.Tensor | None:
        """[I, J] True where a document is known to answer a query; None where there is none."""
        return self.known.tile(tile.answers, tile.queries, tile.documents) if self.known else None


def _pieces(whole: slice, most: int) -> Iterator[slice]:
    """As few pieces as there may be of at most so many, all of about the same size."""
    length = whole.stop - whole.start
    number = -(-length // most)
    for piece in range(number):
        yield slice(whole.start + length * piece // number, whole.start + length * (piece + 1) // number)
