"""Opens sources by the paths that users give, detects their formats, and reads them in pieces: in this process, or by Ray Data if large."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from types import ModuleType
from typing import Any

import pyarrow as pa

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import PARTS
from mirepoix.components.ingestion.datasets import contents_of, datasets_of, refuse_incomplete, refuse_unknown_datasets
from mirepoix.components.ingestion.formats import (
    beir,
    canonical,
    flagembedding,
    folder,
    hfimages,
    m2kr,
    mbeir,
    mmeb,
    mmeb_v2,
    msswift,
    nlvr,
    okvqa,
    remuq,
    sentencetransformers,
    table,
    tars,
    tevatron,
    unite,
    vid2r,
    vidore,
    webqa,
)
from mirepoix.components.ingestion.formats.benchmark_files import DataSet
from mirepoix.components.ingestion.formats.fields import data_files, unused_files, why_no_columns
from mirepoix.components.ingestion.formats.rows import (
    Candidate,
    Judgement,
    Member,
    Notice,
    Prompt,
    Query,
    RejectedRow,
    Row,
    Triple,
    Unreadable,
)
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.sources_config import CAPTIONED, COLUMN, SPLIT
from mirepoix.components.ray_tasks import data_context, one_task_per_row, stream_tables, worker_count
from mirepoix.models.errors import Refused
from mirepoix.models.item import content_key, item_to_row
from mirepoix.models.picture_formats import PICTURE_ENDINGS

FORMAT_MODULES: dict[str, ModuleType] = {
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
        table,
        nlvr,
        okvqa,
        remuq,
        m2kr,
        vidore,
        mmeb_v2,
    )
}
PICTURES = rf"(?i:.*\.({'|'.join(PICTURE_ENDINGS)}))"
ENTRY = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?:(?P<format>[a-z0-9-]+)\+)?(?P<path>.+)", re.S)
TABLE_ROWS, TABLE_BYTES = 1000, 8 << 20


@dataclass(frozen=True)
class Source:
    """One corpus that the user gave: its files, and the format that reads them."""

    tree: SourceFiles
    format: str

    @cached_property
    def shards(self) -> list[Shard]:
        return FORMAT_MODULES[self.format].shards(self.tree)

    @cached_property
    def files(self) -> list[str]:
        """The files that are read, except pictures in another folder."""
        return sorted({shard.file for shard in self.shards} | set(self.tree.files(PICTURES)) | set(self.sidecars))

    @cached_property
    def sidecars(self) -> list[str]:
        """The files that are read with the pictures beside them."""
        module = FORMAT_MODULES[self.format]
        return module.sidecars(self.tree) if hasattr(module, "sidecars") else []

    @cached_property
    def elsewhere(self) -> SourceFiles | None:
        """The files of the other folder that pictures are in, if there is one."""
        return SourceFiles(self.tree.images) if self.tree.images else None

    @property
    def size(self) -> int:
        """The total size of the files that are read, in bytes."""
        beside = sum(self.elsewhere.sizes[file] for file in self.elsewhere.files(PICTURES)) if self.elsewhere else 0
        return sum(self.tree.sizes[file] for file in self.files) + beside

    @property
    def picture_bytes(self) -> int:
        """The size of the pictures that are files of their own, here or in the folder of pictures; 0 if only some may be read."""
        if self.tree.only_datasets or (self.tree.only_splits and not (self.named_splits or set()) <= {*self.tree.only_splits}):
            return 0
        trees = [self.tree, *([self.elsewhere] if self.elsewhere else [])]
        return sum(tree.sizes[file] for tree in trees for file in tree.files(PICTURES))

    @property
    def named_splits(self) -> set[str] | None:
        """The splits of its queries by their new names, also of those that are not read, where the format has them in the names of files.

        None where they are known once it is read.
        """
        named = getattr(FORMAT_MODULES[self.format], "named_splits", None)
        return None if named is None else {self.tree.splits.get(split, split) for split in named(self.tree)}

    @cached_property
    def datasets(self) -> list[DataSet] | None:
        """The data sets that are read; None where its format keeps none in files of their own."""
        return datasets_of(self.tree, FORMAT_MODULES[self.format])

    @property
    def contents(self) -> list[DataSet]:
        """The same, or the source as one data set where it is known what some of its items have."""
        return contents_of(self.tree, FORMAT_MODULES[self.format])

    @property
    def no_union(self) -> str | None:
        """What would have all candidates of its benchmark read; empty where they are, None where it does not rank them together."""
        ranked = getattr(FORMAT_MODULES[self.format], "no_union", None)
        return None if ranked is None else ranked(self.tree)

    @property
    def may_have_queries(self) -> bool:
        """False where captions are read together with their pictures and nothing else is a query."""
        together = self.tree.captions == "together" and self.format in CAPTIONED
        return not together or any(role == "query" for role, _ in self.tree.columns)

    def fingerprint(self) -> str:
        """The names, sizes and modification times of the files that are read; their hash if there are many."""
        listings = [self.tree.fingerprint(self.files)]
        if self.elsewhere:
            listings.append(self.elsewhere.fingerprint(self.elsewhere.files(PICTURES)))
        infos = "; ".join(listings)
        if len(infos) > 2000:
            infos = f"{len(self.files)} files, sha256 {hashlib.sha256(infos.encode()).hexdigest()}"
        return f"{self.format} {infos}"


def open_sources(
    paths: Sequence[str],
    default: str = "auto",
    images: str | None = None,
    columns: Sequence[str] = (),
    captions: str = "apart",
    splits: Sequence[str] = (),
    only_splits: Sequence[str] = (),
    uniir_texts: bool = False,
    only_datasets: Sequence[str] = (),
    measured: bool = False,
) -> list[Source]:
    """Opens the sources.

    Refuses a path that does not exist, whose format is not recognised, or whose name is given twice; columns for another format than table;
    captions that are to be read together where no source has any, UniIR's texts where none is M-BEIR; data sets that are to be read and
    that are not there; if the sources are to be `measured`, those that lack files for it; and splits that are to be read and of which no
    source has a file, where all name their splits in files.
    """
    found: list[Source] = []
    for entry in paths:
        name, form, path = _parse_entry(entry)
        if form is not None and form not in FORMAT_MODULES:
            if "://" in path:  # the scheme of a URI may hold a plus sign
                form, path = None, f"{form}+{path}"
            else:
                raise Refused(f"format {form!r} of {entry!r} is unknown; give one of {', '.join(FORMAT_MODULES)}, or none")
        tree = SourceFiles(path, name or "", images, captions=captions)
        tree.columns = _columns_of(tree.name, columns)
        tree.splits, tree.only_splits, tree.uniir_texts = _new_names(tree.name, splits), tuple(only_splits), uniir_texts
        tree.only_datasets = tuple(only_datasets)
        found.append(Source(tree, form or (default if default != "auto" else table.NAME if tree.columns else _detected(tree))))
    _refuse_names(found, paths)
    for source in found:
        if source.tree.columns and source.format != table.NAME:
            raise Refused(
                f"sources.columns names columns of source {source.tree.name!r}, which is read as {source.format}; they are for the format "
                f"{table.NAME}: leave them out, or write NAME:ROLE=COLUMN with the name of the source that has them"
            )
    if captions == "together" and not any(source.format in CAPTIONED for source in found):
        given = ", ".join(sorted({source.format for source in found}))
        raise Refused(f"sources.captions is together, which is for {', '.join(CAPTIONED)}, and the format is {given}; give apart")
    if uniir_texts and not any(source.format == mbeir.NAME for source in found):
        given = ", ".join(sorted({source.format for source in found}))
        raise Refused(f"sources.uniir_texts is for {mbeir.NAME}, and the format is {given}; give false")
    opened = [(source.tree, FORMAT_MODULES[source.format]) for source in found]
    refuse_unknown_datasets(opened, only_datasets)
    if measured:
        refuse_incomplete(opened)
    _refuse_splits(found, only_splits)
    return found


def _new_names(name: str, splits: Sequence[str]) -> dict[str, str]:
    """The new names of the splits of one source; an entry that names the source comes before one for all."""
    parts = [found for entry in splits if (found := SPLIT.fullmatch(entry))]
    return {found["old"]: found["new"] for of in (None, name) for found in parts if found["name"] == of}


def _refuse_splits(found: Sequence[Source], only_splits: Sequence[str]) -> None:
    """Refuses a split of which there is no file, where the splits of all sources are known before they are read."""
    there: set[str] = set()
    for source in found if only_splits else ():
        if (named := source.named_splits) is None:
            return
        there |= named
    if missing := [split for split in only_splits if split not in there]:
        raise Refused(no_such_split(missing[0], there))


def no_such_split(split: str, there: Iterable[str]) -> str:
    """Why a split that is to be read cannot be, and which ones there are."""
    gives = f"there are queries of {', '.join(sorted(there))}" if there else "there are no queries"
    return f"sources.only_splits names {split!r}, and no query is of it; {gives}, after sources.splits renamed them"


def _columns_of(name: str, columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The roles and columns of one source."""
    parts = [found for entry in columns if (found := COLUMN.fullmatch(entry))]
    return tuple((found["role"], found["column"].strip()) for found in parts if found["name"] in (None, name))


