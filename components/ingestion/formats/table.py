"""Tables of any column names: CSV, TSV, JSON lines, Parquet; `sources.columns` names what each column holds.

    picture=COLUMN    the path of a picture, relative to the table's own folder, else to the source (listed_pictures.found_path); in Parquet
                      also its bytes, or an object of bytes and path
    text=COLUMN       a text; several columns are joined, a line each; a list in a cell is several captions where it is the only text
    query=COLUMN      a query that the picture and the text of the row answer; a list is several queries
    id=COLUMN         the id of the row's candidate; white space in it becomes "_"
    split=COLUMN      the split of the row's queries; else that of the file's name

With a query column, the picture and the text of a row are one candidate. Equal queries of a split are one query with several answers, equal
candidates are one candidate, and a row without a query is only a candidate. Without a query column, a picture with a text gives what a
captioned picture gives (captions.py), or one candidate of both where `sources.captions` is together; a text without a picture is a
candidate.

The id of a candidate that is a whole row is that of its id column; without one, of a picture `<path>.image`, and of any other row a hash of
its content. Where picture and caption are apart, the picture is `<id>.image`.

Every table that has all named columns is read; one that has some of them is refused, and one that has none is named in a notice. Pictures
in the folder that no row names are candidates alone. For that, the column of pictures is read once when the source is opened.
"""

import hashlib
import math
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from mirepoix.components.ingestion.formats import delimited, listed_pictures
from mirepoix.components.ingestion.formats.captions import Captioned, texts_of
from mirepoix.components.ingestion.formats.fields import FIRST, data_files, pieces, records
from mirepoix.components.ingestion.formats.listed_pictures import Joined, found_path, key_of, picture_names
from mirepoix.components.ingestion.formats.rows import (
    Judgement,
    Notice,
    Query,
    Row,
    RowError,
    Unreadable,
    rowwise,
    split_named,
    unnamed_candidate,
    unread_columns,
)
from mirepoix.components.ingestion.formats.sidecars import sidecars as files_beside
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "table"
ENDINGS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
SHOWN = 4  # tables of which a refusal names the columns


@dataclass(frozen=True)
class Roles:
    """The columns of a source by what they hold."""

    picture: str = ""
    texts: tuple[str, ...] = ()
    query: str = ""
    id: str = ""
    split: str = ""

    @classmethod
    def of(cls, columns: Iterable[tuple[str, str]]) -> "Roles":
        texts = tuple(column for role, column in columns if role == "text")
        return cls(texts=texts, **{role: column for role, column in columns if role != "text"})

    @property
    def columns(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys(filter(None, (self.picture, *self.texts, self.query, self.id, self.split))))


@dataclass(frozen=True, slots=True)
class Cells:
    """What a row holds, by role."""

    texts: tuple[str, ...]  # several captions, or one text that is joined of several columns
    queries: tuple[str, ...]
    id: str
    split: str
    path: str = ""  # of the picture, in the source
    picture: bytes = b""  # where the row has its bytes

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def detect(tree: SourceFiles) -> bool:
    """Whether the user named columns of this source: any table may be anything."""
    return bool(tree.columns)


def columns_of(tree: SourceFiles, file: str) -> list[str]:
    """The columns of a table; of JSON lines, the keys of all objects among the first lines; none where there is no row."""
    if is_ending(file, ".parquet"):
        return list(tree.schema(file).names)
    if is_ending(file, *delimited.ENDINGS):
        return list(delimited.recognise(tree, file).header)
    first = islice(tree.records(Shard(file)), FIRST)
    try:
        return list(dict.fromkeys(key for _, row in first if isinstance(row, dict) for key in row))
    except Unreadable:  # JSON of another form
        return []


