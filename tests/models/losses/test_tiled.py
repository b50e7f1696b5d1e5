"""The contrast by tiles equals that from all scores at once, element by element, and computes and keeps no more than it has to.

Shapes: N items, B pairs, T rows an item, D width.
"""

import math
from dataclasses import astuple
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mirepoix.models.losses.contrastive import Labels, contrastive
from mirepoix.models.losses.dense import dense_contrast
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.pool import Pool, Sizes
from mirepoix.models.losses.tiled import tiled_contrast
from mirepoix.models.losses.tiles import Tiles
from mirepoix.models.vectors import Vectors
from tests.models.losses.reference_losses import labels, vectors


@st.composite
def batches(draw):
    """Labels of a batch of up to nine pairs, with documents that are equal and known answers that are many."""
    pairs = draw(st.integers(1, 9))
    counts = draw(st.lists(st.integers(0, 3), min_size=pairs, max_size=pairs))
    documents, hashes = pairs + sum(counts), draw(st.integers(1, 2))
    return labels(
        codes=draw(st.lists(st.integers(1, 4), min_size=documents, max_size=documents)),
        counts=counts,
        keys=draw(st.lists(st.tuples(*[st.integers(0, 9)] * hashes), min_size=documents, max_size=documents)),
        relevant=draw(st.none() | st.lists(st.sets(st.integers(-1, 10), min_size=1, max_size=4), min_size=pairs, max_size=pairs)),
    )


objectives = st.builds(
    Objective,
    modality_mask=st.booleans(),
    symmetric=st.booleans(),
    margin=st.sampled_from([None, None, -0.2, 0.0, 0.3]),
    hardness=st.sampled_from([0.0, 2.0]),
    widths=st.sampled_from([(), (), (2,), (4, 1)]),
)


def results_of(contrast, queries: Vectors, documents: Vectors, batch_labels: Labels, objective: Objective, scale, **options):
    """The loss, its gradients for queries, documents and scale, and the statistics of the queries."""
    pool = Pool.gathered(documents, batch_labels, Sizes.of(queries, documents, batch_labels))
    loss, rows = contrast(queries, documents, pool, batch_labels, objective, scale, **options)
    leaves = [leaf for leaf in (queries.rows_NTD, documents.rows_NTD, scale) if isinstance(leaf, torch.Tensor)]
    return [loss, *torch.autograd.grad(loss, leaves), *astuple(rows)]


