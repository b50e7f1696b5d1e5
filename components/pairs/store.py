"""Training pairs on disk.

The files of a folder of pairs are memory-mapped, so that the memory of a process does not grow with the pictures:

items.arrow   every item once, with the hash of its content
pairs.arrow   pairs, which name items by their rows, with the grade of the positive, and a teacher's scores of it and of each negative, NaN
              where there is none
known.arrow   known answers that are in no pair here, such as pairs left out of an epoch; they are not used as negatives either
kin.arrow     near-duplicate documents, which are likely to be equally correct answers
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import modality_codes
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Item, Pair, content_key, item_to_row, row_to_item

T = TypeVar("T")
By = Literal["task", "source", "target"]

KEYED_ITEM_SCHEMA = ITEM_SCHEMA.append(pa.field("key", pa.int64(), nullable=False))


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()])


ROW = pa.int64()
PAIR_SCHEMA = _schema(
    id=pa.string(),
    query=ROW,
    positive=ROW,
    negatives=pa.list_(ROW),
    task=pa.string(),
    source=pa.string(),
    scores=pa.list_(pa.float32()),
    grade=pa.int32(),
)
KNOWN_SCHEMA = _schema(query=ROW, answer=ROW, task=pa.string())
KIN_ROW_SCHEMA = _schema(item=ROW, kin=ROW)
ITEMS_PER_CHUNK, BYTES_PER_CHUNK, PAIRS_PER_CHUNK = 64, 4 << 20, 8192
TRIES = 64  # documents drawn for one that is no answer
UNSCORED = math.nan


class PairRow(NamedTuple):
    """A pair as it is written: its items by their rows, its task and source, a teacher's scores, if any, and its grade."""

    id: str
    query: int
    positive: int
    negatives: Sequence[int] = ()
    task: str = ""
    source: str = ""
    scores: Sequence[float] = ()  # of the positive and of each negative, NaN where there is none
    grade: int = 1  # of the positive's relevance


class Drawn(NamedTuple):
    """A pair for training, with the content keys and a teacher's scores of its documents, the positive's first."""

    pair: Pair
    keys: list[int]
    scores: list[float]


class Known(NamedTuple):
    """An item that answers a query, but is not a training pair."""

    query: int
    answer: int
    task: str = ""


class StoreWriter:
    """Writes a folder of pairs in chunks: first the items, each once, then the files that refer to them by row."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.keys = array("q")
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        sink = self._open.enter_context(pa.OSFile(str(self.folder / "items.arrow"), "wb"))
        self._items = self._open.enter_context(pa.ipc.new_file(sink, KEYED_ITEM_SCHEMA))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, item: Item, key: int | None = None) -> int:
        """Writes an item and returns its row; the content key is computed unless it is given."""
        self.keys.append(content_key(item) if key is None else key)
        self._pending.append({**item_to_row(item), "key": self.keys[-1]})
        self._bytes += sum(map(len, (*item.images, *item.video)))
        if len(self._pending) == ITEMS_PER_CHUNK or self._bytes >= BYTES_PER_CHUNK:
            self._flush()
        return len(self.keys) - 1

    def copy(self, chunk: pa.RecordBatch) -> None:
        """Writes a chunk of the items of another folder of pairs."""
        self._flush()
        self._items.write_batch(chunk)
        self.keys.extend(chunk["key"].to_pylist())

    def _flush(self) -> None:
        if self._pending:
            self._items.write_table(pa.Table.from_pylist(self._pending, schema=KEYED_ITEM_SCHEMA))
            self._pending, self._bytes = [], 0

    def finish(self, pairs: Iterable[PairRow], known: Iterable[Known] = (), kin: Iterable[tuple[int, int]] = ()) -> int:
        """Writes the files that refer to the items; returns the number of pairs."""
        self._flush()

        def checked() -> Iterator[dict[str, Any]]:
            for pair in pairs:
                named = (pair.query, pair.positive, *pair.negatives)
                assert min(named) >= 0 and max(named) < len(self.keys), f"pair {pair.id} names rows {named} of {len(self.keys)} items"
                scores = list(pair.scores) or [UNSCORED] * (1 + len(pair.negatives))
                assert len(scores) == 1 + len(pair.negatives), f"pair {pair.id} has {len(scores)} scores"
                yield {**pair._asdict(), "negatives": list(pair.negatives), "scores": scores}

        _write(self.folder / "known.arrow", KNOWN_SCHEMA, (entry._asdict() for entry in known))
        _write(self.folder / "kin.arrow", KIN_ROW_SCHEMA, ({"item": item, "kin": other} for item, other in kin))
        return _write(self.folder / "pairs.arrow", PAIR_SCHEMA, checked())


def write_pairs(
    folder: Path, items: Iterable[Item], pairs: Iterable[PairRow], known: Iterable[Known] = (), kin: Iterable[tuple[int, int]] = ()
) -> int:
    """Writes a folder of pairs; returns the number of pairs."""
    with StoreWriter(folder) as writer:
        for item in items:
            writer.add(item)
        return writer.finish(pairs, known, kin)


def _write(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    rows, count = iter(rows), 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while part := list(islice(rows, PAIRS_PER_CHUNK)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    return count


class _Rows:
    """Rows of a memory-mapped Arrow file by number; read chunk by chunk, because `Table.take` would first copy the whole file."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise Refused(f"pairs file {path} is not on this machine; give a folder that `pairs` wrote, on storage that all nodes share")
        self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.chunks = self.table.to_batches()
        self.ends = np.cumsum([len(chunk) for chunk in self.chunks])
        self.column = cache(self._column)

    def row(self, number: int) -> dict[str, Any]:
        chunk = int(np.searchsorted(self.ends, number, side="right"))
        start = int(self.ends[chunk]) - len(self.chunks[chunk])
        return self.chunks[chunk].slice(number - start, 1).to_pylist()[0]

    def _column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()