def tables(tree: SourceFiles) -> list[str]:
    """The tables that have all named columns; refuses the source if there is none, or if a table has only some of them."""
    beside = set(files_beside(tree))
    files = [file for file in data_files(tree, *ENDINGS) if file not in beside]
    wanted = Roles.of(tree.columns).columns
    if not files:
        raise Refused(f"there is no table in {tree.path!r}; the format {NAME} reads files of {', '.join(f'.{name}' for name in ENDINGS)}")
    found = {file: columns_of(tree, file) for file in files}
    shown = "; ".join(f"{tree.source(file)} has {', '.join(names) or 'none'}" for file, names in [*found.items()][:SHOWN])
    if not wanted:
        raise Refused(
            f"the format {NAME} needs the names of columns, as sources.columns=picture=COLUMN,text=COLUMN; {shown}; "
            f"mirepoix init {tree.path} proposes them"
        )
    if not any(set(wanted) & set(names) for names in found.values()):
        raise Refused(f"sources.columns names {', '.join(wanted)}, and no table has a column of that name: {shown}")
    for file, names in found.items():
        if names and (missing := [column for column in wanted if column not in names]) and len(missing) < len(wanted):
            raise Refused(
                f"{tree.source(file)} has no column {', '.join(missing)}, which sources.columns names; it has {', '.join(names)}; name "
                "other columns, or give this table, or the others, as a source of its own"
            )
    return [file for file, names in found.items() if set(wanted) <= set(names)]


def shards(tree: SourceFiles) -> list[Shard]:
    roles, files = Roles.of(tree.columns), tables(tree)
    if not roles.picture and not roles.texts:
        raise Refused("sources.columns names neither a picture nor a text; a row needs one of them: picture=COLUMN, text=COLUMN, or both")
    texts = [file for file in files if is_ending(file, *delimited.ENDINGS)]
    rows = [Shard(file) for file in texts] + pieces(
        tree, [file for file in files if file not in texts]
    )  # CSV has line breaks within its cells
    joined, named = _named(tree, roles, files)
    return [*rows, *(listed_pictures.pieces(tree, joined, named) if roles.picture else [])]


