"""One score for single and multi-vectors."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.models.vectors import Vectors, maxsim


def random_vectors(counts, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    rows = F.normalize(torch.randn(len(counts), max(counts), width, generator=generator), dim=-1)
    return Vectors(rows * mask[..., None], mask)


COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(COUNTS, COUNTS, st.integers(0, 100))
def test_maxsim_is_the_sum_over_query_rows_of_the_best_item_row(query_counts, item_counts, seed):
    queries, items = random_vectors(query_counts, 5, seed), random_vectors(item_counts, 5, seed + 1)
    scores = maxsim(queries, items)
    for q, rows in enumerate(query_counts):
        for n, others in enumerate(item_counts):
            by_hand = sum(max(float(queries.rows_NTD[q, s] @ items.rows_NTD[n, t]) for t in range(others)) for s in range(rows))
            assert scores[q, n].item() == pytest.approx(by_hand, abs=1e-5)


def test_by_blocks_of_items_scores_and_gradients_are_the_same_and_no_block_is_larger_than_the_limit(monkeypatch):
    found = {}
    for block in (10**9, 100):  # of 3 x 4 query rows and 5 item rows, an item takes 60
        monkeypatch.setattr("mirepoix.models.vectors.BLOCK", block)
        queries, items = random_vectors([4, 1, 3], 6, 0), random_vectors([5, 2, 1, 4], 6, 1)
        leaves = queries.rows_NTD.requires_grad_(), items.rows_NTD.requires_grad_()
        with counted(torch, "einsum") as sizes:
            scores = maxsim(queries, items)
            found[block] = scores.detach(), *torch.autograd.grad((scores * torch.arange(12.0).reshape(3, 4)).sum(), leaves)
        assert sizes == ([240] if block > 240 else [60] * 8), "once for the scores and once for the gradients"
    for whole, parted in zip(*found.values(), strict=True):
        assert torch.allclose(whole, parted, atol=1e-6)


@contextmanager
def counted(module, name):
    """The sizes of what a function gives within the block."""
    sizes, plain = [], getattr(module, name)

    def recorded(*given):
        result = plain(*given)
        sizes.append(result.numel())
        return result

    setattr(module, name, recorded)
    yield sizes
    setattr(module, name, plain)


def test_with_one_row_each_the_score_is_the_dot_product():
    queries, items = random_vectors([1] * 3, 8, 0), random_vectors([1] * 5, 8, 1)
    assert torch.allclose(maxsim(queries, items), queries.rows_NTD[:, 0] @ items.rows_NTD[:, 0].T)


def test_padding_never_wins():
    rows = -torch.ones(1, 1, 4) / 2
    lonely = Vectors.cat([Vectors.single(rows[:, 0]), random_vectors([3], 4, 0)])
    assert maxsim(Vectors.single(torch.ones(1, 4) / 2), lonely)[0, 0].item() == pytest.approx(-1.0)


def test_parts_of_different_lengths_are_concatenated():
    whole = Vectors.cat([random_vectors([2, 1], 3, 0), random_vectors([4], 3, 1)])
    assert len(whole) == 3
    assert whole.mask_NT.sum(1).tolist() == [2, 1, 4]
    assert len(whole[1:]) == 2
    assert len(whole[[2, 0]]) == 2


def test_a_cut_vector_has_unit_norm_again_and_padding_stays_zero():
    cut = random_vectors([2, 1], 8, 0).truncated(3)
    assert cut.width == 3
    norms = cut.rows_NTD.norm(dim=-1)
    assert torch.allclose(norms[cut.mask_NT], torch.ones(3))
    assert norms[~cut.mask_NT].sum() == 0


def test_rows_and_mask_must_agree():
    with pytest.raises(AssertionError):
        Vectors(torch.zeros(2, 3, 4), torch.ones(2, 2, dtype=torch.bool))
