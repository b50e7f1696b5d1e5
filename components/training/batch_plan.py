"""Which pairs meet in which batch: a function of the seed and the batch's number alone, so a resumed run asks for the next number."""

from collections.abc import Sequence

import numpy as np

from mirepoix.components.pairs.store import By, PairStore


class BatchPlan:
    """Batches of all pairs, in a new order each epoch; the rest, fewer than a batch, sits out.

    No document is the positive of two pairs of a batch, as long as it stands in no more pairs than it can be spread over. Where it
    stands in more, as a label that answers half of the queries does, it is spread evenly and the loss masks what meets: sat out, most
    of such a source would never be trained on. Pairs of the same query are kept apart where changing places can do it.

    A share of the batches can be homogeneous: each of them of one task, source or modality that is wanted. That share comes first: it
    is had with documents that stand twice where a family is too poor in different ones.
    """

    OFFERS = 8  # places that a pair whose query stands twice in its batch is offered
    MOST_OFFERS = 40_000  # in an epoch: some tenths of a second

    def __init__(self, store: PairStore, size: int, seed: Sequence[int], homogeneous: float = 0.0, by: By = "task"):
        assert 0 < size <= len(store), (size, len(store))
        self.size = size
        self.seed = tuple(seed)
        self.homogeneous = homogeneous
        self.per_epoch = len(store) // size
        self._query, self._positive = (np.unique(store.keys(name), return_inverse=True)[1] for name in ("query", "positive"))
        self._asked, self._found = np.bincount(self._query), np.bincount(self._positive)
        self._family = store.families(by) if homogeneous else np.zeros(len(store), np.int32)
        self._epoch: tuple[int, np.ndarray] | None = None

    def batch(self, number: int) -> np.ndarray:
        """The rows of the pairs in the batch of that number, counted on through the epochs."""
        epoch, place = divmod(number, self.per_epoch)
        standing = self._epoch  # read once: threads ask for batches of two epochs at a time
        if standing is None or standing[0] != epoch:
            self._epoch = standing = (epoch, self._order(epoch))
        return standing[1][place]

    def _order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([*self.seed, epoch])
        shuffled = generator.permutation(len(self._family))
        families = [shuffled[self._family[shuffled] == family] for family in np.unique(self._family)]
        alone = [int(self.homogeneous * len(rows)) // self.size for rows in families]
        # What does not fit into the mixed batches has to stand in those of its family.
        batches = self.per_epoch - sum(alone)
        crowded = _ordinals(self._positive[shuffled]) < self._found[self._positive[shuffled]] - batches
        first = np.empty(len(shuffled), bool)
        first[shuffled] = crowded
        pools, mixed = [], []
        for rows, own in zip(families, alone, strict=True):
            rows = rows[np.argsort(~first[rows], kind="stable")]
            chosen = self._chosen(rows, own)
            pools.append(self._apart(rows[chosen], own, generator))
            mixed.append(np.delete(rows, chosen))
        rest = generator.permutation(np.concatenate(mixed))
        pools.append(self._apart(rest[self._chosen(rest, batches)], batches, generator))
        return generator.permutation(np.concatenate(pools))

    def _chosen(self, rows: np.ndarray, batches: int) -> np.ndarray:
        """Places of the rows that fill so many batches: the first ones, but last of all those whose document is in every batch already."""
        surplus = _ordinals(self._positive[rows]) >= batches
        return np.argsort(surplus, kind="stable")[: batches * self.size]

    def _apart(self, rows: np.ndarray, batches: int, generator: np.random.Generator) -> np.ndarray:
        """The rows as batches: dealt out in rounds, so that pairs of one document, side by side, go to different batches.

        To whom a round goes first is drawn anew: in an order that stands, neighbours would share most of their documents, and each would
        be contrasted with the same few again and again.
        """
        document = self._positive[rows]
        rounds = rows[np.argsort(generator.permutation(len(self._positive))[document], kind="stable")].reshape(self.size, batches)
        dealt = np.empty((batches, self.size), rows.dtype)
        last, had = -1, np.empty(0, np.int64)  # the document that a round ended with, and the batches that have one more of it than others
        for place, dealing in enumerate(rounds):
            documents = self._positive[dealing]
            order, going_on = generator.permutation(batches), int((documents == last).sum())
            if going_on:
                order = order[np.argsort(np.isin(order, had), kind="stable")]
                order[going_on:] = generator.permutation(order[going_on:])
            dealt[order, place] = dealing
            if going_on < batches:
                last = documents[-1]
                had = order[documents == last] if documents[0] != last else had[:0]
        self._part_queries(dealt, generator)
        return dealt

    def _part_queries(self, dealt: np.ndarray, generator: np.random.Generator) -> None:
        """Lets pairs whose query stands twice in their batch change places with others, where neither batch gets anything twice by it."""
        clashing = np.flatnonzero(_repeats(self._query[dealt]) & (self._asked[self._query[dealt]] <= len(dealt)))
        movers = generator.permutation(clashing)[: self.MOST_OFFERS // 2]
        offers, left = generator.integers(0, max(1, dealt.size), (len(movers), self.OFFERS)), self.MOST_OFFERS
        for mover, offered in zip(movers, offers, strict=True):
            one = divmod(int(mover), self.size)
            for partner in offered if self._meets(dealt, dealt[one], *one) else ():
                other = divmod(int(partner), self.size)
                left -= 1
                if other[0] != one[0] and not self._meets(dealt, dealt[one], *other) and not self._meets(dealt, dealt[other], *one):
                    dealt[one], dealt[other] = dealt[other], dealt[one]
                    break
            if left < 0:
                break

    def _meets(self, dealt: np.ndarray, row: int, batch: int, place: int) -> bool:
        """Whether the pair would meet its query or its document in a place of a batch."""
        others = dealt[batch]
        same = (self._query[others] == self._query[row]) | (self._positive[others] == self._positive[row])
        same[place] = False
        return bool(same.any())


def _ordinals(keys: np.ndarray) -> np.ndarray:
    """For each place how many earlier ones hold the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    start = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)])
    ordinals = np.empty(len(keys), np.int64)
    ordinals[order] = np.arange(len(keys)) - np.repeat(start, np.diff(np.append(start, len(keys))))
    return ordinals


def _repeats(keys: np.ndarray) -> np.ndarray:
    """Which places hold a key that another place of their row holds before them, in the order of a sort."""
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    again = np.zeros(keys.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again
