"""Helpers for reading training examples: the cells of a record, its sides with placeholders and pictures, and the rows made of it."""

import math
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Row, RowError, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.item import Item

ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # metadata files of the library `datasets`

# Files that may contain rows, or pictures in formats that are not read, and files beside them that do not.
UNREAD_PICTURES = "heic|heif|avif|jxl|jp2|svg|psd|dng|cr2|cr3|nef|arw"
ROWS = (
    r"(?i:.*?\.((?:json|jsonl|ndjson|csv|tsv|txt|parquet|arrow|feather|tar|tgz|zip|lance|h5|npz?|pkl|"
    rf"{UNREAD_PICTURES})(?:\.(?:gz|zst|bz2|xz|lz4|zip))?))"
)
BESIDE = re.compile(r"(readme|licen[cs]e|notice|changelog|requirements)\b.*|manifest\.json|" + "|".join(map(re.escape, ABOUT)), re.I)
FIRST = 100  # records in which the first object is looked for
LARGEST_SCORE = 3e38  # that 32 bits hold

# Files


def data_files(tree: SourceFiles, *endings: str) -> list[str]:
    """The files of rows with the given extensions, compressed or not."""
    return [file for file in tree.files(rf".*\.({'|'.join(endings)})(\.gz)?") if file.rpartition("/")[2] not in ABOUT]


def pieces(tree: SourceFiles, files: Iterable[str], part: str = "") -> list[Shard]:
    """The pieces of text or Parquet files."""
    return [
        shard for file in files for shard in (tree.parquet_shards(file, part) if is_ending(file, ".parquet") else tree.shards(file, part))
    ]


def records(tree: SourceFiles, shard: Shard, columns: list[str] | None = None, rows: int = 256) -> Iterator[tuple[int, Any]]:
    """The records of a piece of a text or Parquet file as dicts, with their numbers; `columns`: those that are read of Parquet."""
    if not is_ending(shard.file, ".parquet"):
        yield from tree.records(shard)
        return
    for number, table in tree.tables(shard, columns, rows):
        yield from enumerate(table.to_pylist(), number)


def unused_files(tree: SourceFiles, taken: Iterable[str]) -> list[Notice]:
    """A notice for each extension of files that may contain rows but are not among those taken."""
    taken = set(taken)
    left: dict[str, list[str]] = {}
    for file in tree.files(ROWS):
        if file not in taken and not BESIDE.fullmatch(file.rpartition("/")[2]):
            ending = re.fullmatch(ROWS, file)
            assert ending is not None, file
            left.setdefault(ending[1].lower(), []).append(file)
    more = {ending: f" and {len(files) - 1} more of .{ending}" if len(files) > 1 else "" for ending, files in left.items()}
    why = "the format reads no such files" + (", or sources.only_splits leaves out their split" if tree.only_splits else "")
    why += ", or sources.only_datasets their data set" if tree.only_datasets else ""
    return [Notice(tree.source(files[0]), f"not read{more[ending]}: {why}") for ending, files in left.items()]


def columns(tree: SourceFiles, file: str) -> list[str]:
    """The columns of a Parquet file, or the keys of the first object among the first records of a JSON file; none if there is none."""
    return _first_columns(tree, file)[0]


def why_no_columns(tree: SourceFiles, file: str) -> str:
    """The reason for which `columns` finds none in a file; empty if it finds some."""
    return _first_columns(tree, file)[1]


def _first_columns(tree: SourceFiles, file: str) -> tuple[list[str], str]:
    problem = ""
    try:
        if is_ending(file, ".parquet"):
            return tree.schema(file).names, ""
        for line, record in islice(tree.records(Shard(file)), FIRST):
            if isinstance(record, dict):
                return list(record), ""
            problem = problem or f"line {line} is no JSON object ({record.detail})"
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return [], problem or str(error).removeprefix(f"{tree.source(file)} ").partition(";")[0]
    return [], problem or "it is empty"


def has_columns(tree: SourceFiles, files: list[str], *needed: str) -> bool:
    """Whether one of the first four files has all of the needed columns."""
    return any(set(needed) <= set(columns(tree, file)) for file in files[:4])


# Cells


def text_of(value: Any) -> str:
    """The text of a cell, unchanged; empty if it is absent or only white space."""
    if value is not None and not isinstance(value, str):
        raise RowError("bad row", f"a {type(value).__name__} where a text belongs")
    return value if value and not value.isspace() else ""


def list_of(value: Any, what: str) -> list[Any]:
    """A list; an absent one is empty."""
    if value is not None and not isinstance(value, list):
        raise RowError("bad row", f"{what} is a {type(value).__name__} and no list")
    return value or []


def id_of(value: Any) -> str:
    """An id that run files and qrels can contain: a text without white space, or an integer."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowError("bad id", f"a {type(value).__name__}")
    name = str(value)
    if name.split() != [name]:
        raise RowError("bad id", repr(name[:80]))
    return name


def grade_of(text: str) -> int:
    """A grade of relevance: an integer, also written as "1.0"."""
    try:
        grade = float(text)
    except ValueError:
        grade = math.nan
    if not grade.is_integer():
        raise RowError("bad row", f"the relevance is {text[:80]!r} and no whole number")
    return int(grade)


def titled(title: str, text: str) -> str:
    """A document as one text: its title, a space, its text."""
    return f"{title} {text}" if title and text else title or text


def picture(tree: SourceFiles, cell: Any) -> bytes:
    """The bytes of a picture that is given as a path, as bytes, or as an object with either."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path") or cell.get("image")
    if isinstance(cell, bytes) and cell:
        return cell
    return tree.picture(cell)


