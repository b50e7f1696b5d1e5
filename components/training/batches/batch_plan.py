"""The order of training batches: a function of the seed and the batch number alone, so a resumed run continues with the next number."""

from collections.abc import Sequence

import numpy as np

from mirepoix.components.pairs.store import By, PairStore


class BatchPlan:
    """Batches of all pairs, in a new order each epoch; the remainder, fewer pairs than a batch, is left out of that epoch.

    No document is the positive of two pairs of a batch, as long as no more pairs have it than there are batches. A document of more pairs,
    such as a label that answers half of the queries, is spread evenly over the batches, and the loss masks the duplicates: if such pairs
    were left out, most of their source would never be trained on. Pairs of the same query are put into different batches where swapping
    two pairs achieves it.

    A share of the batches can be homogeneous, each with pairs of one family: one task, source or target modality. That share has priority:
    where a family has too few different documents, its batches contain a document twice.
    """

    SWAPS = 8  # partners that are tried for a pair whose query is in its batch twice
    MOST_SWAPS = 40_000  # tried in an epoch: some tenths of a second

    def __init__(self, store: PairStore, size: int, seed: Sequence[int], homogeneous: float = 0.0, by: By = "task"):
        assert 0 < size <= len(store), (size, len(store))
        self.size = size
        self.seed = tuple(seed)
        self.homogeneous = homogeneous
        self.per_epoch = len(store) // size
        self._query, self._positive = (np.unique(store.keys(name), return_inverse=True)[1] for name in ("query", "positive"))
        self._query_counts, self._positive_counts = np.bincount(self._query), np.bincount(self._positive)
        self._family = store.families(by) if homogeneous else np.zeros(len(store), np.int32)
        self._epoch: tuple[int, np.ndarray] | None = None

    def batch(self, number: int) -> np.ndarray:
        """The rows of the pairs in the batch of that number; numbers continue over the epochs."""
        epoch, place = divmod(number, self.per_epoch)
        cached = self._epoch  # read once: threads may need batches of two epochs at the same time
        if cached is None or cached[0] != epoch:
            self._epoch = cached = (epoch, self._order(epoch))
        return cached[1][place]

    def _order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([*self.seed, epoch])
        shuffled = generator.permutation(len(self._family))
        families = [shuffled[self._family[shuffled] == family] for family in np.unique(self._family)]
        homogeneous = [int(self.homogeneous * len(rows)) // self.size for rows in families]
        # Pairs of a document that exceed the number of mixed batches go into the homogeneous batches of their family first.
        batches = self.per_epoch - sum(homogeneous)
        surplus = _ordinals(self._positive[shuffled]) < self._positive_counts[self._positive[shuffled]] - batches
        first = np.empty(len(shuffled), bool)
        first[shuffled] = surplus
        pools, mixed = [], []
        for rows, count in zip(families, homogeneous, strict=True):
            rows = rows[np.argsort(~first[rows], kind="stable")]
            chosen = self._chosen(rows, count)
            pools.append(self._spread(rows[chosen], count, generator))
            mixed.append(np.delete(rows, chosen))
        rest = generator.permutation(np.concatenate(mixed))
        pools.append(self._spread(rest[self._chosen(rest, batches)], batches, generator))
        return generator.permutation(np.concatenate(pools))

    def _chosen(self, rows: np.ndarray, batches: int) -> np.ndarray:
        """Places of the rows that fill so many batches: in order, but rows whose document is already in every batch come last."""
        surplus = _ordinals(self._positive[rows]) >= batches
        return np.argsort(surplus, kind="stable")[: batches * self.size]

    def _spread(self, rows: np.ndarray, batches: int, generator: np.random.Generator) -> np.ndarray:
        """The rows as batches: assigned in rounds, sorted by document, so that pairs of one document go to different batches.

        The order of the batches is drawn anew for each round: with a fixed order, neighbours would share most of their documents, and each
        document would be contrasted with the same few others again and again.
        """
        document = self._positive[rows]
        rounds = rows[np.argsort(generator.permutation(len(self._positive))[document], kind="stable")].reshape(self.size, batches)
        assigned = np.empty((batches, self.size), rows.dtype)
        last, holders = -1, np.empty(0, np.int64)  # the last document of a round, and the batches that hold one more of it than the others
        for place, round_rows in enumerate(rounds):
            documents = self._positive[round_rows]
            order, continued = generator.permutation(batches), int((documents == last).sum())
            if continued:
                order = order[np.argsort(np.isin(order, holders), kind="stable")]
                order[continued:] = generator.permutation(order[continued:])
            assigned[order, place] = round_rows
            if continued < batches:
                last = documents[-1]
                holders = order[documents == last] if documents[0] != last else holders[:0]
        self._separate_queries(assigned, generator)
        return assigned

    def _separate_queries(self, assigned: np.ndarray, generator: np.random.Generator) -> None:
        """Swaps pairs whose query is in their batch twice with pairs of other batches, if the swap makes no duplicate in either batch."""
        clashing = np.flatnonzero(_repeats(self._query[assigned]) & (self._query_counts[self._query[assigned]] <= len(assigned)))
        movers = generator.permutation(clashing)[: self.MOST_SWAPS // 2]
        partners, left = generator.integers(0, max(1, assigned.size), (len(movers), self.SWAPS)), self.MOST_SWAPS
        for mover, tried in zip(movers, partners, strict=True):
            one = divmod(int(mover), self.size)
            for partner in tried if self._clashes(assigned, assigned[one], *one) else ():
                other = divmod(int(partner), self.size)
                left -= 1
                if (
                    other[0] != one[0]
                    and not self._clashes(assigned, assigned[one], *other)
                    and not self._clashes(assigned, assigned[other], *one)
                ):
                    assigned[one], assigned[other] = assigned[other], assigned[one]
                    break
            if left < 0:
                break

    def _clashes(self, assigned: np.ndarray, row: int, batch: int, place: int) -> bool:
        """Whether the batch has the query or the document of the pair, apart from what is in that place of it."""
        others = assigned[batch]
        same = (self._query[others] == self._query[row]) | (self._positive[others] == self._positive[row])
        same[place] = False
        return bool(same.any())


def _ordinals(keys: np.ndarray) -> np.ndarray:
    """For each place, how many earlier places hold the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    start = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)])
    ordinals = np.empty(len(keys), np.int64)
    ordinals[order] = np.arange(len(keys)) - np.repeat(start, np.diff(np.append(start, len(keys))))
    return ordinals


def _repeats(keys: np.ndarray) -> np.ndarray:
    """True at places whose key is also at another place of their row that comes first in a stable sort."""
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    again = np.zeros(keys.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again
