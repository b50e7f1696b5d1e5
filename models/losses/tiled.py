"""The contrast with the documents of all ranks, by tiles of scores: its memory grows with the batch, its gradients are exact.

For a query with the score p of its positive, and scores s_j of its negatives, with `scale` a and `hardness` h, the loss is

    log(1 + exp(z)),   z = log sum_j exp((a + h) s_j) - log mean_j exp(h s_j) - a p

so the scores of a query are needed for two sums of exponentials alone, which are added up tile by tile as their logarithms. The weights of
hardness carry no gradient, so with c_j = exp((a + h) s_j - log mean - a p - loss), the probability of negative j, the gradient for s_j is
a c_j, and for p it is -a (1 - 1 / (1 + exp(z))). Backward, each tile is scored again: what is kept are a few numbers for each query.

From document to query, the same scores are summed over the queries instead. Each rank has the scores of its own queries with all positives,
so it sums over these, and the sums are added over the ranks: neither queries nor scores are exchanged.

Scores are linear in the query's vectors, MaxSim too where no best row changes: so the gradient for the scale, the sum over all scores of
score times gradient over scale, is the product of queries and their gradients.

Shapes: B pairs of this rank, P pairs of all ranks, N documents of all ranks, W widths, the whole first; T rows an item, D width; a tile has
I queries and J documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from mirepoix.models.losses.collectives import gather, rank_and_world, total, total_logsumexp
from mirepoix.models.losses.cross_entropy import margin_limit
from mirepoix.models.losses.figures import RowStatistics
from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.own_documents import paired_scores
from mirepoix.models.losses.pool import Pool
from mirepoix.models.losses.tile_scores import Scores, add_gradients, tile_scores
from mirepoix.models.losses.tiles import Strip, Tile, Tiles
from mirepoix.models.vectors import Vectors

EMPTY = float("-inf")  # the logarithm of a sum of nothing


def tiled_contrast(
    queries: Vectors,
    documents: Vectors,
    pool: Pool,
    labels: Labels,
    objective: Objective,
    scale: torch.Tensor | float,
    size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, RowStatistics]:
    """The loss of this rank's queries with all documents and, if symmetric, of this rank's positives with all queries."""
    tiles = Tiles.of(queries, pool, labels, objective.modality_mask, size)
    limit_B = None
    if objective.margin is not None:
        positives = documents[: len(queries)]
        with torch.no_grad():
            limit_B = margin_limit(paired_scores(tiles.sort(queries), tiles.sort(positives)), objective.margin)
    asked_W, found_W = ([vectors, *map(vectors.truncated, objective.widths)] for vectors in (queries, pool.documents))
    walk = _Walk(tiles, pool, objective, limit_B, tiles.sort(queries.mask_NT), pool.documents.mask_NT)
    scale = torch.as_tensor(scale, device=queries.rows_NTD.device, dtype=queries.rows_NTD.dtype)
    apply: Any = _Contrast.apply  # torch gives it no types
    rows = [vectors.rows_NTD for pair in zip(asked_W, found_W, strict=True) for vectors in pair]
    query_WB, document_WB, positive_B, hardest_B, similarity_B, count_B, likely_B = apply(walk, scale, *rows)
    directions = [query_WB, document_WB] if objective.symmetric else [query_WB]
    loss = torch.stack(directions).mean((0, 1)).sum() * rank_and_world()[1] / sum(pool.sizes.pairs)
    candidates_B = torch.full_like(pool.place_B, len(pool.documents) - 1)
    return loss, RowStatistics(positive_B, hardest_B, similarity_B, count_B, likely_B, candidates_B)


class _Masked(NamedTuple):
    """The scores of a tile at one width; what is no negative has -inf."""

    asked: Vectors
    found: Vectors
    scores: Scores
    own: slice  # the queries whose positives are in the tile
    positive: torch.Tensor  # the scores of these
    excluded_IJ: torch.Tensor  # what is no negative
    likely_IJ: torch.Tensor | None  # what of it the margin leaves out


@dataclass(frozen=True)
class _Walk:
    """How the scores of a batch are computed and masked, tile by tile; queries are sorted."""

    tiles: Tiles
    pool: Pool
    objective: Objective
    limit_B: torch.Tensor | None  # the score above which the margin takes a document for an answer
    query_mask_BT: torch.Tensor
    document_mask_NT: torch.Tensor

    def own(self, sorted_WP: torch.Tensor) -> torch.Tensor:
        """[W, B] of what all positives have, in their sorted order, what those of this rank have, in the order of the batch."""
        first, pairs = self.pool.first, len(self.tiles.order_B)
        return torch.empty_like(sorted_WP).index_copy_(1, self.tiles.pair_P, sorted_WP)[:, first : first + pairs]

    def of_all_ranks(self, own_WB: torch.Tensor) -> torch.Tensor:
        """[W, P] the inverse: what the positives of all ranks have, in their sorted order."""
        return gather(own_WB.T.contiguous(), self.pool.sizes.pairs).T[:, self.tiles.pair_P]

    def found(self, documents_W: Sequence[torch.Tensor], strip: Strip) -> list[Vectors]:
        """The documents of a strip at each width."""
        place_J = self.tiles.order_N[strip.documents]
        return [Vectors(documents[place_J], self.document_mask_NT[place_J]) for documents in documents_W]

    def masked(self, tile: Tile, queries_W: Sequence[torch.Tensor], found_W: Sequence[Vectors]) -> Iterator[_Masked]:
        """The tile at each width; the whole vectors, which are first, decide what is no negative."""
        known_IJ, excluded_IJ, likely_IJ = self.tiles.known_in(tile), None, None
        for queries, found in zip(queries_W, found_W, strict=True):
            asked = Vectors(queries[tile.queries], self.query_mask_BT[tile.queries])
            scores = tile_scores(asked, found)
            own, diagonal = tile.diagonal(scores.scores_IJ)
            positive = diagonal.clone()
            if excluded_IJ is None:
                diagonal.fill_(EMPTY)
                if known_IJ is not None:
                    scores.scores_IJ.masked_fill_(known_IJ, EMPTY)
                if self.limit_B is not None:
                    likely_IJ = scores.scores_IJ > self.limit_B[tile.queries, None]
                    scores.scores_IJ.masked_fill_(likely_IJ, EMPTY)
                excluded_IJ = scores.scores_IJ == EMPTY
            else:
                scores.scores_IJ.masked_fill_(excluded_IJ, EMPTY)
            yield _Masked(asked, found, scores, own, positive, excluded_IJ, likely_IJ)


class _Sums:
    """For X queries or positives at W widths, sums over their negatives: of exponentials, as logarithms, and their count."""

    def __init__(self, like: torch.Tensor, widths: int, length: int, scale: torch.Tensor, hardness: float):
        self.scale, self.hardness = scale, hardness
        self.negative_WX = like.new_full((widths, length), EMPTY)
        self.weight_WX = like.new_full((widths, length) if hardness else (0, 0), EMPTY)
        self.count_X = torch.zeros(length, dtype=torch.int64, device=like.device)

    def add(self, width: int, part: slice, masked: _Masked, dim: int) -> torch.Tensor:
        """Adds a tile's scores along a dimension, and returns the highest ones."""
        scores_IJ = masked.scores.scores_IJ
        highest = scores_IJ.amax(dim)
        peak = highest.masked_fill(highest == EMPTY, 0.0)
        terms: list[tuple[torch.Tensor, torch.Tensor | float]] = [(self.negative_WX, self.scale + self.hardness)]
        if self.hardness:
            terms.append((self.weight_WX, self.hardness))
        for sums_WX, factor in terms:
            of_tile = (scores_IJ - peak.unsqueeze(dim)).mul_(factor).exp_().sum(dim).log_() + peak * factor
            sums_WX[width, part] = torch.logaddexp(sums_WX[width, part], of_tile)
        if width == 0:
            self.count_X[part] += scores_IJ.shape[dim] - masked.excluded_IJ.sum(dim)
        return highest

    def add_ranks(self) -> None:
        """Adds the sums of all ranks."""
        self.negative_WX, self.weight_WX = total_logsumexp(self.negative_WX), total_logsumexp(self.weight_WX)
        self.count_X = total(self.count_X)

    def losses(self, positive_WX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The losses; the logarithm of what a negative's exponential is divided by for its probability; the gradient for the positive."""
        mean_WX = torch.zeros_like(positive_WX)
        if self.hardness:
            mean_WX = (self.weight_WX - self.count_X.to(mean_WX.dtype).log()).masked_fill(self.count_X == 0, 0.0)
        logit_WX = positive_WX * self.scale
        z_WX = self.negative_WX - mean_WX - logit_WX
        loss_WX = torch.logaddexp(z_WX, torch.zeros_like(z_WX))
        return loss_WX, mean_WX + logit_WX + loss_WX, -z_WX.sigmoid()


class _Contrast(torch.autograd.Function):
    """The losses of B queries and, if symmetric, of their positives, at W widths; and the statistics of the queries."""

    @staticmethod
    def forward(ctx: Any, walk: _Walk, scale: torch.Tensor, *vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tiles, symmetric, hardness = walk.tiles, walk.objective.symmetric, walk.objective.hardness
        queries_W, documents_W = [tiles.sort(queries) for queries in vectors[::2]], vectors[1::2]
        widths, pairs, like = len(queries_W), len(queries_W[0]), queries_W[0]
        queries = _Sums(like, widths, pairs, scale, hardness)
        positives = _Sums(like, widths, len(tiles.pair_P) if symmetric else 0, scale, hardness)
        positive_WB, hardest_B, similarity_B = like.new_empty(widths, pairs), like.new_full((pairs,), EMPTY), like.new_zeros(pairs)
        likely_B = torch.zeros_like(queries.count_X)
        for strip in tiles.strips:
            found_W = walk.found(documents_W, strip)
            for tile in strip.tiles:
                part = tile.queries
                for width, masked in enumerate(walk.masked(tile, queries_W, found_W)):
                    positive_WB[width, masked.own] = masked.positive
                    highest_I = queries.add(width, part, masked, 1)
                    if symmetric and strip.positives:
                        positives.add(width, strip.documents, masked, 0)
                    if width == 0:
                        hardest_B[part] = torch.maximum(hardest_B[part], highest_I)
                        similarity_B[part] += masked.scores.scores_IJ.masked_fill(masked.excluded_IJ, 0.0).sum(1)
                        likely_B[part] += 0 if masked.likely_IJ is None else masked.likely_IJ.sum(1)
        query_WB, query_offset_WB, query_pull_WB = queries.losses(positive_WB)
        document_WB = offset_WP = pull_WB = like.new_zeros(widths, 0)
        if symmetric:
            positives.add_ranks()
            document_WP, offset_WP, pull_WP = positives.losses(walk.of_all_ranks(tiles.unsort(positive_WB, 1)))
            document_WB, pull_WB = walk.own(document_WP), walk.own(pull_WP)[:, tiles.order_B]
        ctx.walk = walk
        ctx.save_for_backward(scale, *vectors, query_offset_WB, query_pull_WB, offset_WP, pull_WB)
        statistics = [tiles.unsort(each, 0) for each in (positive_WB[0], hardest_B, similarity_B, queries.count_X, likely_B)]
        ctx.mark_non_differentiable(*statistics)
        return tiles.unsort(query_WB, 1), document_WB, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, query_WB: torch.Tensor, document_WB: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        walk: _Walk = ctx.walk
        tiles, symmetric = walk.tiles, walk.objective.symmetric
        scale, *vectors, query_offset_WB, query_pull_WB, offset_WP, pull_WB = ctx.saved_tensors
        queries_W, documents_W = [tiles.sort(queries) for queries in vectors[::2]], vectors[1::2]
        factor = scale + walk.objective.hardness
        weight_WB = query_WB[:, tiles.order_B] * scale  # the gradient of a query's loss for a score, over the score's probability
        positive_gradient_WB = query_pull_WB * weight_WB
        if symmetric:
            weight_WP = walk.of_all_ranks(document_WB) * scale
            positive_gradient_WB = positive_gradient_WB + pull_WB * document_WB[:, tiles.order_B] * scale
        query_gradients = [torch.zeros_like(queries) for queries in queries_W]
        document_gradients = [torch.zeros_like(documents) for documents in documents_W]
        for strip in tiles.strips:
            found_W = walk.found(documents_W, strip)
            strip_gradients = [torch.zeros_like(found.rows_NTD) for found in found_W]
            for tile in strip.tiles:
                for width, masked in enumerate(walk.masked(tile, queries_W, found_W)):
                    logit_IJ = masked.scores.scores_IJ.mul_(factor)
                    gradient_IJ = (logit_IJ - query_offset_WB[width, tile.queries, None]).exp_().mul_(weight_WB[width, tile.queries, None])
                    if symmetric and strip.positives:
                        of_document_IJ = logit_IJ.sub_(offset_WP[width, strip.documents]).exp_()
                        gradient_IJ.addcmul_(of_document_IJ, weight_WP[width, strip.documents])
                    tile.diagonal(gradient_IJ)[1].copy_(positive_gradient_WB[width, masked.own])
                    moved = query_gradients[width][tile.queries], strip_gradients[width]
                    add_gradients(gradient_IJ, masked.scores, masked.asked, masked.found, *moved)
            for gradients, of_strip in zip(document_gradients, strip_gradients, strict=True):
                gradients[tiles.order_N[strip.documents]] = of_strip
        of_scale = sum((queries * gradients).sum() for queries, gradients in zip(queries_W, query_gradients, strict=True)) / scale
        pairs = zip(query_gradients, document_gradients, strict=True)
        return None, of_scale, *(each for of_query, of_document in pairs for each in (tiles.unsort(of_query, 0), of_document))
