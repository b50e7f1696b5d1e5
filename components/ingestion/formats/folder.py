"""A plain folder of pictures, with or without files of captions.

    <any>/<picture>.jpg                                    jpeg, png, webp, gif, bmp, tif
    captions.csv, captions.tsv, captions_test.jsonl, ...   in any folder: what is said of each picture
    metadata.csv, metadata.jsonl                           the same, as data sets of Hugging Face call it
    labels.csv, train.jsonl, ...                           the same under any other name, if its columns say so, and none that another
                                                           format has (query, docid, ...) stands beside them

A file of captions has a column for the picture (file, file_name, image or path; relative to the file's own folder, else to the source)
and for what is said (text, caption, captions or texts; or label or labels, where there is no caption). CSV is quoted as usual, TSV is
not. Several lines may speak of one picture; those in a row are read together. A picture is named by its path; what comes of it with
captions is told in captions.py, and without any it is a candidate. Where `images` is given, only pictures with captions are read, and
their paths are relative to that folder. Other columns are told of once for each file, as a notice. BMP and TIFF are read here, and
curation rejects them by name ("unknown format"): to train on them, turn them into PNG.
"""

import csv
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.captions import (
    AUDIO,
    CAPTIONS,
    ENDINGS,
    LABELS,
    Captioned,
    blank,
    captioned,
    named_ending,
    safe_name,
    texts_of,
    unsaid,
)
from mirepoix.components.ingestion.formats.fields import columns
from mirepoix.components.ingestion.formats.rows import Notice, RejectedRow, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import CLIPS, SHARD_BYTES, Shard, SourceFiles, is_ending
from mirepoix.components.ingestion.formats.writing import Files, split_file
from mirepoix.models.errors import Refused

NAME = "folder"
WHAT = "a plain folder of pictures, with a CSV, TSV or JSON lines of captions if there are any"
FILES = r"(.*/)?(captions|metadata)([-_.]\w+)?\.(csv|tsv|jsonl)"
TABLES = r".*\.(csv|tsv|jsonl)"
OTHERS = r".*\.(json|jsonl|csv|tsv|parquet|arrow|tar|txt)(\.gz)?"  # of formats that have pictures beside them
PATHS = ("file", "file_name", "image", "path")
FOREIGN = re.compile(
    r"docid|anchor|query(_\w+)?|qry(_\w+)?|question|premise|sentence_?\w*|messages|candidate|(pos|neg)(itives?|atives?)?(_\w+)?"
)
PICTURES = 1000  # in a piece of the list of pictures, at most


@dataclass(frozen=True, slots=True)
class Line:
    """What a line of captions says."""

    number: int
    path: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    blank: tuple[str, ...]  # columns of them that are there and say nothing
    left: tuple[str, ...]  # columns that nothing reads


def detect(place: SourceFiles) -> bool:
    """Captions under one of their names, pictures with a table that speaks of some, or pictures and nothing that may speak of them."""
    shown = bool(place.images) or any(_suffix(name) in ENDINGS for name in place.sizes)
    if not place.files(OTHERS):
        return shown and not place.images
    return bool(place.files(FILES)) or (shown and any(_speaks(_columns(place, file)) for file in place.files(TABLES)[:4]))


def _tables(place: SourceFiles) -> list[str]:
    """The files of captions: by their names, or else by their columns."""
    named = set(place.files(FILES))
    return [file for file in place.files(TABLES) if file in named or _speaks(_columns(place, file))]


def _speaks(names: list[str]) -> bool:
    """Whether a table with these columns says something of pictures, and is of no other format."""
    told = set(names)
    return bool(told & set(PATHS) and told & {*CAPTIONS, *LABELS}) and not any(map(FOREIGN.fullmatch, names))


def _columns(place: SourceFiles, file: str) -> list[str]:
    if is_ending(file, ".jsonl"):
        return columns(place, file)
    with suppress(Unreadable, csv.Error), _lines(place, file) as lines:
        return _header(lines)
    return []


def shards(place: SourceFiles) -> list[Shard]:
    """Pieces of the list of pictures, with the names in `part`, so that none of them lists the folder again; then the captions."""
    pieces: list[Shard] = []
    names: list[str] = []
    held = 0
    for name, size in () if place.images else place.sizes.items():
        if _suffix(name) in (*ENDINGS, *AUDIO) or f".{_suffix(name)}" in CLIPS:
            if names and (held + size > SHARD_BYTES or len(names) >= PICTURES):
                pieces.append(Shard(names[0], json.dumps(names)))
                names, held = [], 0
            names.append(name)
            held += size
    if names:
        pieces.append(Shard(names[0], json.dumps(names)))
    for file in _tables(place):
        pieces += place.shards(file) if is_ending(file, ".jsonl") else [Shard(file)]  # CSV has line breaks within its cells
    if not pieces:
        raise Refused(f"there are neither pictures ({', '.join(ENDINGS)}) nor captions.csv, .tsv or .jsonl in {place.path!r}")
    return pieces


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    return _pictures(place, json.loads(shard.part)) if shard.part else _captions(place, shard)


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _pictures(place: SourceFiles, names: list[str]) -> Iterator[Row]:
    """The pictures as candidates, each from its own file."""

    def parse(line: int, name: str) -> Iterable[Row]:
        if _suffix(name) not in ENDINGS:
            raise RowError("audio" if _suffix(name) in AUDIO else "video file", name)
        return [Captioned(_key(name), place.picture(name)).candidate(place.source(name), line)]

    for name in names:
        yield from rowwise("corpus", place.source(name), [(1, name)], parse)


def _key(path: str) -> str:
    return re.sub(r"\s", "_", path)


