"""The loss on several ranks: the mean of values, gradients and figures is that of one process with the whole batch, for every option.

Shapes: B pairs of a rank, T rows an item, D width.
"""

import math
import os
import pickle
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mirepoix.models.losses.contrastive import COUNTS, FIGURES, Contrast, Labels, contrastive
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.temperature import LearnedTemperature
from mirepoix.models.vectors import Vectors
from tests.models.losses.reference_losses import D, labels
from tests.ranks import run_ranks

EVERYONE = 6
RAGGED = (0, 0, 2, 1, 0, 3)  # of three ranks one has no hard negative at all
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


def batch_of(case: Case, rank: int, world: int) -> tuple[torch.Tensor, Labels]:
    """A rank's raw items, queries first, and their labels."""
    draw = torch.Generator().manual_seed(5)
    hard, share = sum(case.counts), EVERYONE // world
    queries = torch.randn(EVERYONE, case.rows, D, generator=draw)
    documents = torch.randn(EVERYONE + hard, case.rows, D, generator=draw)
    keys = torch.randint(0, 18, (EVERYONE + hard, 2), generator=draw)
    scores = torch.randn(EVERYONE + hard, generator=draw)
    scores[-1] = math.nan
    codes = torch.randint(1, 3, (EVERYONE + hard,), generator=draw)
    mine = range(rank * share, (rank + 1) * share)
    start = EVERYONE + sum(case.counts[: mine.start])
    places = [*mine, *range(start, start + sum(case.counts[mine.start : mine.stop]))]
    batch_labels = labels(
        codes[places].tolist(),
        case.counts[mine.start : mine.stop],
        keys[places].tolist(),
        scores[places].tolist(),
        [{int(keys[i, 1]), *range(i)} for i in mine] if case.known else None,
    )
    return torch.cat([queries[mine], documents[places]]), batch_labels


def results_of(case: Case, rank: int, world: int) -> tuple[Contrast, list[torch.Tensor]]:
    """The loss of a rank with its figures, and its gradients."""
    raw, batch_labels = batch_of(case, rank, world)
    module: torch.nn.Module = Toy(torch.randn(D, D, generator=torch.Generator().manual_seed(6)))
    temperature = LearnedTemperature(case.objective) if case.objective.learned_temperature else None
    rows_NTD, mask_NT = module(raw_NTD=raw, padding=min(rank, 1) if case.rows > 1 else 0)
    scale = 1 / case.objective.temperature if temperature is None else temperature()
    vectors, pairs = Vectors(rows_NTD, mask_NT), len(batch_labels.counts_B)
    contrast = contrastive(vectors[:pairs], vectors[pairs:], batch_labels, case.objective, scale)
    contrast.loss.backward()
    return contrast, [parameter.grad for part in (temperature, module) if part is not None for parameter in part.parameters()]


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = []
    for case in CASES:
        contrast, gradients = results_of(case, rank, world)
        tensors = [getattr(contrast, name).detach().double().reshape(()) for name in FIGURES] + gradients
        for tensor in tensors:
            dist.all_reduce(tensor)
        numbers = {name: float(tensor) / (1 if name in COUNTS else world) for name, tensor in zip(FIGURES, tensors, strict=False)}
        results.append((numbers, [(gradient / world).tolist() for gradient in gradients]))
    if rank == 0:
        with open(f"{folder}/results.pickle", "wb") as file:
            pickle.dump(results, file)
    dist.destroy_process_group()
    os._exit(0)  # at a normal exit, gloo's threads may outlive what they use and abort a process that has finished its work


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_mean_over_ranks_is_the_loss_and_the_gradient_of_the_whole_batch(world, tmp_path):
    run_ranks(_rank, world, str(tmp_path))
    results = pickle.loads((tmp_path / "results.pickle").read_bytes())
    for case, (numbers, gradients) in zip(CASES, results, strict=True):
        contrast, expected = results_of(case, 0, 1)
        assert numbers == pytest.approx({name: getattr(contrast, name).item() for name in FIGURES}, abs=1e-5), asdict(case)
        for found, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-5, rtol=1e-4, msg=str(case))


def test_the_cases_have_what_they_are_to_show():
    """Some ranks have no hard negatives and no teacher; some temperatures are clamped at a bound, others have a gradient back inside."""
    assert sum(RAGGED[:2]) == 0 < sum(RAGGED[2:4])
    taught = [results_of(Case(Objective(distillation="kl")), rank, 3)[0].rows_without_teacher.item() for rank in range(3)]
    assert taught == [2, 0, 2]
    for bound in ("temperature_floor", "temperature_ceiling"):
        bounded = [case for case in CASES if case.objective.temperature == getattr(case.objective, bound)]
        assert {bool(results_of(case, 0, 1)[1][0].any()) for case in bounded} == {True, False}, bound
    margins = [results_of(case, 0, 1)[0].masked_by_margin.item() for case in CASES if case.objective.margin is not None]
    assert all(margins)
