"""Embeds items by a pool of actors, each with the encoder loaded; finished shards survive a kill.

Items of which the storage has vectors already are not encoded (`reuse`); where that is all of them, no actor is started.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mirepoix.components.corpus.parts import GROUP_BYTES, part_rows, part_tables, row_sizes
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.golden_choice import GoldenChoice
from mirepoix.components.embedding.reuse import Identity, Reuse, Vanished, earlier_results, golden_vectors, item_hashes
from mirepoix.components.embedding.vectors import CONTENT, DESCRIPTION, rows_to_arrow
from mirepoix.components.ray_tasks import actor_pool, map_in_order
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import ITEM_SCHEMA, table_to_items
from mirepoix.models.token_batches import Padding
from mirepoix.serving import store
from mirepoix.serving.engine.freeing import keep_freed_memory
from mirepoix.serving.golden import GOLDEN, Golden

if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder

QUERIES = "queries"
WINDOW = 16
"""How many times `batch_size` items are sorted by length together. Of texts whose lengths are spread as exp(normal(4.2, 0.9)), in batches
of at most 64 items and 16384 tokens, 13 % is padding so; of 4 times as many items it is 34 %, and without a budget of tokens 59 %."""
Opener = Callable[[str], "Encoder"]


def _open(folder: Path, device: str) -> "Encoder":
    from mirepoix.models.encoder import load_own_encoder

    return load_own_encoder(folder).to(device)


class EncoderActor:
    """An actor that encodes tables of items with an encoder that it opens itself, on the device that `opener` is given.

    With `verified`, the encoder is refused unless it reproduces these golden vectors.
    """

    def __init__(self, opener: Opener, config: EmbedConfig, verified: Golden | None = None):
        self.opener, self.config, self.verified = opener, config, verified
        self._encoder: Encoder | None = None

    def open(self) -> "Encoder":
        """The encoder, opened once. It is not done in the constructor, whose exceptions reach the caller as text alone."""
        # Imported here, in the actor: the process of the stage only sends tables and needs no torch.
        import torch

        if self._encoder is None:
            torch.set_num_threads(self.config.threads)
            keep_freed_memory()
            encoder = self.opener("cuda" if self.config.use_gpu else "cpu")
            if self.verified is not None:
                self.verified.verify(encoder, "the vectors that would be reused (embed.reuse=false encodes all items)")
            self._encoder = encoder
        return self._encoder

    def ready(self) -> None:
        """Returns when the encoder is open."""
        self.open()

    def encode(self, table: pa.Table, role: Role, skip: int) -> tuple[pa.Table, Padding]:
        """The vectors of a table's items after the first `skip`, and the padding of all.

        The first are encoded too, since vectors depend in the last bit on what is in their batch.
        """
        items, padding, config = table_to_items(table), Padding(), self.config
        encoded = self.open().encode(items, config.batch_size, role=role, batch_tokens=config.batch_tokens, padding=padding)
        vectors = encoded.ragged()
        whole = {
            "id": table["id"],
            "modality": pa.array([int(item.modality) for item in items], pa.int8()),
            CONTENT: item_hashes(table),
            "rows": rows_to_arrow(vectors),
        }
        return pa.table(whole).slice(skip), padding

    def golden(self, table: pa.Table) -> Golden:
        """The golden vectors of a table's items."""
        return Golden.encode(self.open(), table_to_items(table), self.config.batch_size)


def work(
    context: Context, config: EmbedConfig, encoder: Path, curate: Path, pairs: Path, opener: Opener | None = None, versions: str = ""
) -> Outcome:
    """Encodes the curated corpus and the evaluation queries with one pool of actors.

    The first items of each modality of the corpus are encoded again, as documents and as queries: the golden vectors of a release.
    `opener` opens the encoder of the folder on a device, where that is more than loading it: a release verifies it too. `versions` names
    the code and the libraries that run the encoder; without it, nothing is reused.
    """
    manifest = store.read_manifest(encoder)
    identity = Identity(manifest.digest if manifest else "", versions, config.use_gpu)
    return embed(context, config, identity, {"corpus": curate, QUERIES: pairs}, opener or partial(_open, encoder))