def _is_joined(tree: SourceFiles, roles: Roles, file: str) -> bool:
    """Whether all texts of a table about one picture are joined with it: not where rows have ids, or the bytes of pictures."""
    if tree.captions != "together" or roles.query or roles.id or not roles.picture or not roles.texts:
        return False
    return not is_ending(file, ".parquet") or _is_text(tree.schema(file).field(roles.picture).type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _named(tree: SourceFiles, roles: Roles, files: Iterable[str]) -> tuple[dict[str, Joined], set[str]]:
    """The texts of the pictures that rows name, if they are to be joined; and the paths of all other pictures that rows name."""
    joined: dict[str, Joined] = {}
    named: set[str] = set()
    for file in files if roles.picture else ():
        is_joined = _is_joined(tree, roles, file)
        if not is_joined and not picture_names(tree):
            continue
        reading = roles if is_joined else Roles(picture=roles.picture)
        with suppress(Unreadable):  # its rows report it
            for number, row in _records(tree, Shard(file), reading, paths_only=True):
                with suppress(RowError):
                    if isinstance(row, RowError):
                        continue
                    cells = _cells(tree, file, row, reading)
                    if is_joined and cells.path and cells.text:
                        joined.setdefault(cells.path, Joined(file, number)).captions.extend(cells.texts)
                    elif cells.path:
                        named.add(cells.path)
    return joined, named - joined.keys()


def _records(tree: SourceFiles, shard: Shard, roles: Roles, paths_only: bool = False) -> Iterator[tuple[int, Any]]:
    """The rows of a piece as dicts, with their numbers; of pictures in Parquet only the paths, where they are asked for alone."""
    if is_ending(shard.file, *delimited.ENDINGS):
        yield from delimited.records(tree, shard.file, delimited.recognise(tree, shard.file))
        return
    if not is_ending(shard.file, ".parquet"):
        yield from tree.records(shard)
        return
    columns = roles.columns
    if paths_only:
        kind = tree.schema(shard.file).field(roles.picture).type
        if pa.types.is_struct(kind):
            columns = [f"{roles.picture}.path" if name == roles.picture and kind.get_field_index("path") >= 0 else name for name in columns]
        elif not _is_text(kind):
            return
    yield from records(tree, shard, columns, rows=64)


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    if shard.part:
        return listed_pictures.read(tree, shard)
    return _rows(tree, shard, Roles.of(tree.columns))


def _rows(tree: SourceFiles, shard: Shard, roles: Roles) -> Iterator[Row]:
    source, split, is_joined = tree.source(shard.file), tree.split(shard.file), _is_joined(tree, roles, shard.file)

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        cells = _cells(tree, shard.file, row, roles)
        if is_joined and cells.path and cells.text:
            return  # in the pieces of pictures
        picture = cells.picture or (tree.picture(cells.path) if cells.path else b"")
        if not picture and not cells.text:
            columns = ", ".join(filter(None, (roles.picture, *roles.texts)))
            raise RowError("empty side", f"the row has neither a picture nor a text under {columns}")
        split_here = cells.split or split
        if picture and not roles.query and tree.captions == "apart":
            key = cells.id or (key_of(cells.path) if cells.path else key_of(f"{shard.file}:{line}"))
            entry = Captioned(key, picture, cells.texts)
            yield replace(entry.candidate(source, line), named=False)
            yield from entry.pairs(split_here, source, line)
            return
        candidate = unnamed_candidate(cells.text, (picture,) if picture else (), source=source, line=line)
        if cells.id or (cells.path and not cells.text):
            candidate = replace(candidate, item=replace(candidate.item, id=cells.id or f"{key_of(cells.path)}.image"))
        yield candidate
        for text in cells.queries:
            name = "q-" + hashlib.sha256(f"{split_here}\n{text}".encode(errors="surrogatepass")).hexdigest()[:32]
            yield Query(Item(name, text, source=source, line=line), split_here, named=False)
            yield Judgement(name, candidate.item.id, source=source, line=line)

    if not shard.start:
        yield from _notices(tree, shard.file, roles)
    yield from rowwise("corpus", source, _records(tree, shard, roles), parse)


def _notices(tree: SourceFiles, file: str, roles: Roles) -> Iterator[Notice]:
    """The columns that are not read, and the encoding if it is not UTF-8."""
    source = tree.source(file)
    with suppress(Unreadable):  # the rows report it
        if unread := [name for name in columns_of(tree, file) if name and name not in roles.columns]:
            yield unread_columns(source, unread)
        if is_ending(file, *delimited.ENDINGS) and (notice := delimited.recognise(tree, file).notice):
            yield Notice(source, notice)


def _cells(tree: SourceFiles, file: str, row: dict[str, Any], roles: Roles) -> Cells:
    """What a row holds; RowError if a cell is of the wrong kind."""
    found = [_texts(row.get(column)) for column in roles.texts]
    texts = found[0] if len(found) == 1 else tuple(filter(None, ["\n".join(text for texts in found for text in texts)]))
    id = "" if not roles.id else re.sub(r"\s+", "_", " ".join(_texts(row.get(roles.id))))
    split = "" if not roles.split else split_named(" ".join(_texts(row.get(roles.split))))
    cells = Cells(texts, () if not roles.query else _texts(row.get(roles.query)), id, split)
    cell = row.get(roles.picture) if roles.picture else None
    if isinstance(cell, list):
        if len(cell) > 1:
            raise RowError("bad row", f"{roles.picture} has {len(cell)} pictures, and a row has one")
        cell = cell[0] if cell else None
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return replace(cells, picture=cell)
    if isinstance(cell, str) and cell.strip():
        return replace(cells, path=found_path(tree, posixpath.dirname(file), cell.strip()))
    if cell:
        raise RowError("bad row", f"{roles.picture} is a {type(cell).__name__}, and no path or bytes of a picture")
    return cells


def _texts(cell: Any) -> tuple[str, ...]:
    """The texts of a cell, without white space around them: one, or those of a list; numbers are written out."""
    found: list[str] = []
    for value in cell if isinstance(cell, list) else [cell]:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = None if math.isnan(value) else str(value)
        found += (text.strip() for text in texts_of(value))
    return tuple(found)