def _refuse_names(found: Sequence[Source], paths: Sequence[str]) -> None:
    """Refuses two sources of one name."""
    first: dict[str, str] = {}
    for source, entry in zip(found, paths, strict=True):
        if (name := source.tree.name) in first:
            one, another = (given.removeprefix(f"{name}=") for given in (first[name], entry))
            raise Refused(f"two sources are called {name!r}; leave one out, or give them names: one={one} another={another}")
        first[name] = entry


def _parse_entry(entry: str) -> tuple[str | None, str | None, str]:
    """The name, format and path of an entry NAME=FORMAT+PATH; an entry that is an existing path as a whole is only a path."""
    if os.path.exists(os.path.expanduser(entry)):
        return None, None, entry
    parts = ENTRY.fullmatch(entry)
    assert parts is not None, entry
    return parts["name"], parts["format"], parts["path"]


def _detected(tree: SourceFiles) -> str:
    if not tree.sizes:
        raise Refused(f"there is no file in {tree.path!r}; give a folder with a corpus")
    found = [name for name, module in FORMAT_MODULES.items() if module.detect(tree)]
    found = [name for name in found if not any(name in getattr(FORMAT_MODULES[other], "OVER", ()) for other in found)]
    if not found and folder.holds_pictures(tree):
        return folder.NAME
    if not found:
        why = [
            f" ({tree.source(file)}: {wrong})" for file in data_files(tree, "json", "jsonl")[:4] if (wrong := why_no_columns(tree, file))
        ]
        names = ", ".join(FORMAT_MODULES)
        alone = f"; {folder.NAME}+{tree.path} reads its pictures alone" if tree.files(PICTURES) else ""
        raise Refused(
            f"{tree.path!r} looks like none of the known formats{''.join(why)}; name one as FORMAT+PATH, of {names}{alone}; "
            f"mirepoix init {tree.path} proposes a config, for tables of any column names too"
        )
    if len(found) > 1:
        raise Refused(f"{tree.path!r} may be {' or '.join(found)}; name the format, as {found[0]}+{tree.path}")
    return found[0]


