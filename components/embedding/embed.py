"""Embeds items by a pool of actors, each with the encoder loaded; finished shards survive a kill."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mirepoix.components.corpus.parts import part_files, part_rows
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.vectors import DESCRIPTION, rows_to_arrow
from mirepoix.components.ray_tasks import actor_pool, map_in_order
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import ITEM_SCHEMA, table_to_items
from mirepoix.serving import store

if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder

QUERIES = "queries"


class Encode:
    """An actor that encodes tables of items with the encoder of a folder."""

    def __init__(self, encoder: str, config: EmbedConfig):
        self.folder, self.config = encoder, config
        self._encoder: Encoder | None = None

    def open(self) -> "Encoder":
        """Loads the encoder, once. It is not done in the constructor, whose exceptions reach the caller as text alone."""
        # Imported here, in the actor: the process of the stage only deals out tables and needs no torch.
        import torch

        from mirepoix.models.encoder import load_encoder

        if self._encoder is None:
            torch.set_num_threads(self.config.threads)
            self._encoder = load_encoder(self.folder).to("cuda" if self.config.use_gpu else "cpu")
        return self._encoder

    def ready(self) -> None:
        self.open()

    def encode(self, table: pa.Table, role: Role) -> pa.Table:
        """The vectors of a table of items."""
        items = table_to_items(table)
        return pa.table(
            {
                "id": table["id"],
                "modality": pa.array([int(item.modality) for item in items], pa.int8()),
                "rows": rows_to_arrow(self.open().encode(items, self.config.batch_size, role=role).ragged()),
            }
        )


def work(context: Context, config: EmbedConfig, encoder: Path, curate: Path, pairs: Path) -> Outcome:
    """Encodes the curated corpus and the evaluation queries with one pool of actors."""
    files = {"corpus": part_files(curate, "corpus"), QUERIES: part_files(pairs, QUERIES)}
    counts = {"corpus": part_rows(curate, "corpus"), QUERIES: part_rows(pairs, QUERIES)}
    total, done, width = sum(counts.values()), 0, 0
    for part in files:
        (context.folder / part).mkdir()
    for shard in _shards(context, config, str(encoder), files, counts):
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


def _shards(context: Context, config: EmbedConfig, encoder: str, files: dict[str, list[str]], counts: dict[str, int]) -> Iterator[_Shard]:
    """All shards in order: first those that an earlier, killed attempt saved, then the others as they are encoded."""
    wanted = [
        _Shard(part, number, min(config.shard_rows, counts[part] - start))
        for part in files
        for number, start in enumerate(range(0, counts[part], config.shard_rows))
    ]
    skip = 0
    while wanted and (kept := store.read(_kept(context, wanted[0]))) is not None:
        shard = replace(wanted.pop(0), table=pq.read_table(pa.BufferReader(kept)))
        skip += shard.rows
        yield shard
    encoded = _encoded(config, encoder, files, skip)
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


def _kept(context: Context, shard: _Shard) -> str:
    return store.join(context.scratch, f"{shard.part}-{shard.number:05d}.parquet")


def _encoded(config: EmbedConfig, encoder: str, files: dict[str, list[str]], skip: int) -> Iterator[pa.Table]:
    """Vectors of all rows after the first `skip`, in order.

    The files are read here, in batches that do not depend on how a part was cut into files, and dealt out to the actors: the files of a
    fetched artefact lie on this node alone.
    """
    create: Any = ray.remote(Encode).options(num_cpus=1, num_gpus=1 if config.use_gpu else 0, max_restarts=3, max_task_retries=3)
    with actor_pool(create.remote(encoder, config) for _ in range(config.workers)) as actors:
        tables = _tables(files, skip, config.batch_size * 4)
        yield from map_in_order(
            actors, tables, lambda actor, each: actor.encode.remote(*each), lambda actor: actor.ready.options(max_task_retries=0).remote()
        )


def _tables(files: dict[str, list[str]], skip: int, rows: int) -> Iterator[tuple[pa.Table, Role]]:
    """The items after the first `skip`, in tables of so many rows of one part, each with the role of its part."""
    for part, own in files.items():
        role: Role = "query" if part == QUERIES else "document"
        pending = ITEM_SCHEMA.empty_table()
        for file in own:
            with pq.ParquetFile(file) as opened:
                if skip >= opened.metadata.num_rows:
                    skip -= opened.metadata.num_rows
                    continue
                for batch in opened.iter_batches(batch_size=rows, columns=ITEM_SCHEMA.names):
                    pending = pa.concat_tables([pending, pa.Table.from_batches([batch]).slice(skip)])
                    skip = max(0, skip - batch.num_rows)
                    while pending.num_rows >= rows:
                        yield pending.slice(0, rows).combine_chunks(), role
                        pending = pending.slice(rows)
        if pending.num_rows:
            yield pending.combine_chunks(), role
