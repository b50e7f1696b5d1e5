"""Pairs on disk, which of them meet in which batch, and batches made ahead of their use.

A folder of pairs holds items.arrow, every item once with the hash of its content, and pairs.arrow, which names items by their rows.
Both are memory-mapped: what a process holds does not grow with the pictures.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Item, Pair, content_hash, item_to_row, row_to_item

T = TypeVar("T")

KEYED_ITEM_SCHEMA = ITEM_SCHEMA.append(pa.field("key", pa.int64(), nullable=False))
PAIR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("query", pa.int64(), nullable=False),
        pa.field("positive", pa.int64(), nullable=False),
        pa.field("negatives", pa.list_(pa.int64()), nullable=False),
        pa.field("task", pa.string(), nullable=False),
    ]
)
ITEMS_PER_CHUNK, PAIRS_PER_CHUNK = 64, 8192


class PairRow(NamedTuple):
    """A pair as it is written: items by their rows, and the family that it belongs to."""

    id: str
    query: int
    positive: int
    negatives: Sequence[int] = ()
    task: str = ""


def content_key(item: Item) -> int:
    """The content hash as a number that a tensor can hold."""
    return int.from_bytes(content_hash(item)[:8], "little", signed=True)


def write_pairs(folder: Path, items: Iterable[Item], pairs: Iterable[PairRow]) -> int:
    """Writes a folder of pairs, a chunk at a time; returns how many there are."""
    count = _write(folder / "items.arrow", KEYED_ITEM_SCHEMA, ITEMS_PER_CHUNK, ({**item_to_row(i), "key": content_key(i)} for i in items))

    def rows() -> Iterator[dict[str, Any]]:
        for pair in pairs:
            named = (pair.query, pair.positive, *pair.negatives)
            assert min(named) >= 0 and max(named) < count, f"pair {pair.id} names rows {named} of {count} items"
            yield {**pair._asdict(), "negatives": list(pair.negatives)}

    return _write(folder / "pairs.arrow", PAIR_SCHEMA, PAIRS_PER_CHUNK, rows())


def _write(path: Path, schema: pa.Schema, chunk: int, rows: Iterable[dict[str, Any]]) -> int:
    rows, count = iter(rows), 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while part := list(islice(rows, chunk)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    return count


class _Rows:
    """Rows of a memory-mapped Arrow file by number; taken a chunk at a time, as `Table.take` would first copy the file together."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise Refused(f"pairs file {path} is not on this machine; give a folder that `pairs` wrote, on storage that every node sees")
        self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.chunks = self.table.to_batches()
        self.ends = np.cumsum([len(chunk) for chunk in self.chunks])

    def row(self, number: int) -> dict[str, Any]:
        chunk = int(np.searchsorted(self.ends, number, side="right"))
        start = int(self.ends[chunk]) - len(self.chunks[chunk])
        return self.chunks[chunk].slice(number - start, 1).to_pylist()[0]

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()


