"""Measures of a ranking, and what they are worth: mean over queries with a bootstrap interval."""

import math
from collections.abc import Sequence, Set

import numpy as np


def recall(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """Share of what is relevant that stands among the first k."""
    return len(relevant & set(ranking[:k])) / len(relevant)


def hit(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """Whether anything relevant stands among the first k; what M-BEIR calls recall."""
    return float(bool(relevant & set(ranking[:k])))


def reciprocal_rank(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """One over the rank of the first relevant one among the first k, or 0."""
    return next((1 / rank for rank, item in enumerate(ranking[:k], 1) if item in relevant), 0.0)


def ndcg(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """Discounted gain of the first k over that of the best ranking."""
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], 1) if item in relevant)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))


MEASURES = {
    "recall@1": (recall, 1),
    "recall@5": (recall, 5),
    "recall@10": (recall, 10),
    "hit@5": (hit, 5),
    "mrr@10": (reciprocal_rank, 10),
    "ndcg@10": (ndcg, 10),
}


def measured(ranking: Sequence[str], relevant: Set[str]) -> dict[str, float]:
    """Every measure of one query's ranking."""
    assert relevant, "a query without a relevant item cannot be measured"
    return {name: measure(ranking, relevant, k) for name, (measure, k) in MEASURES.items()}


def interval(groups: Sequence[Sequence[float]], draws: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over groups of the mean in each, its queries drawn with replacement."""
    random = np.random.default_rng(seed)
    means = [np.asarray(group)[random.integers(len(group), size=(draws, len(group)))].mean(1) for group in groups]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)