_EXTRA = {
    "kind": pa.string(),
    "of": pa.string(),  # the name of the source
    "content": pa.int64(),  # 64 bits of the item's content hash
    "split": pa.string(),
    "task": pa.string(),
    "dataset": pa.string(),
    "pool": pa.string(),
    "answers": pa.list_(pa.string()),
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


class PieceReader:
    """Reads pieces by their numbers as tables of bounded size; the callable of Ray Data's `map_batches`."""

    def __init__(self, sources: Sequence[Source]):
        self.pieces = [(source.tree, source.format, shard) for source in sources for shard in source.shards]
        self.prefixed = len(sources) > 1
        self.unused_files = [notice for source in sources for notice in unused_files(source.tree, source.files)]

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for number in table["piece"].to_pylist():
            yield from self.read(number)

    def read(self, number: int) -> Iterator[pa.Table]:
        tree, form, shard = self.pieces[number]
        prefix = f"{tree.name}/" if self.prefixed else ""
        rows, size = [], 0
        for row in chain(() if number else self.unused_files, _rows(tree, form, shard)):
            rows.append(_flat(row, prefix) | {"of": tree.name})
            size += 200 + sum(map(len, rows[-1].get("images") or ())) + sum(map(len, rows[-1].get("video") or ()))
            if len(rows) >= TABLE_ROWS or size >= TABLE_BYTES:
                yield pa.Table.from_pylist(rows, schema=READ_SCHEMA)
                rows, size = [], 0
        yield pa.Table.from_pylist(rows, schema=READ_SCHEMA)


def _rows(tree: SourceFiles, form: str, shard: Shard) -> Iterator[Row]:
    """The rows of a piece; a RejectedRow for the rest of its file if that becomes unreadable."""
    try:
        yield from FORMAT_MODULES[form].read(tree, shard)
    except Unreadable as error:
        source = tree.source(shard.file)
        yield RejectedRow("file", shard.file, "unreadable", str(error).removeprefix(f"{source} "), source, error.line)


def _flat(row: Row, prefix: str) -> dict[str, Any]:
    """A row of any kind as a row of `READ_SCHEMA`; with several sources, ids get the source's name as a prefix."""
    match row:
        case Candidate(item, named):
            flat = {"kind": "corpus", **item_to_row(item), "named": named}
        case Query(item, split, task, named, dataset, pool, answers):
            flat = {"kind": "queries", **item_to_row(item), "split": split, "task": task, "named": named}
            flat |= {"dataset": dataset or None, "pool": prefix + pool if pool else None, "answers": list(answers) or None}
        case Member(pool, item):
            return {"kind": "pools", "pool": prefix + pool, "item_id": prefix + item}
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
    return flat | {"id": prefix + flat["id"] if flat["id"] else "", "content": content_key(item)}


def is_small(sources: Sequence[Source]) -> bool:
    """Whether the sources are read in this process, without Ray."""
    return ray_tasks.is_small(size=sum(source.size for source in sources))


def tables(sources: Sequence[Source], workers: int | None = None) -> Iterator[pa.Table]:
    """All rows of the sources in the order of their pieces, as tables of bounded size."""
    read = PieceReader(sources)
    if is_small(sources):
        for number in range(len(read.pieces)):
            yield from read.read(number)
        return
    data_context().target_max_block_size = 2 * TABLE_BYTES
    pieces = one_task_per_row([{"piece": number} for number in range(len(read.pieces))])
    most = min(worker_count(workers), len(read.pieces))
    yield from stream_tables(pieces.map_batches(read, batch_format="pyarrow", batch_size=1, concurrency=most))
