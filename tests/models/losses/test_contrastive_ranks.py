"""The loss on several ranks with unequal shares of the pairs: values, gradients and figures are those of one process, for every option.

Shapes: B pairs of a rank, N items of a rank, T rows an item, D width.
"""

import math
import os
import pickle
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mirepoix.models.losses import contrastive as losses
from mirepoix.models.losses import tiles
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, Labels, contrastive
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.temperature import LearnedTemperature
from mirepoix.models.vectors import Vectors
from tests.models.losses.reference_losses import D, labels
from tests.ranks import run_ranks

SHARES = {1: (10,), 2: (7, 3), 3: (4, 3, 3)}
EVERYONE = 10
RAGGED = (0, 0, 0, 0, 2, 1, 0, 3, 0, 1)  # of three ranks one has no hard negative at all
WAYS = {"dense": math.inf, "tiled": -1}
EVEN = (2,) * EVERYONE
NONE = (0,) * EVERYONE


@dataclass(frozen=True)
class Case:
    """A loss, and the batch that it is of."""

    objective: Objective
    counts: tuple[int, ...] = RAGGED
    rows: int = 1
    known: bool = False


def _cases() -> list[Case]:
    plain = Objective(temperature=0.2)
    cases = [
        Case(replace(plain, modality_mask=mask, symmetric=symmetric), counts, rows, known)
        for mask in (False, True)
        for known in (False, True)
        for symmetric in (False, True)
        for counts in (NONE, EVEN, RAGGED)
        for rows in (1, 3)
    ]
    options: list[dict[str, Any]] = [
        {"in_batch": False},
        {"margin": 0.1},
        {"margin": -0.3, "symmetric": True},
        {"hardness": 3.0, "symmetric": True},
        {"widths": (2, 4)},
        {"distillation": "kl"},
        {"distillation": "margin_mse", "distillation_weight": 1.0},
        {"in_batch": False, "distillation": "kl", "teacher_temperature": 0.5},
        {"learned_temperature": True},
        *({"learned_temperature": True, "temperature_ceiling": bound, "temperature": bound} for bound in (1.0, 1.5)),
        *(
            {"learned_temperature": True, "temperature_floor": bound, "temperature": bound, "temperature_ceiling": 2.0}
            for bound in (1.0, 1.5)
        ),
        {"symmetric": True, "modality_mask": True, "margin": 0.2, "hardness": 1.0, "widths": (3,), "distillation": "kl"},
    ]
    cases += [Case(replace(plain, **option), rows=rows, known=rows > 1) for option in options for rows in (1, 3)]
    whole = replace(plain, learned_temperature=True, symmetric=True, widths=(2,), distillation="margin_mse", hardness=1.0)
    return [*cases, Case(whole, EVEN, 3, True)]


CASES = _cases()


class Toy(torch.nn.Module):
    """Unit rows of raw ones through one weight, as an encoder would; on other ranks than the first with one more row of padding."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, raw_NTD: torch.Tensor, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows_NTD = F.pad(F.normalize(raw_NTD @ self.weight, dim=-1), (0, 0, 0, padding))
        mask_NT = (torch.arange(rows_NTD.shape[1]) < raw_NTD.shape[1]).expand(len(rows_NTD), -1)
        return rows_NTD, mask_NT


def places_of(case: Case, rank: int, world: int) -> tuple[list[int], list[int]]:
    """A rank's pairs, and the places of its documents in a batch of all: the positives, then the hard negatives."""
    first, last = (sum(SHARES[world][:end]) for end in (rank, rank + 1))
    hard = EVERYONE + sum(case.counts[:first])
    return list(range(first, last)), [*range(first, last), *range(hard, hard + sum(case.counts[first:last]))]


def batch_of(case: Case, rank: int, world: int) -> tuple[torch.Tensor, Labels]:
    """A rank's raw items, queries first, and their labels."""
    draw = torch.Generator().manual_seed(5)
    documents = EVERYONE + sum(case.counts)
    raw_queries = torch.randn(EVERYONE, case.rows, D, generator=draw, dtype=torch.float64)
    raw_documents = torch.randn(documents, case.rows, D, generator=draw, dtype=torch.float64)
    keys = torch.randint(0, 18, (documents, 2), generator=draw)
    scores = torch.randn(documents, generator=draw)
    scores[-1] = math.nan
    codes = torch.randint(1, 3, (documents,), generator=draw)
    mine, places = places_of(case, rank, world)
    batch_labels = labels(
        codes[places].tolist(),
        [case.counts[i] for i in mine],
        keys[places].tolist(),
        scores[places].tolist(),
        [{int(keys[i, 1]), *range(i)} for i in mine] if case.known else None,
    )
    return torch.cat([raw_queries[mine], raw_documents[places]]), batch_labels


