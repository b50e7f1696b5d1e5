"""What readers of published benchmarks have in common: data sets, files that must be there, ids, pictures, members of pools."""

import base64
import binascii
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from mirepoix.components.ingestion.formats.fields import picture, records
from mirepoix.components.ingestion.formats.rows import Candidate, Member, Row, RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

FIRST = 20
"""Rows of a file, and of the pictures that they name, that are looked at to see whether pictures are there."""
SHOWN = 6
"""Most names in a list of them."""
PICTURED = Modality.TEXT | Modality.IMAGE
UNPACKED = "unpack it there, or give sources.images=FOLDER"


class DataSet(NamedTuple):
    """A data set that a source has files of, whether they are read or not."""

    name: str  # by which it is chosen, and listed
    dataset: str  # by which results are reported, as `Query.dataset`
    also: tuple[str, ...] = ()  # other names by which it is chosen, such as that of its group
    task: str = ""  # of all its queries; empty: not known, or several
    modality: Modality = Modality.NONE  # what some of its items have, as far as it is known

    @property
    def names(self) -> tuple[str, ...]:
        """All names by which it is chosen."""
        return self.name, self.dataset, *self.also


class Missing(NamedTuple):
    """Files that a benchmark needs and its source lacks."""

    what: str
    origin: str  # where they come from
    cure: str = "put it there"


def refuse_missing(tree: SourceFiles, name: str, missing: Sequence[Missing]) -> None:
    """Refuses a source that lacks files, with a line for each."""
    if missing:
        raise Refused("\n".join(line_of(tree, name, each) for each in missing))


def line_of(tree: SourceFiles, name: str, missing: Missing) -> str:
    """What is missing of a format, where it comes from, and what to do, in one line."""
    return f"{tree.path!r} lacks {missing.what}, which {name} needs; it comes from {missing.origin}: {missing.cure}"


def some_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def first_rows(tree: SourceFiles, file: str) -> list[dict[str, Any]]:
    """The first rows of a text or Parquet file, without those that are no objects, and without an error: whoever reads it says that."""
    with suppress(Unreadable):
        return [row for _, row in islice(records(tree, Shard(file), rows=FIRST), FIRST) if isinstance(row, dict)]
    return []


def missing_picture(tree: SourceFiles, named: Iterable[Sequence[Any]]) -> str:
    """The first of some pictures, each given by the places where it may lie, if none of the first few is there; empty if one is."""
    first = ""
    for places in islice(named, FIRST):
        try:
            picture_at(tree, *places)
        except RowError as error:
            if error.reason == "missing picture":
                first = first or str(places[0])
                continue
        return ""
    return first


def needed_file(tree: SourceFiles, name: str, pattern: str, missing: Missing) -> str:
    """The one file, in any folder of the source, whose name matches; Refused if there is none, or more than one."""
    found = tree.files(rf"(.*/)?{pattern}")
    if not found:
        refuse_missing(tree, name, [missing])
    if len(found) > 1:
        raise Refused(f"{tree.path!r} has {missing.what} more than once: {', '.join(found[:3])}; leave one of them")
    return found[0]


def files_below(tree: SourceFiles, folder: str) -> list[str]:
    """The files in a folder and its sub-folders, in the order of the listing."""
    names = list(tree.sizes)
    return names[bisect_left(names, f"{folder}/") : bisect_left(names, f"{folder}0")]  # "0" follows "/"


def json_object(tree: SourceFiles, file: str) -> dict[str, Any]:
    """The object that a JSON file is; Unreadable if it is none."""
    with tree.stream(file) as stream:
        try:
            found = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{tree.source(file)} is no JSON, or is cut off; download it again") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{tree.source(file)} is a {type(found).__name__} and no object of JSON; download it again")
    return found


def id_in(part: str, value: Any) -> str:
    """The id of a row of one data set among several: PART:VALUE, without white space."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RowError("bad id", repr(value)[:80])
    return re.sub(r"\s+", "_", f"{part}:{value}")


def picture_at(tree: SourceFiles, *paths: str) -> bytes:
    """The picture at the first of the paths that there is; RowError, which names the first, if there is none."""
    missing: RowError | None = None
    for path in paths:
        try:
            return picture(tree, path)
        except RowError as error:
            if error.reason != "missing picture":
                raise
            missing = missing or error
    assert missing is not None, "at least one path is given"
    raise missing


def picture_of_line(raw: bytes, id: str, file: str) -> bytes:
    """The picture in a line `id<TAB>base64` of a file, which may be followed by others; RowError if the line is another's, or has none."""
    name, _, content = raw.partition(b"\n")[0].partition(b"\t")
    if name.decode(errors="replace").strip() != id:
        raise RowError("missing picture", f"{file} has no line for {id}")
    try:
        picture = base64.b64decode(content.strip(), validate=True)
    except binascii.Error as error:
        raise RowError("bad row", f"the picture of {id} is no base64: {error}") from error
    if not picture:
        raise RowError("missing picture", f"the line of {id} in {file} is empty")
    return picture


def with_members(pool: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, and after each candidate its place in the pool, once; no places where there is no pool."""
    seen: set[str] = set()  # ids of candidates that may be yielded again
    for row in rows:
        yield row
        if pool and isinstance(row, Candidate) and row.item.id not in seen:
            yield Member(pool, row.item.id)
            if not row.named:
                seen.add(row.item.id)