class PairStore:
    """The pairs of a folder by their row numbers."""

    def __init__(self, folder: Path):
        self._items = _Rows(folder / "items.arrow")
        self._pairs = _Rows(folder / "pairs.arrow")

    def __len__(self) -> int:
        return len(self._pairs.table)

    def pairs(self, rows: Sequence[int]) -> list[Pair]:
        """The pairs in the given rows, in that order, with all their negatives."""
        return [pair for pair, _ in self.keyed(rows)]

    def keyed(self, rows: Sequence[int], negatives: int | None = None, seed: Sequence[int] = ()) -> list[tuple[Pair, list[int]]]:
        """Pairs with the content keys of their documents, the positive's first; of each pair's negatives so many, drawn from `seed`."""
        return [self._keyed(int(row), negatives, seed) for row in rows]

    def _keyed(self, row: int, negatives: int | None, seed: Sequence[int]) -> tuple[Pair, list[int]]:
        entry = self._pairs.row(row)
        hard = entry["negatives"]
        if negatives is not None and negatives < len(hard):
            hard = np.random.default_rng([*seed, row]).choice(hard, negatives, replace=False).tolist()
        documents = [self._items.row(number) for number in (entry["positive"], *hard)]
        query = row_to_item(self._items.row(entry["query"]))
        positive, *others = map(row_to_item, documents)
        return Pair(entry["id"], query, positive, tuple(others)), [document["key"] for document in documents]

    def keys(self, column: str) -> np.ndarray:
        """For every pair the content key of its "query" or "positive"."""
        return self._items.column("key")[self._pairs.column(column)]

    def relevant(self, rows: Sequence[int]) -> np.ndarray:
        """The content keys of what is known to answer each pair's query, rows filled up with their last.

        All pairs of one task whose queries have the same content tell it together.
        """
        groups, starts, answers = self._answers
        found = [answers[starts[group] : starts[group + 1]] for group in groups[np.asarray(rows)]]
        width = max(map(len, found))
        return np.stack([np.pad(keys, (0, width - len(keys)), mode="edge") for keys in found])

    @cached_property
    def _answers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The group of each pair; where the answers of each group start; the answers, each once in its group."""
        columns = self.tasks(), self.keys("query"), self.keys("positive")
        order = np.lexsort(columns[::-1])
        task, query, positive = (column[order] for column in columns)
        another_group = np.concatenate([[True], (task[1:] != task[:-1]) | (query[1:] != query[:-1])])
        another_answer = another_group | np.concatenate([[True], positive[1:] != positive[:-1]])
        groups = np.empty(len(order), np.int64)
        groups[order] = np.cumsum(another_group) - 1
        starts = np.append(np.flatnonzero(another_group[another_answer]), another_answer.sum())
        return groups, starts, positive[another_answer]

    def tasks(self) -> np.ndarray:
        """For every pair the number of its task."""
        return self._pairs.table["task"].combine_chunks().dictionary_encode().indices.to_numpy()

    def fewest_and_most_negatives(self) -> tuple[int, int]:
        counts = pc.min_max(pc.list_value_length(self._pairs.table["negatives"])).as_py()
        return counts["min"], counts["max"]


class Plan:
    """Which pairs make each batch: a function of the seed and the batch's number alone, so a resumed run asks for the next number.

    An epoch is a new order of all pairs, cut into whole batches; the rest, fewer than a batch, sits out. Pairs with the same query or the
    same positive are kept out of each other's batches where that can be had by changing places; the loss masks what is left.
    A share of the batches can be homogeneous: each of them of one task.
    """

    ROUNDS = 12

    def __init__(self, store: PairStore, size: int, seed: Sequence[int], homogeneous: float = 0.0):
        assert 0 < size <= len(store), (size, len(store))
        self.size = size
        self.seed = tuple(seed)
        self.homogeneous = homogeneous
        self.per_epoch = len(store) // size
        self._keys = (store.keys("query"), store.keys("positive"))
        self._tasks = store.tasks() if homogeneous else np.zeros(len(store), np.int32)
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
        shuffled = generator.permutation(len(self._tasks))
        pools, mixed = [], []
        for task in np.unique(self._tasks):
            rows = shuffled[self._tasks[shuffled] == task]
            alone = int(self.homogeneous * len(rows)) // self.size * self.size
            pools.append(self._apart(rows[:alone], generator))
            mixed.append(rows[alone:])
        pools.append(self._apart(generator.permutation(np.concatenate(mixed)), generator))
        batches = np.concatenate([pool[: len(pool) // self.size * self.size].reshape(-1, self.size) for pool in pools])
        return generator.permutation(batches)

    def _apart(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The order after rows that clash with another of their batch have changed places at random, as often as that helped."""
        best, fewest = order, len(order)
        for _ in range(self.ROUNDS):
            clashes = np.flatnonzero(self._clashes(order))
            if len(clashes) < fewest:
                best, fewest = order, len(clashes)
            if fewest == 0:
                break
            movers = np.union1d(clashes, generator.integers(0, len(order), len(clashes)))
            order = order.copy()
            order[movers] = order[generator.permutation(movers)]
        return best

    def _clashes(self, order: np.ndarray) -> np.ndarray:
        """Which places of an order hold a query or a positive that an earlier place of the same batch holds."""
        batch = np.arange(len(order)) // self.size
        clashes = np.zeros(len(order), bool)
        for keys in self._keys:
            sorting = np.lexsort((keys[order], batch))
            key, home = keys[order][sorting], batch[sorting]
            clashes[sorting[1:][(key[1:] == key[:-1]) & (home[1:] == home[:-1])]] = True
        return clashes


class Copies:
    """A callable that threads share though it is not safe to: each call runs on a copy that no other call is using."""

    def __init__(self, call: Callable[..., T], copies: int):
        self._idle: SimpleQueue[Callable[..., T]] = SimpleQueue()
        for _ in range(copies):
            self._idle.put(copy.deepcopy(call))

    def __call__(self, *arguments: Any) -> T:
        call = self._idle.get()
        try:
            return call(*arguments)
        finally:
            self._idle.put(call)


def ahead(make: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """What `make` gives for each number, in order, made by background threads before it is asked for; by none: when it is asked for."""
    if not threads:
        yield from map(make, numbers)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="collate")
    waiting = iter(numbers)
    coming = deque(pool.submit(make, number) for number in islice(waiting, threads + 1))
    try:
        while coming:
            made = coming.popleft().result()
            coming.extend(pool.submit(make, number) for number in islice(waiting, 1))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
