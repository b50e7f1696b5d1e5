"""The contrastive loss against a slow reference written down from the definition, and against itself on several ranks.

Shapes: B pairs of a rank, P pairs of all ranks, K hard negatives a pair, T rows an item, D width.
"""

import math
import os
import pickle
from dataclasses import fields

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.loss import Contrast, contrastive, gather, gather_vectors
from mirepoix.models.vectors import Vectors, maxsim
from tests.keys import filled

D = 5


def toy(pairs: int, negatives: int = 0, rows: int = 1, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Random queries and documents; with several rows, some of them padding."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(count: int) -> Vectors:
        rows_NTD = F.normalize(torch.randn(count, rows, D, generator=generator), dim=-1)
        mask_NT = torch.rand(count, rows, generator=generator) < 0.7
        mask_NT[:, 0] = True
        return Vectors(rows_NTD * mask_NT[..., None], mask_NT)

    return vectors(pairs), vectors(pairs * (1 + negatives))


def distinct(documents: Vectors) -> torch.Tensor:
    return torch.arange(len(documents))


def score(query_TD: torch.Tensor, query_mask_T: torch.Tensor, item_TD: torch.Tensor, item_mask_T: torch.Tensor) -> float:
    total = 0.0
    for s in range(len(query_TD)):
        if query_mask_T[s]:
            total += max(float(query_TD[s] @ item_TD[t]) for t in range(len(item_TD)) if item_mask_T[t])
    return total


def reference(
    queries, documents, codes, keys, temperature, modality_mask=False, symmetric=False, relevant=None
) -> tuple[float, list[list[int]]]:
    """The loss as one reads it on paper, and the columns that are negatives of each row."""
    pairs = len(queries)

    def similarity(i: int, j: int) -> float:
        return score(queries.rows_NTD[i], queries.mask_NT[i], documents.rows_NTD[j], documents.mask_NT[j])

    def is_negative(i: int, j: int) -> bool:
        if i == j:
            return False
        if modality_mask and j < pairs and codes[i] != codes[j]:
            return False
        return relevant is None or keys[j] not in relevant[i]

    def cross_entropy(own: float, others: list[float]) -> float:
        return math.log(sum(math.exp((x - own) / temperature) for x in [own, *others]))

    negatives = [[j for j in range(len(documents)) if is_negative(i, j)] for i in range(pairs)]
    forward = sum(cross_entropy(similarity(i, i), [similarity(i, j) for j in negatives[i]]) for i in range(pairs)) / pairs
    if not symmetric:
        return forward, negatives
    asking = [[q for q in range(pairs) if i in negatives[q]] for i in range(pairs)]
    backward = sum(cross_entropy(similarity(i, i), [similarity(q, i) for q in asking[i]]) for i in range(pairs)) / pairs
    return (forward + backward) / 2, negatives


@settings(deadline=None, max_examples=80)
@given(
    pairs=st.integers(1, 5),
    negatives=st.integers(0, 3),
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
    modality_mask=st.booleans(),
    symmetric=st.booleans(),
    known=st.booleans(),
)
def test_it_is_what_the_definition_says(pairs, negatives, rows, seed, modality_mask, symmetric, known):
    queries, documents = toy(pairs, negatives, rows, seed)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, 4, (pairs,), generator=generator)
    keys = torch.randint(0, 4, (len(documents),), generator=generator)
    relevant = [set(torch.randint(-1, 5, (1 + i % 3,), generator=generator).tolist()) for i in range(pairs)] if known else None
    options = {"modality_mask": modality_mask, "symmetric": symmetric}
    expected, columns = reference(queries, documents, codes.tolist(), keys.tolist(), 0.3, relevant=relevant, **options)
    tensor = None if relevant is None else filled(relevant)
    contrast = contrastive(queries, documents, codes, keys, temperature=0.3, relevant_BR=tensor, **options)
    assert float(contrast.loss) == pytest.approx(expected, abs=1e-5)
    similarity = maxsim(queries, documents)
    counted = [float(similarity[i, j]) for i in range(pairs) for j in columns[i]]
    judged = [float(similarity[i, i]) > max(float(similarity[i, j]) for j in columns[i]) for i in range(pairs) if columns[i]]
    assert float(contrast.accuracy) == pytest.approx(sum(judged) / len(judged) if judged else 0.0)
    assert float(contrast.positive_similarity) == pytest.approx(float(similarity[:, :pairs].diagonal().mean()), abs=1e-6)
    assert float(contrast.negative_similarity) == pytest.approx(sum(counted) / len(counted) if counted else 0.0, abs=1e-5)
    assert float(contrast.effective_negatives) == pytest.approx(len(counted) / pairs)
    assert int(contrast.rows_without_negatives) == sum(not own for own in columns)


