"""The mixture: how often the pairs of each source and task occur in an epoch."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mirepoix.components.pairs.pairs_config import parsed
from mirepoix.models.errors import Refused

Group = tuple[str, str]  # source and task


def resolve_weights(mixture: Sequence[str], groups: set[Group]) -> dict[Group, float]:
    """The weight of each source and task; refused where an entry of the mixture matches no pair."""
    for entry in mixture:
        if not any(parsed(entry).matches(group) for group in groups):
            there = ", ".join(f"{source}:{task}" for source, task in sorted(groups))
            raise Refused(f"mixture has the entry {entry!r}, which matches no pair to train on; there are {there}")
    return {group: weight(mixture, group) for group in groups}


def weight(mixture: Sequence[str], group: Group) -> float:
    """The weight of a source and task: that of the last entry that matches, or 1."""
    return next((entry.weight for entry in map(parsed, reversed(mixture)) if entry.matches(group)), 1.0)


def repeats(groups: Sequence[Group], weights: dict[Group, float], seed: int) -> np.ndarray:
    """How often each pair occurs in an epoch: the whole part of its weight, and once more for a fraction of the pairs, drawn by seed."""
    places: dict[Group, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    counts = np.zeros(len(groups), np.int64)
    for group, own in places.items():
        whole, rest = divmod(weights[group], 1)
        counts[own] = int(whole)
        name = int.from_bytes(hashlib.sha256(":".join(group).encode()).digest()[:8], "little")
        more = np.random.default_rng([seed, name]).choice(own, round(rest * len(own)), replace=False)
        counts[more] += 1
    return counts


def report(stage: str, groups: Sequence[Group], counts: np.ndarray) -> list[dict[str, Any]]:
    """The numbers of pairs before and after weighting, a row for each source and task."""
    before = Counter(groups)
    after: Counter[Group] = Counter()
    for group, count in zip(groups, counts.tolist(), strict=True):
        after[group] += count
    return [
        {"stage": stage, "source": source, "task": task, "before": before[source, task], "after": after[source, task]}
        for source, task in sorted(before)
    ]