def embed(
    context: Context,
    config: EmbedConfig,
    identity: Identity,
    folders: Mapping[str, Path],
    opener: Opener,
    golden: GoldenChoice | None = None,
) -> Outcome:
    """Encodes the parts in the folders, those of which the storage has no vectors, into the folder of the context.

    `golden` says which items have golden vectors, if not the first of the corpus.
    """
    for part in folders:
        (context.folder / part).mkdir()
    gone: set[str] = set()
    while True:
        try:
            embedding = _Embedding(context, config, identity, folders, opener, gone, golden or GoldenChoice())
            counts, width = _written(embedding)
            break
        except Vanished as vanished:  # the shards so far are kept, and what it had is encoded, or taken from another result
            gone.add(str(vanished))
    description = {"width": width, **asdict(identity)}
    (context.folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
    total = sum(counts.values())
    metrics = {name: counts[name] for name in ("encoded", "reused", "resumed")}
    padding = round(embedding.padding.share, 4)
    return Outcome(Rows(read=total, written=total), {"items": total, "width": width, **metrics, "padding": padding})


def _written(embedding: "_Embedding") -> tuple[Counter[str], int]:
    """Writes all shards; returns the counts of items by how they came by their vectors, and the width of these."""
    folder, total, width = embedding.context.folder, sum(embedding.counts.values()), 0
    counts: Counter[str] = Counter()
    with closing(embedding.shards()) as shards:  # ends the actors, on errors too
        for shard in shards:
            assert shard.table is not None
            pq.write_table(shard.table, folder / shard.part / f"part-{shard.number:05d}.parquet")
            counts["reused"] += shard.reused
            counts["resumed" if shard.resumed else "encoded"] += shard.rows - shard.reused
            width = shard.table["rows"].type.value_type.list_size
            embedding.context.report({"step": sum(counts.values()), "total": total})
    return counts, width


@dataclass(frozen=True)
class _Shard:
    part: str
    number: int
    first: int  # row of the part
    rows: int
    table: pa.Table | None = None
    reused: int = 0
    resumed: bool = False  # an earlier attempt at this stage made it


@dataclass
class _Embedding:
    """One attempt to embed some parts."""

    context: Context
    config: EmbedConfig
    identity: Identity
    folders: Mapping[str, Path]
    opener: Opener
    gone: set[str]  # earlier results that cannot be read
    golden: GoldenChoice
    padding: Padding = field(default_factory=Padding)  # of what is encoded
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {part: part_rows(folder, part) for part, folder in self.folders.items()}

    def shards(self) -> Generator[_Shard, None, None]:
        """All shards in order: first those that an earlier, killed attempt saved, then the others as they are made.

        At the end the golden vectors are written, unless the corpus is empty. A kept shard is whole whatever it was made of, so it stays
        valid where another attempt finds other vectors to reuse.
        """
        wanted = [
            _Shard(part, number, start, min(self.config.shard_rows, self.counts[part] - start))
            for part in self.folders
            for number, start in enumerate(range(0, self.counts[part], self.config.shard_rows))
        ]
        skip = 0
        while wanted and (kept := store.read(_kept(self.context, self.config, wanted[0]))) is not None:
            shard = replace(wanted.pop(0), table=pq.read_table(pa.BufferReader(kept)), resumed=True)
            skip += shard.rows
            yield shard
        if not wanted and self.golden.of_corpus and not self.counts["corpus"]:
            return
        golden, reuse = self.golden, self._reuse()
        to_encode = sum(shard.rows for shard in wanted) if reuse is None else sum(_missing(reuse, shard) for shard in wanted)
        known = golden.known(opens=to_encode > 0)
        if known is not None:
            known.write(self.context.folder / GOLDEN)
        workers = self.config.workers if to_encode else 1
        config, folder = replace(self.config, workers=workers), self.context.folder
        made = _encoded(config, self.opener, self.folders, skip, golden, folder, reuse, self.padding)
        with closing(made if to_encode or known is None else _none()) as encoded:
            pending: list[pa.Table] = []
            for shard in wanted:
                missing = shard.rows if reuse is None else _missing(reuse, shard)
                while sum(rows.num_rows for rows in pending) < missing:
                    pending.append(next(encoded))
                table = None
                if pending:
                    whole = pa.concat_tables(pending)
                    pending, table = [whole.slice(missing)], whole.slice(0, missing)
                if reuse is not None and missing < shard.rows:
                    table = _merged(table, reuse, shard)
                assert table is not None
                sink = pa.BufferOutputStream()
                pq.write_table(table, sink)
                store.write(_kept(self.context, self.config, shard), sink.getvalue().to_pybytes())
                yield replace(shard, table=table, reused=shard.rows - missing)
            rest = next(encoded, None)  # encodes and writes the golden vectors, unless they are known
            assert rest is None, "more rows were encoded than the parts have"

    def _reuse(self) -> Reuse | None:
        """What the storage has of the parts; None where it has no results to look into, so that no item is read twice."""
        if not self.config.reuse:
            return None
        found = earlier_results(self.context.artefacts, self.identity, self.gone)
        if not found:
            return None
        self.golden.begin(golden_vectors(found))

        def see(part: str, table: pa.Table, hashes: pa.Array) -> None:
            if part != QUERIES:
                self.golden.see(table, hashes)

        return Reuse(found, self.folders, see)


def _missing(reuse: Reuse, shard: _Shard) -> int:
    """How many items of a shard have to be encoded."""
    return int(reuse.missing(shard.part)[shard.first : shard.first + shard.rows].sum())


def _merged(encoded: pa.Table | None, reuse: Reuse, shard: _Shard) -> pa.Table:
    """The items of a shard in their order, of those that were encoded and those whose vectors are reused."""
    stop = shard.first + shard.rows
    missing = reuse.missing(shard.part)[shard.first : stop]
    reused = reuse.rows(shard.part, shard.first, stop)
    if encoded is None or not encoded.num_rows:
        return reused
    order = np.concatenate([np.flatnonzero(missing), np.flatnonzero(~missing)])
    return pa.concat_tables([encoded.cast(reused.schema), reused]).take(pa.array(np.argsort(order)))


def _kept(context: Context, config: EmbedConfig, shard: _Shard) -> str:
    """Where a finished shard is kept.

    Attempts on the other kind of device keep theirs apart, as a result is said to be of one, and so do those that encode all items.
    """
    device, all_encoded = "-gpu" if config.use_gpu else "", "" if config.reuse else "-encoded"
    return store.join(context.scratch, f"{shard.part}-{shard.number:05d}{device}{all_encoded}.parquet")


def _none() -> Generator[pa.Table, None, None]:
    yield from ()


def _encoded(
    config: EmbedConfig,
    opener: Opener,
    folders: Mapping[str, Path],
    skip: int,
    golden: GoldenChoice,
    folder: Path,
    reuse: Reuse | None,
    padding: Padding,
) -> Generator[pa.Table, None, None]:
    """Vectors of all rows after the first `skip` that are not reused, in order, whose padding is added to `padding`; after the last, the
    golden vectors of the corpus are written into `folder`, unless they are there.

    The parts are read here: the files of an artefact may lie on this node alone.
    """
    create: Any = ray.remote(EncoderActor).options(num_cpus=1, num_gpus=1 if config.use_gpu else 0, max_restarts=3, max_task_retries=3)
    missing = None
    if reuse is not None:
        missing = {part: reuse.missing(part) for part in folders}
        skip = int(np.concatenate([*missing.values()])[:skip].sum())
    verified = reuse.verified if reuse is not None else None
    with actor_pool(create.remote(opener, config, verified) for _ in range(config.workers)) as actors:

        def ready(actor: Any) -> Any:
            return actor.ready.remote()

        tables = _tables(folders, skip, config.batch_size * WINDOW, golden.add if reuse is None else None, missing)
        for vectors, padded in map_in_order(actors, tables, lambda actor, each: actor.encode.remote(*each), ready):
            padding += padded
            yield vectors
        if not (folder / GOLDEN).is_file():
            for made in map_in_order(actors, golden.to_encode(), lambda actor, table: actor.golden.remote(table), ready):
                golden.whole(made).write(folder / GOLDEN)


def _tables(
    folders: Mapping[str, Path], skip: int, rows: int, see: Callable[[pa.Table], None] | None, missing: Mapping[str, np.ndarray] | None
) -> Iterator[tuple[pa.Table, Role, int]]:
    """Tables of items of one part, with their role, beginning with the table of the first item after `skip`, and its rows before that.

    Only the items that are missing, of all if it is not given. All of them that are of the corpus are shown to `see`.
    """
    first = 0
    for part, folder in folders.items():
        wanted = None if missing is None else missing[part]
        for table in _cut(part_tables(folder, part, ITEM_SCHEMA.names, chosen=wanted), rows):
            if part != QUERIES and see is not None:
                see(table)
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
