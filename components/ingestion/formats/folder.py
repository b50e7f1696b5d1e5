"""A plain folder of pictures, with or without captions in tables or in files beside them.

    <any>/<picture>.jpg                                    jpeg, png, webp, gif, bmp, tif
    <any>/<picture>.txt, .json                             its caption (sidecars.py)
    captions.csv, captions.tsv, captions_test.jsonl, ...   in any folder: captions of the pictures
    metadata.csv, metadata.jsonl                           the same, under Hugging Face's name
    labels.csv, train.jsonl, ...                           the same under any other name, if it has such columns, and none of another
                                                           format (query, docid, ...)

A caption file has a column for the picture (file, file_name, image or path; relative to the file's own folder, else to the source) and
one for the caption (text, caption, captions or texts; or label or labels, where there is no caption). CSV is quoted as usual, TSV is
not; delimited.py recognises delimiter and encoding. Several lines may be about one picture; consecutive ones are read together. The id of
a picture is its path; captions.py describes the rows made of its captions; without captions it is a candidate only. If `images` is given,
only pictures with captions in tables are read, and their paths are relative to that folder. Other columns are reported in one notice per
file. Other .txt files, and JSON files that are one object each, are no rows: a folder with them that no other format reads is one of
pictures, and a notice counts them. BMP and TIFF are read, and curation rejects them ("unknown format"): to train on them, convert them to
PNG.

Where captions are read together with pictures, those of all tables are held in memory, since the lines about a picture may lie anywhere.
"""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats import delimited, listed_pictures
from mirepoix.components.ingestion.formats.captions import (
    CAPTIONS,
    LABELS,
    Captioned,
    blank_caption,
    blank_columns,
    captioned,
    known_suffix,
    safe_name,
    texts_of,
)
from mirepoix.components.ingestion.formats.fields import columns
from mirepoix.components.ingestion.formats.listed_pictures import Joined, found_path, key_of, picture_names
from mirepoix.components.ingestion.formats.rows import Notice, RejectedRow, Row, RowError, Unreadable, rowwise, unread_columns
from mirepoix.components.ingestion.formats.sidecars import beside
from mirepoix.components.ingestion.formats.sidecars import sidecars as sidecars  # the name by which the sources ask for them
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.components.ingestion.formats.writing import Files, split_file
from mirepoix.models.errors import Refused
from mirepoix.models.picture_formats import PICTURE_ENDINGS

