"""Gathering across ranks, here on one rank; several ranks are tested by the losses over ranks."""

import torch

from mirepoix.models.losses.collectives import gather, gather_vectors, rank_and_world, sizes, total
from tests.models.losses.reference_losses import vectors


def test_without_a_process_group_a_rank_is_alone_and_has_what_it_has():
    local = vectors(3, rows=2)
    assert rank_and_world() == (0, 1) and sizes(3, 5, device=torch.device("cpu")) == [[3], [5]]
    assert gather(local.rows_NTD) is local.rows_NTD and gather_vectors(local, [3], 2) is local


def test_a_total_is_a_number_of_its_own_without_a_graph():
    one = torch.ones(2, requires_grad=True)
    assert total(one).tolist() == [1, 1] and not total(one).requires_grad and total(one).data_ptr() != one.data_ptr()
