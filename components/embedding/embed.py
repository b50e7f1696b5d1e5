"""Embeds items by a pool of Ray Data actors, each with the encoder loaded; finished shards survive a kill."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mirepoix.components.corpus.parts import part_files, part_rows
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.vectors import DESCRIPTION, rows_to_arrow
from mirepoix.components.ray_tasks import data_context
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.item import ITEM_SCHEMA, table_to_items
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving import store

QUERIES = "queries"
PATH = "path"  # the column in which Ray Data names the file of a row


class Encode:
    """An actor with the encoder loaded: a table of items in, their vectors out. The folder of an item's file decides its role."""

    def __init__(self, encoder: str, config: EmbedConfig):
        # Imported here, in the actor: the process of the stage only deals out tables and needs no torch.
        import torch

        from mirepoix.models.encoder import load_encoder

        torch.set_num_threads(config.threads)
        self.encoder = load_encoder(encoder).to("cuda" if config.use_gpu else "cpu")
        self.batch_size = config.batch_size

    def __call__(self, table: pa.Table) -> pa.Table:
        items = table_to_items(table)
        roles = ["query" if Path(path).parent.name == QUERIES else "document" for path in table[PATH].to_pylist()]
        runs = groupby(zip(roles, items, strict=True), itemgetter(0))
        encoded = [self.encoder.encode([item for _, item in run], self.batch_size, role=role).ragged() for role, run in runs]
        return pa.table(
            {
                "id": table["id"],
                "modality": pa.array([int(item.modality) for item in items], pa.int8()),
                "rows": rows_to_arrow(RaggedRows.cat(encoded)),
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
    encoded = _encoded(config, encoder, [file for own in files.values() for file in own], skip)
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


def _encoded(config: EmbedConfig, encoder: str, files: list[str], skip: int) -> Iterator[pa.Table]:
    """Vectors of all rows after the first `skip`, in order. A file that `skip` ends within is read here; Ray Data reads the others."""
    while files and skip >= (rows := pq.read_metadata(files[0]).num_rows):
        skip -= rows
        files = files[1:]
    if not files:
        return
    data_context()
    batch = config.batch_size * 4
    datasets: list[ray.data.Dataset] = []
    if skip:
        tail = pq.read_table(files[0], columns=ITEM_SCHEMA.names).slice(skip)
        tail = tail.append_column(PATH, pa.repeat(files[0], tail.num_rows))
        datasets.append(ray.data.from_arrow([tail.slice(start, batch) for start in range(0, tail.num_rows, batch)]))
        files = files[1:]
    if files:
        datasets.append(ray.data.read_parquet(files, include_paths=True).select_columns([*ITEM_SCHEMA.names, PATH]))
    for dataset in datasets:  # one after another: a union would interleave their blocks
        encoded = dataset.map_batches(
            Encode,
            fn_constructor_args=(encoder, config),
            batch_format="pyarrow",
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(size=config.workers),
            num_cpus=1,
            num_gpus=1 if config.use_gpu else 0,
        )
        yield from encoded.iter_batches(batch_format="pyarrow", batch_size=batch)