def test_only_an_exactly_equal_modality_is_a_negative_under_the_mask():
    queries, documents = toy(3)
    text_and_picture, picture = 3, 2
    contrast = contrastive(
        queries, documents, torch.tensor([text_and_picture, picture, picture]), distinct(documents), temperature=1.0, modality_mask=True
    )
    assert int(contrast.rows_without_negatives) == 1
    assert float(contrast.effective_negatives) == pytest.approx(2 / 3)


def test_hard_negatives_count_whatever_their_modality():
    queries, documents = toy(2, negatives=3)
    contrast = contrastive(queries, documents, torch.tensor([1, 2]), distinct(documents), temperature=1.0, modality_mask=True)
    assert float(contrast.effective_negatives) == 6


def test_a_row_without_negatives_teaches_nothing_and_is_counted():
    queries, documents = toy(1)
    queries.rows_NTD.requires_grad_()
    contrast = contrastive(queries, documents, torch.tensor([1]), distinct(documents), temperature=0.03)
    contrast.loss.backward()
    assert contrast.loss.item() == 0 and not queries.rows_NTD.grad.any()
    assert int(contrast.rows_without_negatives) == 1 and float(contrast.accuracy) == 0


def test_a_copy_of_the_positive_is_pushed_away_only_if_it_is_not_said_to_be_relevant():
    queries, documents = toy(3)
    keys = torch.tensor([7, 7, 8])
    kept = contrastive(queries, documents, torch.ones(3), keys, temperature=0.1)
    masked = contrastive(queries, documents, torch.ones(3), keys, temperature=0.1, relevant_BR=keys[:, None])
    assert float(kept.effective_negatives) == 2 and float(masked.effective_negatives) == pytest.approx(4 / 3)


def test_what_another_pair_brings_and_this_query_is_known_to_want_is_masked_for_this_query_alone():
    queries, documents = toy(2, negatives=1)
    keys = torch.tensor([10, 11, 12, 13])
    relevant = torch.tensor([[10, 11, 13], [11, 11, 11]])
    contrast = contrastive(queries, documents, torch.ones(2), keys, temperature=0.1, relevant_BR=relevant)
    assert float(contrast.effective_negatives) == pytest.approx((1 + 3) / 2)


def test_a_document_does_not_push_away_a_query_that_it_is_known_to_answer():
    queries, documents = toy(2)
    keys, relevant = torch.tensor([10, 11]), torch.tensor([[10, 11], [11, 11]])
    contrast = contrastive(queries, documents, torch.ones(2), keys, temperature=0.1, symmetric=True, relevant_BR=relevant)
    similarity = maxsim(queries, documents) / 0.1
    second_query = float(similarity[1].logsumexp(0) - similarity[1, 1])
    first_document = float(similarity[:, 0].logsumexp(0) - similarity[0, 0])
    assert float(contrast.loss) == pytest.approx((second_query + first_document) / 4, abs=1e-5), "the other two have no negative"


def test_equal_scores_are_no_success():
    same = Vectors.single(F.normalize(torch.ones(4, D), dim=-1))
    contrast = contrastive(same, same, torch.ones(4), torch.arange(4), temperature=0.03)
    assert float(contrast.accuracy) == 0 and float(contrast.loss) == pytest.approx(math.log(4), abs=1e-5)


