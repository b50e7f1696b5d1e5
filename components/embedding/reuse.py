"""Vectors that the storage has already: those of equal items, in the results of earlier embeddings by the same encoder.

Two items are equal if an encoder reads the same of them (`encoded_hash`). The hash of each item is a column of its vectors; to find what
can be reused, only that column of an earlier result is read. Queries and documents are matched apart, as encoders read them differently.
"""

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import modality_codes, part_files, part_tables
from mirepoix.components.embedding.vectors import CONTENT, DESCRIPTION
from mirepoix.models.item import ITEM_SCHEMA, encoded_hash, table_to_items
from mirepoix.serving import store
from mirepoix.serving.golden import GOLDEN, Golden, parse_golden

STEPS = "embed"
"""The beginning of the names of all stages that embed."""
ENCODE = -1
"""The origin of an item of which no earlier result has a vector."""
UNREADABLE = (store.Damaged, OSError, pa.ArrowException, KeyError, ValueError)
"""Raised by reading a result that is damaged, of another layout, or removed by now."""

SCHEMA = pa.schema([pa.field("id", pa.string()), pa.field("modality", pa.int8()), pa.field(CONTENT, pa.binary(32))])
"""The columns of vectors before the vectors themselves."""
Array = npt.NDArray
GoldenVectors = Mapping[bytes, tuple[np.ndarray, np.ndarray]]
"""The vectors of golden items, as a document and as a query, by the hash of the item."""


class Vanished(Exception):
    """An earlier result that can no longer be read; its target is the argument."""


@dataclass(frozen=True)
class Identity:
    """What decides a vector besides its item: the encoder, the code and libraries that run it, and the kind of device."""

    encoder: str
    versions: str
    use_gpu: bool

    @property
    def known(self) -> bool:
        """Whether it names an encoder and versions; vectors of others are not comparable."""
        return bool(self.encoder and self.versions)


def item_hashes(table: pa.Table) -> pa.Array:
    """The hash of each item of a table."""
    return pa.array([encoded_hash(item) for item in table_to_items(table)], pa.binary(32))


@dataclass(frozen=True)
class Earlier:
    """The result of an earlier embedding."""

    target: str
    home: str  # where its files are
    files: tuple[str, ...]

    def hashes(self, part: str) -> pa.ChunkedArray:
        """The hash of each item of a part."""
        columns = [_column(store.join(self.home, name)) for name in self.files if name.startswith(f"{part}/")]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.binary(32))

    def golden(self) -> Golden | None:
        """Its golden vectors."""
        text = store.read(store.join(self.home, GOLDEN))
        return None if text is None else parse_golden(text)


def _column(file: str) -> pa.ChunkedArray:
    with store.open_file(file) as opened, pq.ParquetFile(opened) as vectors:
        if "rows" not in vectors.schema_arrow.names:
            raise KeyError(f"{file} has no column of vectors")
        return vectors.read([CONTENT])[CONTENT]


def earlier_results(artefacts: str, identity: Identity, excluded: Collection[str] = ()) -> list[Earlier]:
    """The results in a storage whose vectors are those that `identity` would give again, up to rounding, by their names."""
    found = []
    for step in store.list_names(artefacts) if artefacts and identity.known else ():
        for key in store.list_names(store.join(artefacts, step)) if step.startswith(STEPS) else ():
            target = store.join(artefacts, step, key)
            with suppress(*UNREADABLE):
                manifest = None if target in excluded else store.read_manifest(target)
                if manifest is None:
                    continue
                home = store.files_of(target, manifest)
                description = json.loads(store.read(store.join(home, DESCRIPTION)) or b"{}")
                if asdict(identity).items() <= description.items():
                    found.append(Earlier(target, home, tuple(sorted(manifest.files))))
    return found