class PairStore:
    """The pairs of a folder by their row numbers."""

    def __init__(self, folder: Path):
        self.items, self.entries, self.known, self.kin = (_Rows(folder / f"{name}.arrow") for name in ("items", "pairs", "known", "kin"))
        self._answers = cache(self._listed)

    def __len__(self) -> int:
        return len(self.entries.table)

    def pairs(self, rows: Sequence[int]) -> list[Pair]:
        """The pairs in the given rows, in that order, with all their negatives."""
        return [pair for pair, *_ in self.drawn(rows)]

    def drawn(self, rows: Sequence[int] | np.ndarray, most: int | None = None, least: int = 0, seed: Sequence[int] = ()) -> list[Drawn]:
        """Pairs of the given rows with at most `most` of their negatives, drawn by `seed`.

        A pair with fewer than `least` is filled up with positives of other pairs that are not known answers of its query; these have no
        teacher's score.
        """
        return [self._drawn(int(row), most, least, seed) for row in rows]

    def _drawn(self, row: int, most: int | None, least: int, seed: Sequence[int]) -> Drawn:
        entry = self.entries.row(row)
        hard, (score, *scores) = entry["negatives"], entry["scores"]
        if most is not None and most < len(hard):
            places = np.random.default_rng([*seed, row]).choice(len(hard), most, replace=False)
            hard, scores = ([values[place] for place in places] for values in (hard, scores))
        elif len(hard) < least:
            more = self._random_negatives(row, hard, least - len(hard), np.random.default_rng([*seed, row]))
            hard, scores = hard + more, scores + [UNSCORED] * len(more)
        documents = [self.items.row(number) for number in (entry["positive"], *hard)]
        query = row_to_item(self.items.row(entry["query"]))
        positive, *others = map(row_to_item, documents)
        return Drawn(Pair(entry["id"], query, positive, tuple(others)), [document["key"] for document in documents], [score, *scores])

    def _random_negatives(self, row: int, hard: Sequence[int], count: int, draw: np.random.Generator) -> list[int]:
        """Rows of so many documents that are neither known answers of the pair's query nor among its own negatives."""
        keys, positives = self.items.column("key"), self.entries.column("positive")
        excluded = {*self.relevant([row], kin=True)[0].tolist(), *keys[list(hard)].tolist()}
        found: list[int] = []
        for document in positives[draw.integers(0, len(positives), TRIES * count)]:
            if len(found) < count and int(keys[document]) not in excluded:
                found.append(int(document))
                excluded.add(int(keys[document]))
        if len(found) < count:
            raise Refused(f"{len(self)} pairs have too few documents to fill up the negatives of a pair; lower negatives")
        return found

    def keys(self, column: str) -> np.ndarray:
        """For every pair, the content key of its "query" or "positive"."""
        return self.items.column("key")[self.entries.column(column)]

    def relevant(self, rows: Sequence[int] | np.ndarray, kin: bool = False) -> np.ndarray:
        """The content keys of the known answers to each pair's query, with `kin` also of their near-duplicates; padded with the last key.

        The answers of all pairs of a query group count. A near-duplicate that a source judges irrelevant to the query is left out.
        """
        starts, answers = self._answers(kin)
        found = [answers[starts[group] : starts[group + 1]] for group in self.query_groups[np.asarray(rows)]]
        width = max(map(len, found))
        return np.stack([np.pad(keys, (0, width - len(keys)), mode="edge") for keys in found])

    @property
    def query_groups(self) -> np.ndarray:
        """For every pair, the number of its query group: the pairs of one task whose queries have the same content."""
        return self._groups[: len(self)]

    @cached_property
    def _groups(self) -> np.ndarray:
        """The query group of every pair, and then of every known answer."""
        tasks = pa.chunked_array([*self.entries.table["task"].chunks, *self.known.table["task"].chunks], pa.string())
        query = self.items.column("key")[np.concatenate([self.entries.column("query"), self.known.column("query")])]
        keys, query = np.unique(query, return_inverse=True)
        return np.unique(_codes(tasks).astype(np.int64) * len(keys) + query, return_inverse=True)[1]

    def _listed(self, kin: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where the answers of each query group start; the answers, each once."""
        keys, dense = np.unique(self.items.column("key"), return_inverse=True)
        width = max(1, len(keys))
        answer = dense[np.concatenate([self.entries.column("positive"), self.known.column("answer")])]
        found = np.unique(self._groups * width + answer)
        if kin and len(self.kin.table):
            item, kin_item = dense[self.kin.column("item")], dense[self.kin.column("kin")]
            item, kin_item = np.concatenate([item, kin_item]), np.concatenate([kin_item, item])
            order = np.argsort(item, kind="stable")
            item, kin_item = item[order], kin_item[order]
            low, high = (np.searchsorted(item, found % width, side) for side in ("left", "right"))
            counts = high - low
            places = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
            more = np.repeat(found // width, counts) * width + kin_item[places]
            refuted = self.entries.table["negatives"]
            lengths = pc.list_value_length(refuted).to_numpy()
            judged = np.repeat(self.query_groups, lengths) * width + dense[pc.list_flatten(refuted).to_numpy()]
            found = np.unique(np.concatenate([found, more[~np.isin(more, judged)]]))
        starts = np.searchsorted(found // width, np.arange(int(self._groups.max(initial=-1)) + 2))
        return starts, keys[found % width]

    def families(self, by: By) -> np.ndarray:
        """For every pair, the number of its task, of its source, or of its positive's modality."""
        if by != "target":
            return _codes(self.entries.table[by])
        return self.modalities[self.entries.column("positive")]

    @cached_property
    def modalities(self) -> np.ndarray:
        """For every item the code of its modality."""
        return modality_codes(self.items.table)

    @property
    def most_negatives(self) -> int:
        """The largest number of hard negatives of a pair."""
        return pc.max(pc.list_value_length(self.entries.table["negatives"])).as_py() or 0

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher has scored the positive and a negative of any pair."""
        for chunk in self.entries.chunks:
            scores = chunk["scores"]
            scored, pair = ~np.isnan(scores.flatten().to_numpy()), scores.value_parent_indices().to_numpy()
            of_positive = scored[np.searchsorted(pair, np.arange(len(scores)))]
            if (of_positive & (np.bincount(pair[scored], minlength=len(scores)) > 1)).any():
                return True
        return False


def _codes(names: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers for equal names."""
    return names.combine_chunks().dictionary_encode().indices.to_numpy()