def test_figures_carry_no_graph():
    queries, documents = toy(3)
    queries.rows_NTD.requires_grad_()
    contrast = contrastive(queries, documents, torch.ones(3), distinct(documents), temperature=0.1)
    assert contrast.loss.requires_grad
    assert not any(getattr(contrast, field.name).requires_grad for field in fields(Contrast) if field.name != "loss")


def test_without_a_process_group_gathering_is_the_identity():
    queries, _ = toy(3)
    assert gather(queries.rows_NTD) is queries.rows_NTD and gather_vectors(queries) is queries


CASES = [
    {"modality_mask": mask, "symmetric": symmetric, "known": known, "negatives": negatives, "rows": rows}
    for mask in (False, True)
    for known in (False, True)
    for symmetric in (False, True)
    for negatives in (0, 2)
    for rows in (1, 3)
]


def whole(case: dict, everyone: int = 6):
    """The global batch of a case, made of raw inputs through one shared weight, as a model would."""
    generator = torch.Generator().manual_seed(5)
    count = everyone * (1 + case["negatives"])
    return (
        torch.randn(everyone, case["rows"], D, generator=generator),
        torch.randn(count, case["rows"], D, generator=generator),
        torch.randint(1, 3, (everyone,), generator=generator),
        torch.randint(0, 9, (count,), generator=generator),
        torch.randn(D, D, generator=generator),
    )


def loss_and_gradient(case: dict, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    query_rows, document_rows, codes, keys, weight = whole(case)
    share = len(query_rows) // world
    mine = slice(rank * share, (rank + 1) * share)
    hard = slice(len(query_rows) + mine.start * case["negatives"], len(query_rows) + mine.stop * case["negatives"])
    weight.requires_grad_()

    def encode(rows_NTD: torch.Tensor) -> Vectors:
        # Rank 0 pads one row less than the others: widths of a batch differ between ranks.
        rows_NTD = F.pad(F.normalize(rows_NTD @ weight, dim=-1), (0, 0, 0, min(rank, 1) if case["rows"] > 1 else 0))
        mask_NT = torch.arange(rows_NTD.shape[1])[None] < case["rows"]
        return Vectors(rows_NTD, mask_NT.expand(len(rows_NTD), -1))

    contrast = contrastive(
        encode(query_rows[mine]),
        encode(torch.cat([document_rows[mine], document_rows[hard]])),
        codes[mine],
        torch.cat([keys[mine], keys[hard]]),
        temperature=0.2,
        relevant_BR=filled([{int(keys[i]), *range(i)} for i in range(mine.start, mine.stop)]) if case["known"] else None,
        **{name: case[name] for name in ("modality_mask", "symmetric")},
    )
    contrast.loss.backward()
    return contrast.loss.detach(), weight.grad


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = []
    for case in CASES:
        loss, gradient = loss_and_gradient(case, rank, world)
        for tensor in (loss, gradient):
            dist.all_reduce(tensor)
            tensor /= world
        results.append((float(loss), gradient.tolist()))
    if rank == 0:
        with open(f"{folder}/results.pickle", "wb") as file:
            pickle.dump(results, file)
    dist.destroy_process_group()
    os._exit(0)  # at a usual exit gloo's threads may outlive what they stand on, and abort a process whose work is done


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_mean_over_ranks_is_the_loss_and_the_gradient_of_the_whole_batch(world, tmp_path):
    mp.spawn(_rank, (world, str(tmp_path)), nprocs=world)
    results = pickle.loads((tmp_path / "results.pickle").read_bytes())
    for case, (loss, gradient) in zip(CASES, results, strict=True):
        expected_loss, expected_gradient = loss_and_gradient(case, 0, 1)
        assert loss == pytest.approx(float(expected_loss), abs=1e-5), case
        torch.testing.assert_close(torch.tensor(gradient), expected_gradient, atol=1e-5, rtol=1e-4, msg=str(case))