NAME = "folder"
FILES = r"(.*/)?(captions|metadata)([-_.]\w+)?\.(csv|tsv|jsonl)"
TABLES = r".*\.(csv|tsv|jsonl)"
OTHERS = r".*\.(json|jsonl|csv|tsv|parquet|arrow|tar|txt)(\.gz)?"  # of formats that have pictures beside them
PATHS = ("file", "file_name", "image", "path")
FOREIGN = re.compile(
    r"docid|anchor|query(_\w+)?|qry(_\w+)?|question|premise|sentence_?\w*|messages|candidate|(pos|neg)(itives?|atives?)?(_\w+)?"
)
LARGEST_OBJECT = 1 << 20  # bytes of a JSON file beside pictures that is not taken for rows


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a caption file."""

    number: int
    path: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    blank: tuple[str, ...]  # columns of captions or labels with white space only
    unread: tuple[str, ...]  # columns that the format does not read


def detect(tree: SourceFiles) -> bool:
    """A caption file by its name, pictures with a caption file by its columns, or pictures without any file of another format."""
    has_pictures = bool(tree.images) or bool(picture_names(tree))
    if not tree.files(OTHERS):
        return has_pictures and not tree.images
    return bool(tree.files(FILES)) or (has_pictures and any(is_caption_table(_columns(tree, file)) for file in tree.files(TABLES)[:4]))


def holds_pictures(tree: SourceFiles) -> bool:
    """Whether a folder that no format recognises has pictures, and beside them only captions, notes, settings and metadata.

    A table, or a JSON file of several objects, may be rows in a form that is not read: not so then.
    """
    others = tree.files(OTHERS)
    if not picture_names(tree) or not all(is_ending(file, ".txt", ".json") for file in others):
        return False
    return all(_is_object(tree, file) for file in [file for file in others if is_ending(file, ".json")][:4])


def _is_object(tree: SourceFiles, file: str) -> bool:
    """Whether a JSON file is one object, and small."""
    if tree.sizes[file] > LARGEST_OBJECT:
        return False
    try:
        with tree.stream(file) as stream:
            return isinstance(json.loads(stream.read().decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _tables(tree: SourceFiles) -> list[str]:
    """The caption files, by their names or by their columns."""
    named = set(tree.files(FILES))
    return [file for file in tree.files(TABLES) if file in named or is_caption_table(_columns(tree, file))]


def is_caption_table(names: list[str]) -> bool:
    """Whether a table with these columns has paths and captions of pictures, and no column of another format."""
    found = set(names)
    return bool(found & set(PATHS) and found & {*CAPTIONS, *LABELS}) and not any(map(FOREIGN.fullmatch, names))


def _columns(tree: SourceFiles, file: str) -> list[str]:
    if is_ending(file, ".jsonl"):
        return columns(tree, file)
    with suppress(Unreadable):
        return list(delimited.recognise(tree, file).header)
    return []


def shards(tree: SourceFiles) -> list[Shard]:
    """Pieces of the list of pictures, then pieces of the caption files."""
    tables = _tables(tree)
    found = listed_pictures.pieces(tree, _joined(tree, tables) if tree.captions == "together" else {})
    for file in tables:
        found += tree.shards(file) if is_ending(file, ".jsonl") else [Shard(file)]  # CSV has line breaks within its cells
    if not found:
        raise Refused(f"there are neither pictures ({', '.join(PICTURE_ENDINGS)}) nor captions.csv, .tsv or .jsonl in {tree.path!r}")
    return found


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    return listed_pictures.read(tree, shard, beside) if shard.part else _captions(tree, shard)


def _joined(tree: SourceFiles, tables: Iterable[str]) -> dict[str, Joined]:
    """The captions of all tables by the path of their picture; what cannot be read is rejected when the table is read."""
    found: dict[str, Joined] = {}
    for file in tables:
        with suppress(Unreadable):
            for number, group in _groups(_cells(tree, Shard(file))):
                with suppress(RowError):
                    if not isinstance(group, RowError):
                        texts = found.setdefault(found_path(tree, posixpath.dirname(file), group[0].path), Joined(file, number))
                        texts.captions += (text for line in group for text in line.captions)
                        texts.labels += (text for line in group for text in line.labels)
    return found


def _captions(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    """The rows of a caption file; consecutive lines about one picture are read together.

    Where captions are read together with their pictures, the pieces of pictures have them, and these are only the rejections.
    """
    source, split, folder = tree.source(shard.file), tree.split(shard.file), posixpath.dirname(shard.file)
    reported: set[str] = set()
    together = tree.captions == "together"

    def parse(line: int, group: list[Line]) -> Iterable[Row]:
        for entry in group:
            if unread := [name for name in entry.unread if name not in reported]:
                reported.update(unread)
                yield unread_columns(source, unread)
        captions = tuple(text for entry in group for text in entry.captions)
        labels = () if captions else tuple(text for entry in group for text in entry.labels)
        try:
            path = found_path(tree, folder, group[0].path)
            shown_picture = Captioned(key_of(path), b"" if together else tree.picture(path), captions, labels)
        except RowError as error:
            yield from (RejectedRow("queries", "", error.reason, error.detail, source, entry.number) for entry in group)
            return
        if not together:
            if tree.images:
                yield replace(shown_picture.candidate(source, line), named=False)  # the picture may come again in other lines
            lines = {text: entry.number for entry in reversed(group) for text in (*entry.captions, *entry.labels)}
            yield from shown_picture.pairs(split, source, line, lines)
        for entry in group:
            if entry.blank and not entry.captions and not entry.labels:
                yield blank_caption(shown_picture.key, list(entry.blank), source, entry.number)

    if not is_ending(shard.file, ".jsonl"):
        with suppress(Unreadable):  # reported by the rows
            if notice := delimited.recognise(tree, shard.file).notice:
                yield Notice(source, notice)
    yield from rowwise("queries", source, _groups(_cells(tree, shard)), parse)


def _groups(cells: Iterable[tuple[int, dict[str, Any] | RowError]]) -> Iterator[tuple[int, list[Line] | RowError]]:
    """Consecutive lines about one picture, with the number of the first; a bad line is a RowError by itself."""
    held: list[Line] = []
    for number, row in cells:
        try:
            if isinstance(row, RowError):
                raise row
            line = _line(number, row)
        except RowError as error:
            yield number, error
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
    unread = tuple(name for name in row if name not in (*PATHS, *CAPTIONS, *LABELS))
    return Line(number, path, captions, labels, tuple(blank_columns(row)), unread)


def _cells(tree: SourceFiles, shard: Shard) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The lines of a caption file as dicts by column."""
    if is_ending(shard.file, ".jsonl"):
        yield from tree.records(shard)
        return
    table = delimited.recognise(tree, shard.file)
    if not set(table.header) & set(PATHS) or not set(table.header) & {*CAPTIONS, *LABELS}:
        raise Unreadable(
            f"{tree.source(shard.file)} has the columns {', '.join(table.header) or 'none'}; its first line is to name one of "
            f"{', '.join(PATHS)} and one of {', '.join((*CAPTIONS, *LABELS))}",
            1,
        )
    yield from delimited.records(tree, shard.file, table)


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes pictures under their ids, or numbered where these are unsafe as names, and captions_<split>.jsonl with a line per caption."""
    dropped: Counter[str] = Counter()
    numbered = 0
    with Files(target) as files:
        for split, entry in captioned(corpus, NAME, dropped):
            name = entry.key
            if not safe_name(name):
                name = f"pictures/{numbered:09d}.{known_suffix(entry.picture, entry.key)}"
                numbered += 1
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise Refused(f"two candidates would be written as {name}; write another format, such as webdataset")
            path.write_bytes(entry.picture)
            for column, texts in (("text", entry.captions), ("label", entry.labels)):
                for text in texts:
                    files.row(f"captions_{split_file(split, NAME, 'jsonl')}", {"file_name": name, column: text})
    return +dropped