class _Vectors:
    """The vectors of a part of an earlier result that was fetched, and verified, by the place of the item in that part."""

    def __init__(self, target: str, folder: Path, part: str):
        self.target, self.files = target, part_files(folder, part)
        self.bounds = np.cumsum([0, *(pq.read_metadata(file).num_rows for file in self.files)])
        self._read = lru_cache(maxsize=2)(self._read_file)

    def _read_file(self, number: int) -> pa.ChunkedArray:
        try:
            return pq.read_table(self.files[number], columns=["rows"])["rows"]
        except UNREADABLE as error:
            raise Vanished(self.target) from error

    def take(self, places: Array) -> pa.ChunkedArray:
        """The vectors at the places, in their order."""
        numbers: Array = np.searchsorted(self.bounds, places, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        found = [
            self._read(int(number)).take(pa.array(places[order[numbers[order] == number]] - self.bounds[number]))
            for number in np.unique(numbers)
        ]
        return pa.chunked_array([chunk for rows in found for chunk in rows.chunks]).take(pa.array(np.argsort(order)))


class Reuse:
    """Which items of some parts have vectors already, and those vectors."""

    def __init__(self, found: list[Earlier], folders: Mapping[str, Path], see: Callable[[str, pa.Table, pa.Array], None]):
        """Hashes all items of the parts, each in its folder; every table is shown to `see` with its part and its hashes."""
        self.found = found
        self.items: dict[str, pa.Table] = {}
        self.origin: dict[str, Array] = {}
        self.place: dict[str, Array] = {}
        self.vectors: list[dict[str, _Vectors]] = []
        self.verified: Golden | None = None  # golden vectors of the first result of which some vectors are reused
        for part, folder in folders.items():
            tables = [SCHEMA.empty_table()]
            for table in part_tables(folder, part, ITEM_SCHEMA.names):
                hashes = item_hashes(table)
                see(part, table, hashes)
                tables.append(pa.table([table["id"], pa.array(modality_codes(table), pa.int8()), hashes], SCHEMA))
            self.items[part] = pa.concat_tables(tables).combine_chunks()
            rows = self.items[part].num_rows
            self.origin[part], self.place[part] = np.full(rows, ENCODE), np.zeros(rows, np.int64)
        for earlier in found:
            if any(self.missing(part).any() for part in folders):
                with suppress(*UNREADABLE):
                    self._match(earlier)

    def _match(self, earlier: Earlier) -> None:
        """Takes what an earlier result has of the items that are still missing."""
        matches: dict[str, tuple[Array, Array]] = {}
        for part, items in self.items.items():
            rows = np.flatnonzero(self.missing(part))
            wanted = items[CONTENT].combine_chunks().take(pa.array(rows))
            places = pc.index_in(wanted, value_set=earlier.hashes(part))
            have = places.is_valid().to_numpy(zero_copy_only=False)
            if have.any():
                matches[part] = rows[have], places.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        if not matches:
            return
        folder = store.fetch(earlier.target, store.cache_folder())
        golden = earlier.golden()
        self.vectors.append({part: _Vectors(earlier.target, folder, part) for part in matches})
        self.verified = self.verified or golden
        for part, (rows, places) in matches.items():
            self.origin[part][rows], self.place[part][rows] = len(self.vectors) - 1, places

    def missing(self, part: str) -> npt.NDArray[np.bool_]:
        """For each item of a part whether it has to be encoded."""
        missing: npt.NDArray[np.bool_] = self.origin[part] == ENCODE
        return missing

    def rows(self, part: str, start: int, stop: int) -> pa.Table:
        """Those of the items from `start` to `stop` that have vectors, with them."""
        chosen = start + np.flatnonzero(~self.missing(part)[start:stop])
        origins, order, found = self.origin[part][chosen], [np.empty(0, np.int64)], []
        for number in np.unique(origins):
            at = np.flatnonzero(origins == number)
            order.append(at)
            found += self.vectors[number][part].take(self.place[part][chosen[at]]).chunks
        items = self.items[part].take(pa.array(chosen))
        if not found:
            return items
        vectors = pa.chunked_array(found).take(pa.array(np.argsort(np.concatenate(order))))
        return items.append_column("rows", vectors)


def golden_vectors(results: Collection[Earlier]) -> GoldenVectors:
    """The vectors of the golden items of all results, by the hash of the item; of the first where several have one."""
    found: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for earlier in results:
        golden = None
        with suppress(*UNREADABLE):
            golden = earlier.golden()
        if golden is None:
            continue
        for item, vectors, queries in zip(golden.items, golden.vectors, golden.queries, strict=True):
            found.setdefault(encoded_hash(item), (vectors, queries))
    return found
