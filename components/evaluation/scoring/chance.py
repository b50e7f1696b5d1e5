"""What a ranking by chance has on average, computed and not drawn: of N candidates in any order, r of which are relevant."""

from collections.abc import Sequence

import numpy as np

from mirepoix.components.evaluation.scoring.measures import Measure


def expected(each: Measure, candidates: int, there: Sequence[int], ideal: Sequence[int]) -> float:
    """The mean of a measure over all orders of the candidates; `there` are the grades above 0 among them, `ideal` all that there are."""
    depth, relevant = min(each.depth, candidates), len(there)
    if not depth or not relevant:
        return 0.0
    ranks = np.arange(1, depth + 1)
    if each.kind == "P":
        return relevant * depth / candidates / each.depth
    if each.kind == "R":
        return relevant * depth / candidates / len(ideal)
    if each.kind == "nDCG":
        gains, best = (
            np.array([2.0**grade - 1 if each.exponential else grade for grade in grades]) for grades in (there, sorted(ideal)[::-1])
        )
        best = best[: each.depth]
        whole = best @ (1 / np.log2(np.arange(2, len(best) + 2)))
        return float(gains.sum() / candidates * (1 / np.log2(ranks + 1)).sum() / whole)
    if each.kind == "AP":
        together = relevant * (relevant - 1) / (candidates * max(1, candidates - 1))
        return float(((relevant / candidates + (ranks - 1) * together) / ranks).sum() / len(ideal))
    # The chance that none of the first i - 1 is relevant, for i of 1 to depth + 1.
    none_before = np.append(1.0, np.cumprod(np.clip((candidates - relevant - ranks + 1) / (candidates - ranks + 1), 0, 1)))
    if each.kind == "Success":
        return float(1 - none_before[-1])
    assert each.kind == "RR", each
    return float(((none_before[:-1] - none_before[1:]) / ranks).sum())
