"""Sources in any known format, opened by what users call them, and read in pieces side by side by Ray Data."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from types import ModuleType
from typing import Any

import pyarrow as pa
import ray

from mirepoix.components.corpus.parts import PARTS
from mirepoix.components.ingestion.formats import (
    beir,
    canonical,
    flagembedding,
    folder,
    hfimages,
    mbeir,
    mmeb,
    msswift,
    nlvr,
    sentencetransformers,
    tars,
    tevatron,
    unite,
    vid2r,
    webqa,
)
from mirepoix.components.ingestion.formats.fields import data_files, obstacle, unused
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Prompt, Query, RejectedRow, Row, Triple, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ray_tasks import one_task_per_row, stream_tables, worker_count
from mirepoix.models.errors import Refused
from mirepoix.models.item import content_hash, item_to_row

FORMATS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        canonical,
        beir,
        mbeir,
        mmeb,
        unite,
        flagembedding,
        msswift,
        tevatron,
        sentencetransformers,
        webqa,
        vid2r,
        tars,
        hfimages,
        folder,
        nlvr,
    )
}
PICTURES = r"(?i:.*\.(jpe?g|png|webp|gif|bmp|tiff?))"
ENTRY = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?:(?P<format>[a-z0-9-]+)\+)?(?P<path>.+)", re.S)
TABLE_ROWS, TABLE_BYTES = 1000, 8 << 20
SMALL = 64 << 20  # bytes that are read here: workers would take longer to start than to read them


@dataclass(frozen=True)
class Source:
    """One corpus that the user named: its files, and how they are read."""

    place: SourceFiles
    format: str

    @cached_property
    def shards(self) -> list[Shard]:
        return FORMATS[self.format].shards(self.place)

    @cached_property
    def files(self) -> list[str]:
        """The files that are read, without pictures that lie elsewhere."""
        return sorted({shard.file for shard in self.shards} | set(self.place.files(PICTURES)))

    @cached_property
    def elsewhere(self) -> SourceFiles | None:
        """Where the pictures lie, if not with the rest."""
        return SourceFiles(self.place.images) if self.place.images else None

    @property
    def size(self) -> int:
        """The bytes of all that is read."""
        beside = sum(self.elsewhere.sizes[file] for file in self.elsewhere.files(PICTURES)) if self.elsewhere else 0
        return sum(self.place.sizes[file] for file in self.files) + beside

    def fingerprint(self) -> str:
        """Names, sizes and times of the files that are read; of many files their hash."""
        told = [self.place.fingerprint(self.files)]
        if self.elsewhere:
            told.append(self.elsewhere.fingerprint(self.elsewhere.files(PICTURES)))
        infos = "; ".join(told)
        if len(infos) > 2000:
            infos = f"{len(self.files)} files, sha256 {hashlib.sha256(infos.encode()).hexdigest()}"
        return f"{self.format} {infos}"


def opened(paths: Sequence[str], default: str = "auto", images: str | None = None) -> list[Source]:
    """The sources that were named, each with its format; refused where one is not there or looks like nothing that is known."""
    found: list[Source] = []
    for entry in paths:
        name, form, path = _told(entry)
        if form is not None and form not in FORMATS:
            if "://" in path:  # the scheme of a URI may hold a plus sign
                form, path = None, f"{form}+{path}"
            else:
                raise Refused(f"format {form!r} of {entry!r} is unknown; give one of {', '.join(FORMATS)}, or none")
        place = SourceFiles(path, name or "", images)
        found.append(Source(place, form or (default if default != "auto" else _detected(place))))
    first: dict[str, str] = {}
    for source, entry in zip(found, paths, strict=True):
        if (name := source.place.name) in first:
            one, another = (told.removeprefix(f"{name}=") for told in (first[name], entry))
            raise Refused(f"two sources are called {name!r}; leave one out, or give them names: one={one} another={another}")
        first[name] = entry
    return found


def _told(entry: str) -> tuple[str | None, str | None, str]:
    """The name, format and path of an entry; what is there under the whole of it is a path."""
    if os.path.exists(os.path.expanduser(entry)):
        return None, None, entry
    told = ENTRY.fullmatch(entry)
    assert told is not None, entry
    return told["name"], told["format"], told["path"]


def _detected(place: SourceFiles) -> str:
    found = [name for name, module in FORMATS.items() if module.detect(place)]
    if not found:
        why = [f" ({place.source(file)}: {wrong})" for file in data_files(place, "json", "jsonl")[:4] if (wrong := obstacle(place, file))]
        raise Refused(
            f"{place.path!r} looks like none of the known formats{''.join(why)}; name one as FORMAT+PATH, of {', '.join(FORMATS)}"
        )
    if len(found) > 1:
        raise Refused(f"{place.path!r} may be {' or '.join(found)}; say which, as {found[0]}+{place.path}")
    return found[0]


_EXTRA = {
    "kind": pa.string(),
    "of": pa.string(),  # the name of the source that is read
    "content": pa.int64(),  # 64 bits of the item's
    "split": pa.string(),
    "task": pa.string(),
    "named": pa.bool_(),
    "answer": pa.string(),
    "evidence": pa.list_(pa.string()),
    "query_id": pa.string(),
    "item_id": pa.string(),
    "relevance": pa.int32(),
    "score": pa.float32(),
    "wording": pa.string(),
    "part": pa.string(),
    "reason": pa.string(),
    "detail": pa.string(),
}
READ_SCHEMA = pa.schema([field.with_nullable(True) for field in PARTS["corpus"]] + [pa.field(*field) for field in _EXTRA.items()])


class Read:
    """Reads pieces: the number of one in, tables of bounded size out."""

    def __init__(self, sources: Sequence[Source]):
        self.pieces = [(source.place, source.format, shard) for source in sources for shard in source.shards]
        self.prefixed = len(sources) > 1
        self.unused = [notice for source in sources for notice in unused(source.place, source.shards)]

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for number in table["piece"].to_pylist():
            yield from self.read(number)

    def read(self, number: int) -> Iterator[pa.Table]:
        place, form, shard = self.pieces[number]
        prefix = f"{place.name}/" if self.prefixed else ""
        rows, size = [], 0
        for row in chain(() if number else self.unused, _rows(place, form, shard)):
            rows.append(_flat(row, prefix) | {"of": place.name})
            size += 200 + sum(map(len, rows[-1].get("images") or ())) + sum(map(len, rows[-1].get("video") or ()))
            if len(rows) >= TABLE_ROWS or size >= TABLE_BYTES:
                yield pa.Table.from_pylist(rows, schema=READ_SCHEMA)
                rows, size = [], 0
        yield pa.Table.from_pylist(rows, schema=READ_SCHEMA)


def _rows(place: SourceFiles, form: str, shard: Shard) -> Iterator[Row]:
    """The rows of a piece as far as its file can be read, and a Fault for what is left of it."""
    try:
        yield from FORMATS[form].read(place, shard)
    except Unreadable as error:
        source = place.source(shard.file)
        yield RejectedRow("file", shard.file, "unreadable", str(error).removeprefix(f"{source} "), source, error.line)


def _flat(row: Row, prefix: str) -> dict[str, Any]:
    """A row of any kind as a row of `READ_SCHEMA`; ids of several sources are told apart by the source's name."""
    match row:
        case Candidate(item, named):
            flat = {"kind": "corpus", **item_to_row(item), "named": named}
        case Query(item, split, task, named):
            flat = {"kind": "queries", **item_to_row(item), "split": split, "task": task, "named": named}
        case Triple(item, split, answer, evidence):
            flat = {"kind": "triples", **item_to_row(item), "split": split, "answer": answer, "named": True}
            flat["evidence"] = [prefix + other for other in evidence]
        case Judgement(query, item, relevance, score, source, line):
            flat = {"kind": "qrels", "query_id": prefix + query, "item_id": prefix + item, "relevance": relevance}
            return flat | {"score": score, "source": source, "line": line}
        case Prompt(task, wording, source):
            return {"kind": "prompts", "task": task, "wording": wording, "source": prefix + source}
        case Notice(source, detail):
            return {"kind": "notices", "detail": detail, "source": source}
        case RejectedRow(part, id, reason, detail, source, line):
            return {"kind": "rejects", "part": part, "id": id, "reason": reason, "detail": detail, "source": source, "line": line}
    content = int.from_bytes(content_hash(item)[:8], "little", signed=True)
    return flat | {"id": prefix + flat["id"] if flat["id"] else "", "content": content}


def is_small(sources: Sequence[Source]) -> bool:
    """Whether the sources are read here, without workers."""
    return sum(source.size for source in sources) <= SMALL


def tables(sources: Sequence[Source], workers: int | None = None) -> Iterator[pa.Table]:
    """All rows of the sources in the order of their pieces, as tables of bounded size."""
    read = Read(sources)
    if is_small(sources):
        for number in range(len(read.pieces)):
            yield from read.read(number)
        return
    data = ray.data.DataContext.get_current()
    data.execution_options.preserve_order = True
    data.enable_progress_bars = False
    data.target_max_block_size = 2 * TABLE_BYTES
    pieces = one_task_per_row([{"piece": number} for number in range(len(read.pieces))])
    most = min(worker_count(workers), len(read.pieces))
    yield from stream_tables(pieces.map_batches(read, batch_format="pyarrow", batch_size=1, concurrency=most))