@dataclass
class Result:
    """The figures of a rank, its gradients for the parameters, and for each row of its items."""

    figures: dict[str, float]
    gradients: list[torch.Tensor]
    rows_NTD: torch.Tensor


def result_of(case: Case, rank: int, world: int) -> Result:
    raw, batch_labels = batch_of(case, rank, world)
    module: torch.nn.Module = Toy(torch.randn(D, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64))
    temperature = LearnedTemperature(case.objective) if case.objective.learned_temperature else None
    rows_NTD, mask_NT = module(raw_NTD=raw, padding=min(rank, 1) if case.rows > 1 else 0)
    rows_NTD.retain_grad()
    vectors, pairs = Vectors(rows_NTD, mask_NT), len(batch_labels.counts_B)
    scale = 1 / case.objective.temperature if temperature is None else temperature()
    contrast = contrastive(vectors[:pairs], vectors[pairs:], batch_labels, case.objective, scale)
    contrast.loss.backward()
    numbers = {name: float(getattr(contrast, name).detach()) for name in FIGURES}
    return Result(
        numbers,
        [parameter.grad for part in (temperature, module) if part is not None for parameter in part.parameters()],
        rows_NTD.grad[:, : case.rows],
    )


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    tiles.SIZES["cpu"] = 6, 12  # many tiles even of so few pairs
    results = {}
    for way, losses.DENSE in WAYS.items():
        results[way] = [result_of(case, rank, world) for case in CASES]
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(results, file)
    dist.barrier()
    os._exit(0)  # at a normal exit, gloo's threads may outlive what they use and abort a process that has finished its work


@pytest.mark.parametrize("world", SHARES)
def test_the_mean_over_ranks_is_the_loss_and_the_gradient_of_the_whole_batch(world, tmp_path):
    run_ranks(_rank, world, str(tmp_path))
    of_ranks = [pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(world)]
    for number, case in enumerate(CASES):
        expected = result_of(case, 0, 1)  # from all scores at once
        for way in WAYS:
            found = [results[way][number] for results in of_ranks]
            for name in FIGURES:
                number_of = sum(result.figures[name] for result in found) / (1 if name in COUNTS else world)
                assert number_of == pytest.approx(expected.figures[name], abs=1e-6, rel=1e-6), (name, way, case)
            for mean, wanted in zip(zip(*(result.gradients for result in found), strict=True), expected.gradients, strict=True):
                exact = 1e-5 if wanted.dtype == torch.float32 else 1e-10  # the temperature is learned in float32
                torch.testing.assert_close(sum(mean) / world, wanted, atol=exact, rtol=exact, msg=f"{way} {case}")
            for rank, result in enumerate(found):
                pairs, documents = places_of(case, rank, world)
                own = expected.rows_NTD[pairs + [EVERYONE + place for place in documents]]
                torch.testing.assert_close(result.rows_NTD / world, own, atol=1e-10, rtol=1e-10, msg=f"{way} {case}")


def test_the_cases_have_what_they_are_to_show():
    """Some ranks have no hard negatives and no teacher; some temperatures are clamped at a bound, others have a gradient back inside."""
    assert sum(RAGGED[:4]) == 0 < sum(RAGGED[4:7]) and all(sum(shares) == EVERYONE for shares in SHARES.values())
    taught = [result_of(Case(Objective(distillation="kl")), rank, 3).figures["rows_without_teacher"] for rank in range(3)]
    assert taught == [4, 1, 2]
    for bound in ("temperature_floor", "temperature_ceiling"):
        bounded = [case for case in CASES if case.objective.temperature == getattr(case.objective, bound)]
        assert {bool(result_of(case, 0, 1).gradients[0].any()) for case in bounded} == {True, False}, bound
    assert all(result_of(case, 0, 1).figures["masked_by_margin"] for case in CASES if case.objective.margin is not None)
