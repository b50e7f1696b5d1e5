"""Rows without padding are those of the padded vectors, and any choice of items keeps each item's rows."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.models.ragged import RaggedRows
from mirepoix.models.vectors import Vectors

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def ragged(counts: list[int], width: int = 3) -> RaggedRows:
    rows_RD = np.arange(sum(counts) * width, dtype=np.float32).reshape(-1, width)
    return RaggedRows(rows_RD, np.append(0, np.cumsum(counts)))


def lists(rows: RaggedRows) -> list[list[list[float]]]:
    return [rows_TD.tolist() for rows_TD in rows]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_vectors_lose_their_padding_and_nothing_else(mask):
    mask_NT = torch.tensor(mask)
    vectors = Vectors(torch.randn(len(mask), 3, 2, requires_grad=True), mask_NT)
    found = vectors.ragged()
    assert (len(found), found.width, found.rows_RD.dtype) == (len(mask), 2, np.float32)
    assert lists(found) == [rows_TD[mask_T].tolist() for rows_TD, mask_T in zip(vectors.rows_NTD, mask_NT, strict=True)]


@given(COUNTS, st.data())
def test_items_are_chosen_by_places_and_by_slices(counts, data):
    rows = ragged(counts)
    places = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10))
    assert lists(rows[np.array(places, int)]) == [lists(rows)[place] for place in places]
    if places:
        assert lists(rows[places]) == [lists(rows)[place] for place in places]
    cut = slice(*sorted((data.draw(st.integers(0, len(counts))), data.draw(st.integers(0, len(counts))))))
    assert lists(rows[cut]) == lists(rows)[cut]


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_parts_are_joined_in_their_order(several):
    parts = [ragged(counts) for counts in several]
    assert lists(RaggedRows.cat(parts)) == [item for part in parts for item in lists(part)]


def test_a_matrix_has_one_row_per_item():
    rows = RaggedRows.single(np.eye(3, dtype=np.float32))
    assert rows.counts_N.tolist() == [1, 1, 1] and lists(rows) == np.eye(3)[:, None].tolist()
