"""Lines of columns, of which runs and judgements are made, read in blocks of bounded size.

A block whose columns all have one separator is parsed by pyarrow. Any other one is split line by line, which also finds the line that is
wrong: so a bad line is refused by its number, and costs nothing where there is none.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mirepoix.models.errors import Refused

BLOCK = 1 << 24
"""Bytes that are read at once; a line is shorter."""
GZIP, MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
ODD = (b"\r", b"\x0b", b"\x0c", b"\n\n")
"""What only the reading by lines understands: other ends of lines, other white space, empty lines."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a line are read: those of the query, of the document, and of a number."""

    what: str  # all of them in words, for refusals
    columns: int
    query: int
    document: int
    value: int
    kind: type[int] | type[float]


class Rows(NamedTuple):
    """The rows of a block, and the line of each in the file, from 1."""

    lines: np.ndarray
    queries: pa.Array
    documents: pa.Array
    values: np.ndarray


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file; of one that gzip made, what is in it."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.open(file) as unpacked:
                yield cast(BinaryIO, unpacked)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); give a file, plain or gzip's") from error


def first_columns(path: Path) -> list[bytes]:
    """The columns of the first line that has any; refused where there is none."""
    with open_bytes(path) as file:
        for _, block in _blocks(file, path):
            for line in block.split(b"\n"):
                if columns := line.split():
                    return columns
    raise Refused(f"{path} is empty; give a file with a line for each document")


def read_rows(path: Path, layout: Layout, header: bool = False) -> Iterator[Rows]:
    """The rows of a file, block by block; refused by file and line where one does not have the layout. A header is left out."""
    with open_bytes(path) as file:
        for line, block in _blocks(file, path):
            while header and block:
                cut = block.find(b"\n") + 1 or len(block)
                header, block, line = not block[:cut].strip(), block[cut:], line + 1
            rows = _parsed(block, line, layout) or _split(block, line, layout, path)
            if len(rows.lines):
                yield rows


def _blocks(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines of about so many bytes, with the number of the first of them."""
    line, rest = 1, b""
    while chunk := file.read(BLOCK):
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            rest += chunk
            if len(rest) > 2 * BLOCK:
                raise Refused(f"{path}:{line}: a line is longer than {BLOCK:,} bytes; give a text file of columns")
            continue
        block, rest = rest + chunk[:cut], chunk[cut:]
        block = block.removeprefix(MARK) if line == 1 else block
        yield line, block
        line += block.count(b"\n")
    if rest:
        yield line, rest.removeprefix(MARK) if line == 1 else rest


def _parsed(block: bytes, line: int, layout: Layout) -> Rows | None:
    """The rows of a block by pyarrow; None where a line may be wrong, or has several separators."""
    tab, space = b"\t" in block, b" " in block
    if tab == space or block.startswith(b"\n") or any(odd in block for odd in ODD):
        return None
    names = [str(number) for number in range(layout.columns)]
    wanted = [str(number) for number in (layout.query, layout.document, layout.value)]
    number = pa.int64() if layout.kind is int else pa.float64()
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter="\t" if tab else " ", quote_char=False),
            csv.ConvertOptions(
                column_types=dict(zip(wanted, (pa.string(), pa.string(), number), strict=True)), include_columns=wanted, null_values=[]
            ),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return None
    queries, documents, values = (column.chunk(0) if column.num_chunks else column.combine_chunks() for column in table.columns)
    numbers = values.to_numpy()
    empty = any(pc.min(pc.binary_length(ids)).as_py() == 0 for ids in (queries, documents))
    if empty or values.null_count or not np.isfinite(numbers).all():
        return None
    return Rows(np.arange(line, line + len(numbers)), queries, documents, numbers)


def _split(block: bytes, first: int, layout: Layout, path: Path) -> Rows:
    """The rows of a block by lines; refused at the first that does not have the layout."""
    lines, queries, documents, values = [], [], [], []
    for line, text in enumerate(block.split(b"\n"), first):
        columns = text.split()
        if not columns:
            continue
        if len(columns) != layout.columns:
            raise Refused(
                f"{path}:{line}: {counted(len(columns))}, and a line has {layout.columns}: {layout.what}; no id has white space in it"
            )
        given = columns[layout.value]
        try:
            value = layout.kind(given)
            query, document = columns[layout.query].decode(), columns[layout.document].decode()
        except UnicodeDecodeError:
            raise Refused(f"{path}:{line}: an id is not UTF-8; write the file in UTF-8") from None
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            wanted = "a whole number" if layout.kind is int else "a number"
            raise Refused(f"{path}:{line}: {given.decode(errors='replace')!r} stands where {wanted} belongs: {layout.what}")
        lines.append(line)
        queries.append(query)
        documents.append(document)
        values.append(value)
    kind = np.int64 if layout.kind is int else np.float64
    return Rows(np.array(lines, np.int64), pa.array(queries, pa.string()), pa.array(documents, pa.string()), np.array(values, kind))


def counted(columns: int) -> str:
    """A number of columns in words."""
    return f"{columns} column{'s' * (columns != 1)}"


def refuse_white_space(ids: list[str], what: str) -> None:
    """Refuses an id that a line of columns cannot hold."""
    for id in ids:
        if id.split() != [id]:
            raise Refused(f"the {what} id {id!r} {'has white space in it' if id else 'is empty'}, which separates columns; give other ids")
