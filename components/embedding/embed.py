"""Embeds items by a pool of actors, each with the encoder loaded; finished shards survive a kill."""

import json
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mirepoix.components.corpus.parts import GROUP_BYTES, modality_codes, part_rows, part_tables, row_sizes
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.vectors import DESCRIPTION, rows_to_arrow
from mirepoix.components.ray_tasks import actor_pool, map_in_order
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import ITEM_SCHEMA, table_to_items
from mirepoix.serving import store
from mirepoix.serving.golden import GOLDEN, Golden

if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder

QUERIES = "queries"
GOLDEN_ITEMS = 4
"""Items of each modality with golden vectors, by which a release is verified where it is opened."""
Opener = Callable[[str], "Encoder"]


def _open(folder: Path, device: str) -> "Encoder":
    from mirepoix.models.encoder import load_own_encoder

    return load_own_encoder(folder).to(device)


class EncoderActor:
    """An actor that encodes tables of items with an encoder that it opens itself, on the device that `opener` is given."""

    def __init__(self, opener: Opener, config: EmbedConfig):
        self.opener, self.config = opener, config
        self._encoder: Encoder | None = None

    def open(self) -> "Encoder":
        """The encoder, opened once. It is not done in the constructor, whose exceptions reach the caller as text alone."""
        # Imported here, in the actor: the process of the stage only sends tables and needs no torch.
        import torch

        if self._encoder is None:
            torch.set_num_threads(self.config.threads)
            self._encoder = self.opener("cuda" if self.config.use_gpu else "cpu")
        return self._encoder

    def ready(self) -> None:
        """Returns when the encoder is open."""
        self.open()

    def encode(self, table: pa.Table, role: Role, skip: int) -> pa.Table:
        """The vectors of a table's items after the first `skip`.

        These are encoded too, since vectors depend in the last bit on what is in their batch.
        """
        items = table_to_items(table)
        vectors = self.open().encode(items, self.config.batch_size, role=role).ragged()
        whole = {
            "id": table["id"],
            "modality": pa.array([int(item.modality) for item in items], pa.int8()),
            "rows": rows_to_arrow(vectors),
        }
        return pa.table(whole).slice(skip)

    def golden(self, table: pa.Table) -> Golden:
        """The golden vectors of a table's items."""
        return Golden.encode(self.open(), table_to_items(table), self.config.batch_size)


