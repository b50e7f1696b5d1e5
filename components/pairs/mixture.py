"""How often the pairs of each source and task stand in an epoch."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from mirepoix.models.errors import Refused

ENTRY = re.compile(r"(?P<source>.*?)(?::(?P<task>[^:]*->[^:]*|\*))?=(?P<weight>[^=]*)", re.S)
FORM = "write SOURCE:TASK=WEIGHT or SOURCE=WEIGHT with * for any, such as coco:t->i=2 or *:it->t=0.5"
Group = tuple[str, str]  # source and task


@dataclass(frozen=True)
class Weight:
    """How often a pair stands in an epoch if its source and task match; 1 is once, 0.5 every second one, 0 none."""

    source: str
    task: str
    weight: float

    def matches(self, group: Group) -> bool:
        return fnmatchcase(group[0], self.source) and fnmatchcase(group[1], self.task)


def parsed(entry: str) -> Weight:
    """The weight that an entry of the config gives; refused where it is malformed."""
    told = ENTRY.fullmatch(entry.strip())
    if told is None or not told["source"]:
        raise Refused(f"mixture has the entry {entry!r}; {FORM}")
    try:
        weight = float(told["weight"])
    except ValueError:
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise Refused(f"mixture has the entry {entry!r}, whose weight is {told['weight']!r}; give a number of 0 or more")
    return Weight(told["source"], told["task"] or "*", weight)


def resolve_weights(mixture: Sequence[str], groups: set[Group]) -> dict[Group, float]:
    """The weight of each source and task: the last entry that matches, or 1; refused where an entry matches nothing."""
    for entry in mixture:
        if not any(parsed(entry).matches(group) for group in groups):
            there = ", ".join(f"{source}:{task}" for source, task in sorted(groups))
            raise Refused(f"mixture has the entry {entry!r}, which matches no pair to train on; there are {there}")
    return {group: weight(mixture, group) for group in groups}


def weight(mixture: Sequence[str], group: Group) -> float:
    """The weight of a source and task: that of the last entry that matches, or 1."""
    return next((told.weight for told in map(parsed, reversed(mixture)) if told.matches(group)), 1.0)


def repeats(groups: Sequence[Group], weights: dict[Group, float], seed: int) -> np.ndarray:
    """How often each pair stands in an epoch: the whole part of its weight, and once more as many, drawn by seed, as the rest is worth."""
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
    """The mixture before and after, a row for each source and task."""
    before, after = Counter(groups), Counter()
    for group, count in zip(groups, counts.tolist(), strict=True):
        after[group] += count
    return [
        {"stage": stage, "source": source, "task": task, "before": before[source, task], "after": after[source, task]}
        for source, task in sorted(before)
    ]
