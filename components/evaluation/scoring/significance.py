"""How sure a mean over queries is: bootstrap intervals, and paired tests of two systems, corrected for their number."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]
AT_ONCE = 1 << 22
"""Most values that are drawn at a time."""


def interval(groups: Sequence[Values], draws: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of the groups' means; queries are resampled within their group."""
    random = np.random.default_rng(seed)
    means = np.mean([_resampled(np.asarray(group, np.float64), draws, random) for group in groups], axis=0)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _resampled(group: npt.NDArray[np.float64], draws: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """The means of so many samples of a group, each as large as the group."""
    each = max(1, AT_ONCE // len(group))
    parts = [group[random.integers(len(group), size=(min(each, draws - start), len(group)))].mean(1) for start in range(0, draws, each)]
    return np.concatenate(parts)


def paired_test(differences: Sequence[Values], draws: int, seed: int) -> float:
    """The two-sided p-value of a paired randomisation test that the mean of the groups' mean differences is zero.

    Which of two systems a query's values belong to is swapped at random; the p-value is the share of swaps with a mean as far from zero.
    The observed one is counted as one of them, so that it is never 0.
    """
    random = np.random.default_rng(seed)
    groups = [np.asarray(group, np.float64) for group in differences]
    observed = abs(np.mean([group.mean() for group in groups]))
    means = np.mean([_swapped(group, draws, random) for group in groups], axis=0)
    as_far = int((np.abs(means) >= observed - 1e-12).sum())
    return (1 + as_far) / (1 + draws)


def _swapped(group: npt.NDArray[np.float64], draws: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """The mean differences of a group under so many random swaps; queries without a difference change nothing."""
    moved = group[group != 0]
    if not len(moved):
        return np.zeros(draws)
    each = max(1, AT_ONCE // len(moved))
    signs = (random.integers(0, 2, size=(min(each, draws - start), len(moved)), dtype=np.int8) * 2 - 1 for start in range(0, draws, each))
    return np.concatenate([sign @ moved for sign in signs]) / len(group)


def corrected(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected by Holm's method for their number: no more than 5 % of families then have a false one below 0.05."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    found = np.empty(len(order))
    found[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(order) else []
    return [float(value) for value in found]
