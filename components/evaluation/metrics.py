"""Retrieval metrics of a ranking, and the bootstrap interval of their mean over queries."""

import math
from collections.abc import Sequence, Set

import numpy as np


def recall(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """Share of the relevant items that are among the first k."""
    return len(relevant & set(ranking[:k])) / len(relevant)


def hit(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """1 if any relevant item is among the first k, else 0; M-BEIR calls this recall."""
    return float(bool(relevant & set(ranking[:k])))


def reciprocal_rank(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """One over the rank of the first relevant item among the first k; 0 if there is none."""
    return next((1 / rank for rank, item in enumerate(ranking[:k], 1) if item in relevant), 0.0)


def ndcg(ranking: Sequence[str], relevant: Set[str], k: int) -> float:
    """Discounted cumulative gain of the first k, divided by that of the ideal ranking."""
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
    """Every metric of one query's ranking."""
    assert relevant, "a query without a relevant item cannot be measured"
    return {name: measure(ranking, relevant, k) for name, (measure, k) in MEASURES.items()}


def interval(groups: Sequence[Sequence[float]], draws: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of the groups' means; queries are resampled within their group."""
    random = np.random.default_rng(seed)
    means = [np.asarray(group)[random.integers(len(group), size=(draws, len(group)))].mean(1) for group in groups]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)