def pictures(tree: SourceFiles, value: Any) -> tuple[bytes, ...]:
    """The pictures of a cell with none, one or a list of them."""
    if value is None or value in ("", []):
        return ()
    found: list[bytes] = []
    missing: list[str] = []
    for cell in value if isinstance(value, list) else [value]:
        try:
            found.append(picture(tree, cell))
        except RowError as error:
            if error.reason != "missing picture":
                raise
            missing.append(error.detail)
    if missing:  # names every missing one, not only the first
        raise RowError("missing picture", ", ".join(missing))
    return tuple(found)


def frames(tree: SourceFiles, value: Any) -> tuple[bytes, ...]:
    """The frames of a cell with one clip as a list of pictures; RowError if it is a video file."""
    if isinstance(value, dict):
        value = value.get("video")
    if isinstance(value, list) and any(isinstance(cell, list) for cell in value):
        if len(value) > 1:
            raise RowError("bad row", f"{len(value)} clips where one is taken")
        value = value[0]
    return pictures(tree, value)


def without_placeholders(text: str, token: str, count: int) -> str:
    """The text without its placeholders and the line break after each; RowError if their count is not that of the pictures or clips."""
    if (found := text.count(token)) != count:
        raise RowError("placeholders", f"{token} is there {found} times; pictures or clips: {count}")
    mark = re.escape(token)
    return text_of(re.sub(rf"\n(?:{mark})+\Z|{mark}\n?", "", text))


def refuse_unread(record: dict[str, Any], known: Collection[str]) -> None:
    """Raises RowError if the record has a non-empty column that the format does not read."""
    if left := [name for name, value in record.items() if name not in known and value is not None and value not in ("", [], {})]:
        raise RowError("unread column", ", ".join(left))


def without_audio(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its empty audio columns; RowError if one is not empty."""
    if any(value for name, value in record.items() if "audio" in name):
        raise RowError("audio")
    return {name: value for name, value in record.items() if "audio" not in name}


def side(text: str = "", images: tuple[bytes, ...] = (), video: tuple[bytes, ...] = (), instruction: str = "", what: str = "") -> Item:
    """One side of an example as an item without an id; RowError if it is empty."""
    if not (text or images or video):
        raise RowError("empty side", what)
    return Item("", text, images, video, instruction)


# Rows


@dataclass(frozen=True, slots=True)
class Document:
    """A document beside a query, with a teacher's score if it has one."""

    item: Item
    score: float | None = None


Scored = tuple[str, float | None]  # the id of a document, and its score


class Examples:
    """Makes the rows of the examples of a piece, in a format without ids.

    The id of a query is its file and line, with "@" and a group where a format has one. Equal documents are one candidate, with the
    instruction of the first; repeated judgements are yielded as often as they occur, and curation merges them.
    """

    def __init__(self, tree: SourceFiles, shard: Shard, split: str = ""):
        self.source = tree.source(shard.file)
        self.split = split or tree.split(shard.file)
        self._line = self._nth = 0

    def query_id(self, line: int, about: str = "") -> str:
        """The id of the next query in this line."""
        self._nth = self._nth + 1 if line == self._line else 1
        self._line = line
        location = f"{self.source}:{line}" + (f".{self._nth}" if self._nth > 1 else "")
        return re.sub(r"\s", "_", f"{location}@{about}" if about else location)

    def rows(self, line: int, query: Item, positives: Iterable[Document], negatives: Iterable[Document] = (), about: str = "") -> list[Row]:
        """Candidates, the query, and its judgements."""
        made = [[(self.candidate(line, document.item), document.score) for document in documents] for documents in (positives, negatives)]
        candidates: dict[str, Candidate] = {}
        for documents in made:
            for candidate, _ in documents:
                candidates.setdefault(candidate.item.id, candidate)
        answers, others = ([(candidate.item.id, score) for candidate, score in documents] for documents in made)
        return [*candidates.values(), *self.judged_query(line, query, answers, others, about)]

    def judged_query(self, line: int, query: Item, positives: list[Scored], negatives: list[Scored], about: str = "") -> list[Row]:
        """The query, and its judgements of candidates given by their ids."""
        if not positives:
            raise RowError("no answer")
        name = self.query_id(line, about)
        judgements = [
            Judgement(name, key, relevance, score, self.source, line)
            for relevance, documents in ((1, positives), (0, negatives))
            for key, score in documents
        ]
        return [Query(replace(query, id=name, source=self.source, line=line), self.split), *judgements]

    def candidate(self, line: int, item: Item) -> Candidate:
        """A document as a candidate; its id is a hash of its content."""
        made = unnamed_candidate(item.text, item.images, item.video, self.source, line)
        return replace(made, item=replace(made.item, instruction=item.instruction)) if item.instruction else made


def scores_of(value: Any, count: int, what: str) -> list[float | None]:
    """A teacher's scores, one for each document; None for each if the cell is empty."""
    given = list_of(value, what)
    if not given:
        return [None] * count
    if len(given) != count:
        raise RowError("bad row", f"{len(given)} {what} for {count} documents")
    if any(isinstance(score, bool) or not isinstance(score, (int, float)) for score in given):
        raise RowError("bad row", f"{what} are not all numbers")
    if any(not abs(score) <= LARGEST_SCORE for score in given):
        raise RowError("bad row", f"{what} are not all finite numbers, or one is too large")
    return [float(score) for score in given]