def work(context: Context, config: EmbedConfig, encoder: Path, curate: Path, pairs: Path, opener: Opener | None = None) -> Outcome:
    """Encodes the curated corpus and the evaluation queries with one pool of actors.

    The first items of each modality of the corpus are encoded again, as documents and as queries: the golden vectors of a release.
    `opener` opens the encoder of the folder on a device, where that is more than loading it: a release verifies it too.
    """
    folders = {"corpus": curate, QUERIES: pairs}
    counts = {part: part_rows(folder, part) for part, folder in folders.items()}
    total, done, width = sum(counts.values()), 0, 0
    for part in folders:
        (context.folder / part).mkdir()
    with closing(_shards(context, config, opener or partial(_open, encoder), folders, counts)) as shards:  # ends the actors, on errors too
        for shard in shards:
            assert shard.table is not None
            pq.write_table(shard.table, context.folder / shard.part / f"part-{shard.number:05d}.parquet")
            done += shard.table.num_rows
            width = shard.table["rows"].type.value_type.list_size
            context.report({"step": done, "total": total})
    manifest = store.read_manifest(encoder)
    description = {"width": width, "encoder": manifest.digest if manifest else ""}
    (context.folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
    return Outcome(Rows(read=total, written=done), {"items": done, "width": width})


@dataclass(frozen=True)
class _Shard:
    part: str
    number: int
    rows: int
    table: pa.Table | None = None


def _shards(
    context: Context, config: EmbedConfig, opener: Opener, folders: dict[str, Path], counts: dict[str, int]
) -> Generator[_Shard, None, None]:
    """All shards in order: first those that an earlier, killed attempt saved, then the others as they are encoded.

    At the end the golden vectors are written, unless the corpus is empty.
    """
    wanted = [
        _Shard(part, number, min(config.shard_rows, counts[part] - start))
        for part in folders
        for number, start in enumerate(range(0, counts[part], config.shard_rows))
    ]
    skip = 0
    while wanted and (kept := store.read(_kept(context, wanted[0]))) is not None:
        shard = replace(wanted.pop(0), table=pq.read_table(pa.BufferReader(kept)))
        skip += shard.rows
        yield shard
    if not wanted and not counts["corpus"]:
        return
    workers = config.workers if wanted else 1
    with closing(_encoded(replace(config, workers=workers), opener, folders, skip, context.folder / GOLDEN)) as encoded:
        pending: list[pa.Table] = []
        for shard in wanted:
            while sum(rows.num_rows for rows in pending) < shard.rows:
                pending.append(next(encoded))
            whole = pa.concat_tables(pending)
            pending = [whole.slice(shard.rows)]
            table = whole.slice(0, shard.rows)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            store.write(_kept(context, shard), sink.getvalue().to_pybytes())
            yield replace(shard, table=table)
        rest = next(encoded, None)  # encodes and writes the golden vectors
        assert rest is None, "more rows were encoded than the parts have"


def _kept(context: Context, shard: _Shard) -> str:
    return store.join(context.scratch, f"{shard.part}-{shard.number:05d}.parquet")


def _encoded(
    config: EmbedConfig, opener: Opener, folders: dict[str, Path], skip: int, golden_file: Path
) -> Generator[pa.Table, None, None]:
    """Vectors of all rows after the first `skip`, in order; after the last, the golden vectors of the corpus are written to `golden_file`.

    The parts are read here: the files of an artefact may lie on this node alone.
    """
    create: Any = ray.remote(EncoderActor).options(num_cpus=1, num_gpus=1 if config.use_gpu else 0, max_restarts=3, max_task_retries=3)
    chosen = _FirstItems(GOLDEN_ITEMS)
    with actor_pool(create.remote(opener, config) for _ in range(config.workers)) as actors:

        def ready(actor: Any) -> Any:
            return actor.ready.remote()

        tables = _tables(folders, skip, config.batch_size * 4, chosen)
        yield from map_in_order(actors, tables, lambda actor, each: actor.encode.remote(*each), ready)
        for golden in map_in_order(actors, chosen.tables(), lambda actor, table: actor.golden.remote(table), ready):
            golden.write(golden_file)


class _FirstItems:
    """The first items of each modality, so many of each."""

    def __init__(self, each: int):
        self.each = each
        self._found: dict[int, int] = defaultdict(int)  # by modality
        self._chosen: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Takes what the next items of a corpus have of those that are wanted."""
        codes_N = modality_codes(table)
        rows: list[int] = []
        for code in np.unique(codes_N).tolist():
            taken = np.flatnonzero(codes_N == code)[: self.each - self._found[code]]
            self._found[code] += len(taken)
            rows += taken.tolist()
        if rows:
            self._chosen.append(table.take(pa.array(sorted(rows), pa.int64())))

    def tables(self) -> list[pa.Table]:
        """The items in their order, as one table, or none if there are none."""
        return [pa.concat_tables(self._chosen).combine_chunks()] if self._chosen else []


def _tables(folders: dict[str, Path], skip: int, rows: int, chosen: _FirstItems) -> Iterator[tuple[pa.Table, Role, int]]:
    """Tables of items of one part, with their role, beginning with the table of the first item after `skip`, and its rows before that.

    All items of the corpus are shown to `chosen`.
    """
    first = 0
    for part, folder in folders.items():
        for table in _cut(part_tables(folder, part, ITEM_SCHEMA.names), rows):
            if part != QUERIES:
                chosen.add(table)
            if first + table.num_rows > skip:
                yield table, "query" if part == QUERIES else "document", max(0, skip - first)
            first += table.num_rows


def _cut(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows`, or of fewer where these have GROUP_BYTES; where they are cut depends on the rows alone."""
    pending: list[pa.Table] = []
    count = size = 0
    for table in tables:
        start = 0
        for end, row_size in enumerate(row_sizes(table), 1):
            count, size = count + 1, size + row_size
            if count == rows or size >= GROUP_BYTES:
                yield pa.concat_tables([*pending, table.slice(start, end - start)]).combine_chunks()
                pending, count, size, start = [], 0, 0, end
        if start < table.num_rows:
            pending.append(table.slice(start))
    if pending:
        yield pa.concat_tables(pending).combine_chunks()