@settings(deadline=None, max_examples=200)
@given(
    batch_labels=batches(),
    objective=objectives,
    rows=st.sampled_from([(1, 1), (1, 1), (1, 3), (2, 1), (3, 2)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
    different=st.sampled_from([1, 2, 4, 36]),
)
def test_tiles_of_any_size_give_the_value_every_gradient_and_every_statistic_of_all_scores_at_once(
    batch_labels, objective, rows, size, seed, different
):
    queries, documents = vectors(len(batch_labels.counts_B), rows[0], seed), vectors(len(batch_labels.codes_M), rows[1], seed + 1000)
    documents = repeated(documents, different)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    batch = queries, documents, batch_labels, objective, scale
    found, expected = results_of(tiled_contrast, *batch, size=size), results_of(dense_contrast, *batch)
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted, atol=1e-10, rtol=1e-10)


def repeated(documents: Vectors, different: int) -> Vectors:
    """As many documents, of which so many are different and the others equal to these."""
    again = documents[torch.arange(len(documents)) % different]
    return Vectors(again.rows_NTD.detach().requires_grad_(), again.mask_NT)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_document_that_equals_the_positive_is_not_above_it_whichever_way_its_score_is_summed(rows):
    pairs, draw = 400, torch.Generator().manual_seed(0)
    near = F.normalize(torch.randn(pairs, rows, 256, generator=draw), dim=-1)
    far = F.normalize(near + 0.05 * torch.randn(pairs, rows, 256, generator=draw), dim=-1)
    mask = torch.ones(pairs, rows, dtype=torch.bool)
    documents = repeated(Vectors(far, mask), pairs // 2)
    found = {}
    for contrast in (dense_contrast, tiled_contrast):
        queries = Vectors(near[: pairs // 2].repeat(2, 1, 1).requires_grad_(), mask)
        loss, *_, likely, _ = results_of(contrast, queries, documents, labels([1] * pairs), Objective(margin=0.0), 30.0)
        assert not likely.any(), "each query's positive is nearer than all documents but its equal"
        found[contrast] = loss.item()
    assert found[tiled_contrast] == pytest.approx(found[dense_contrast], rel=1e-5)
    assert found[dense_contrast] > math.log(2), "its equal is a negative"


class Batch(NamedTuple):
    queries: Vectors
    documents: Vectors
    labels: Labels


def batch_of(pairs: int, codes: list[int], dtype: torch.dtype = torch.float32, answers: int = 1, width: int = 4) -> Batch:
    """Random pairs without hard negatives; each query's answer is one of so many, so it is known for all queries of the same."""
    draw = torch.Generator().manual_seed(3)
    near = F.normalize(torch.randn(pairs, width, generator=draw, dtype=torch.float64), dim=-1)
    far = F.normalize(near + 0.3 * torch.randn(pairs, width, generator=draw, dtype=torch.float64), dim=-1)
    queries, documents = (Vectors.single(each.to(dtype).requires_grad_()) for each in (near, far))
    keys = [i % answers for i in range(pairs)]
    return Batch(queries, documents, labels(codes, keys=keys, relevant=[{key} for key in keys]))


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_in_float32_tiles_are_as_near_to_float64_as_all_scores_at_once(temperature):
    objective = Objective(symmetric=True, hardness=1.0, modality_mask=True)
    exact, rough = (batch_of(80, [1, 2] * 40, dtype, 80, width=16) for dtype in (torch.float64, torch.float32))
    wanted = results_of(dense_contrast, *exact, objective, 1 / temperature)[:3]
    errors = {}
    for contrast, options in ((dense_contrast, {}), (tiled_contrast, {"size": (16, 16)})):
        found = results_of(contrast, *rough, objective, 1 / temperature, **options)[:3]
        errors[contrast] = [((one.double() - other).norm() / other.norm()).item() for one, other in zip(found, wanted, strict=True)]
        assert found[0].dtype == found[1].dtype == torch.float32
    assert max(errors[tiled_contrast]) < 2e-6 and max(errors[dense_contrast]) < 2e-5, errors


def test_a_loss_that_is_not_a_number_stays_one():
    batch = batch_of(600, [1] * 600, answers=600)
    spoiled = Vectors(batch.queries.rows_NTD.detach().index_fill(0, torch.tensor([7]), math.nan).requires_grad_(), batch.queries.mask_NT)
    assert contrastive(spoiled, batch.documents, batch.labels, Objective(), 10.0).loss.isnan()


def scored(codes: list[int], modality_mask: bool, size: tuple[int, int] = (8, 8)) -> int:
    """How many scores are computed."""
    batch = batch_of(len(codes), codes)
    pool = Pool.gathered(batch.documents, batch.labels, Sizes.of(*batch))
    tiles = Tiles.of(batch.queries, pool, batch.labels, modality_mask, size)
    lengths = [[part.stop - part.start for part in (tile.queries, tile.documents)] for strip in tiles.strips for tile in strip.tiles]
    assert all(rows <= size[0] and columns <= size[1] for rows, columns in lengths)
    return sum(math.prod(each) for each in lengths)


def test_of_equal_groups_of_modalities_the_scores_within_each_alone_are_computed():
    assert scored([1] * 120, True) == scored([1, 2, 4] * 40, False) == 120 * 120
    assert scored([1, 2, 4] * 40, True) == 120 * 40
    assert scored([1, 2, 3, 4] * 30, True) == 120 * 30
    assert scored([1] * 119 + [2], True) == 119 * 119 + 1


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that an operation gave, and which it was."""

    found = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, list | tuple) else [result]:
            if isinstance(each, torch.Tensor):
                self.found = max(self.found, (each.numel(), str(func)))
        return result


@pytest.mark.parametrize("answers", [2, 400], ids=["two answers that half of the batch has each", "an answer for each query"])
def test_no_tensor_is_larger_than_the_vectors_or_a_tile_forward_and_backward(answers):
    pairs, width = 400, 4
    batch = batch_of(pairs, [1, 2] * (pairs // 2), answers=answers, width=width)
    objective = Objective(modality_mask=True, symmetric=True, hardness=1.0, margin=0.3, widths=(2,))
    with Largest() as largest:
        results_of(tiled_contrast, *batch, objective, 10.0, size=(32, 32))
    assert width * pairs <= largest.found[0] <= 2 * width * pairs, "tiles have 1024 scores"
    with Largest() as largest:
        results_of(dense_contrast, *batch, objective, 10.0)
    assert largest.found[0] >= pairs * pairs


def test_a_large_batch_is_computed_by_tiles_and_a_small_one_at_once():
    largest = {}
    for pairs in (360, 366):
        batch = batch_of(pairs, [1, 2] * (pairs // 2))
        with Largest() as largest[pairs]:
            contrastive(*batch, Objective(modality_mask=True), 10.0).loss.backward()
    assert largest[360].found[0] >= 360 * 360 and largest[366].found[0] <= 366 * 366 / 4