def _captions(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    """What is said of the pictures, by the lines in a row that speak of one."""
    source, split, folder = place.source(shard.file), place.split(shard.file), posixpath.dirname(shard.file)
    told: set[str] = set()

    def parse(line: int, group: list[Line]) -> Iterable[Row]:
        for said in group:
            if left := [name for name in said.left if name not in told]:
                told.update(left)
                yield Notice(source, f"{', '.join(left)}; the rows are read without"[:200])
        try:
            path, picture = _shown(place, folder, group[0].path)
        except RowError as trouble:
            yield from (RejectedRow("queries", "", trouble.reason, trouble.detail, source, said.number) for said in group)
            return
        captions = tuple(text for said in group for text in said.captions)
        labels = () if captions else tuple(text for said in group for text in said.labels)
        lines = {text: said.number for said in reversed(group) for text in (*said.captions, *said.labels)}
        whole = Captioned(_key(path), picture, captions, labels)
        if place.images:
            yield replace(whole.candidate(source, line), named=False)  # other lines may show it again
        yield from whole.pairs(split, source, line, lines)
        for said in group:
            if said.blank and not said.captions and not said.labels:
                yield unsaid(whole.key, list(said.blank), source, said.number)

    return rowwise("queries", source, _groups(_cells(place, shard)), parse)


def _shown(place: SourceFiles, folder: str, path: str) -> tuple[str, bytes]:
    """A picture with its path from the source, or from `images`."""
    if "://" in path:
        return path, place.picture(path)  # which is a Trouble
    paths = [posixpath.normpath(path)]
    if folder and not place.images:
        paths.insert(0, posixpath.normpath(f"{folder}/{path}"))
    if any(path.startswith(("/", "../")) for path in paths):
        raise RowError("bad row", f"{path[:150]} lies outside of the folder")
    for path in paths[:-1]:
        try:
            return path, place.picture(path)
        except RowError as trouble:
            if trouble.reason != "missing picture":
                raise
    return paths[-1], place.picture(paths[-1])


def _groups(cells: Iterable[tuple[int, dict[str, Any] | RowError]]) -> Iterator[tuple[int, list[Line] | RowError]]:
    """The lines in a row that speak of one picture, with the number of the first; a wrong one is a Trouble by itself."""
    held: list[Line] = []
    for number, row in cells:
        try:
            if isinstance(row, RowError):
                raise row
            line = _line(number, row)
        except RowError as trouble:
            yield number, trouble
            continue
        if held and held[0].path != line.path:
            yield held[0].number, held
            held = []
        held.append(line)
    if held:
        yield held[0].number, held


def _line(number: int, row: dict[str, Any]) -> Line:
    path = next((row[name] for name in PATHS if row.get(name)), None)
    if not isinstance(path, str):
        raise RowError("bad row", f"there is no path of a picture under {', '.join(PATHS)}")
    captions, labels = (tuple(text for name in names for text in texts_of(row.get(name))) for names in (CAPTIONS, LABELS))
    return Line(number, path, captions, labels, tuple(blank(row)), tuple(name for name in row if name not in (*PATHS, *CAPTIONS, *LABELS)))


def _cells(place: SourceFiles, shard: Shard) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The lines of a file of captions by the names of their columns."""
    if is_ending(shard.file, ".jsonl"):
        yield from place.records(shard)
        return
    source, number = place.source(shard.file), 0
    try:
        with _lines(place, shard.file) as lines:
            header = _header(lines)
            if not set(header) & set(PATHS) or not set(header) & {*CAPTIONS, *LABELS}:
                raise Unreadable(
                    f"{source} has the columns {', '.join(header) or 'none'}; its first line is to name one of {', '.join(PATHS)} "
                    f"and one of {', '.join((*CAPTIONS, *LABELS))}",
                    1,
                )
            number = lines.line_num
            for cells in lines:
                first, number = number + 1, lines.line_num
                if any(re.search("[\udc80-\udcff]", cell) for cell in cells):
                    yield first, RowError("bad row", "the line is not UTF-8")
                elif len(cells) == len(header):
                    yield first, dict(zip(header, cells, strict=True))
                elif cells:
                    yield first, RowError("bad row", f"{len(cells)} cells for {len(header)} columns")
    except csv.Error as error:
        words = f"cannot be read after line {number} ({error}); mend it, or write it as JSON lines"
        raise Unreadable(f"{source} {words}", number + 1) from error


@contextmanager
def _lines(place: SourceFiles, file: str) -> Iterator[Any]:
    """The lines of a CSV or TSV, as csv.reader reads them."""
    kind = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_ending(file, ".tsv") else {"strict": True}
    with place.stream(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text:
        yield csv.reader(text, **kind)


def _header(lines: Iterator[list[str]]) -> list[str]:
    return [name.strip() for name in next(lines, [])]


def write(target: Path, corpus: Path) -> Counter[str]:
    """Pictures under their names, or numbered where these are no safe ones, and captions_<split>.jsonl with a line for each caption."""
    left: Counter[str] = Counter()
    numbered = 0
    with Files(target) as files:
        for split, said in captioned(corpus, NAME, left):
            name = said.key
            if not safe_name(name):
                name = f"pictures/{numbered:09d}.{named_ending(said.picture, said.key)}"
                numbered += 1
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise Refused(f"two candidates would be written as {name}; write another format, such as webdataset")
            path.write_bytes(said.picture)
            for column, texts in (("text", said.captions), ("label", said.labels)):
                for text in texts:
                    files.row(f"captions_{split_file(split, NAME, 'jsonl')}", {"file_name": name, column: text})
    return +left
