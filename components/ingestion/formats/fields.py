"""What the formats of training examples share in reading: the two sides of an example, their placeholders and pictures, and its rows."""

import math
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Row, RowError, nameless
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.item import Item

ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # what `datasets` writes beside its rows

# What may hold rows, and what stands beside them and holds none.
ROWS = r"(?i:.*?\.((?:json|jsonl|ndjson|csv|tsv|txt|parquet|arrow|feather|tar|tgz|zip|lance|h5|npz?|pkl)(?:\.(?:gz|zst|bz2|xz|lz4|zip))?))"
BESIDE = re.compile(r"(readme|licen[cs]e|notice|changelog|requirements)\b.*|manifest\.json|" + "|".join(map(re.escape, ABOUT)), re.I)
FIRST = 100  # records in which the first object is looked for
LARGEST_SCORE = 3e38  # that 32 bits hold

# Files


def data_files(place: SourceFiles, *endings: str) -> list[str]:
    """The files of rows with the given endings, packed or not."""
    return [file for file in place.files(rf".*\.({'|'.join(endings)})(\.gz)?") if file.rpartition("/")[2] not in ABOUT]


def pieces(place: SourceFiles, files: Iterable[str], part: str = "") -> list[Shard]:
    """The pieces of text and Parquet files alike."""
    return [
        shard for file in files for shard in (place.parquet_shards(file, part) if is_ending(file, ".parquet") else place.shards(file, part))
    ]


def records(place: SourceFiles, shard: Shard, rows: int = 256) -> Iterator[tuple[int, Any]]:
    """The rows of a piece of a text or Parquet file as dicts, with their numbers."""
    if not is_ending(shard.file, ".parquet"):
        yield from place.records(shard)
        return
    for number, table in place.tables(shard, rows=rows):
        yield from enumerate(table.to_pylist(), number)


def unused(place: SourceFiles, shards: Iterable[Shard]) -> list[Notice]:
    """What of a source looks like rows and is in none of its pieces, told once for each ending."""
    taken = {shard.file for shard in shards}
    left: dict[str, list[str]] = {}
    for file in place.files(ROWS):
        if file not in taken and not BESIDE.fullmatch(file.rpartition("/")[2]):
            left.setdefault(re.fullmatch(ROWS, file)[1].lower(), []).append(file)
    more = {ending: f" and {len(files) - 1} more of .{ending}" if len(files) > 1 else "" for ending, files in left.items()}
    return [Notice(place.source(files[0]), f"not read{more[ending]}: the format has no such file here") for ending, files in left.items()]


def columns(place: SourceFiles, file: str) -> list[str]:
    """The columns of a Parquet file, or the keys of the first object among the first records of a JSON file; none if there is none."""
    return _begun(place, file)[0]


def obstacle(place: SourceFiles, file: str) -> str:
    """Why a file shows no columns; nothing where it shows some."""
    return _begun(place, file)[1]


def _begun(place: SourceFiles, file: str) -> tuple[list[str], str]:
    wrong = ""
    try:
        if is_ending(file, ".parquet"):
            return place.schema(file).names, ""
        for line, record in islice(place.records(Shard(file)), FIRST):
            if isinstance(record, dict):
                return list(record), ""
            wrong = wrong or f"line {line} is no JSON object ({record.detail})"
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return [], wrong or str(error).removeprefix(f"{place.source(file)} ").partition(";")[0]
    return [], wrong or "it is empty"


def shows(place: SourceFiles, files: list[str], *needed: str) -> bool:
    """Whether one of the first files has all of the columns."""
    return any(set(needed) <= set(columns(place, file)) for file in files[:4])


# Cells


def text_of(value: Any) -> str:
    """A text as it is given; what is absent, or nothing but white space, is no text."""
    if value is not None and not isinstance(value, str):
        raise RowError("bad row", f"a {type(value).__name__} stands where a text belongs")
    return value if value and not value.isspace() else ""


def list_of(value: Any, what: str) -> list[Any]:
    """A list; an absent one is empty."""
    if value is not None and not isinstance(value, list):
        raise RowError("bad row", f"{what} is a {type(value).__name__} and no list")
    return value or []


def id_of(value: Any) -> str:
    """An id that runs and qrels can hold: a text without white space, or a whole number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowError("bad id", f"a {type(value).__name__}")
    name = str(value)
    if name.split() != [name]:
        raise RowError("bad id", repr(name[:80]))
    return name


def grade_of(text: str) -> int:
    """A grade of relevance, which is a whole number, also as "1.0"."""
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


def picture(place: SourceFiles, cell: Any) -> bytes:
    """The bytes of a picture that is given by a path, by its bytes, or by an object with either."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path") or cell.get("image")
    if isinstance(cell, bytes) and cell:
        return cell
    return place.picture(cell)


def pictures(place: SourceFiles, value: Any) -> tuple[bytes, ...]:
    """The pictures of a cell that holds none, one or a list."""
    if value is None or value in ("", []):
        return ()
    found: list[bytes] = []
    missing: list[str] = []
    for cell in value if isinstance(value, list) else [value]:
        try:
            found.append(picture(place, cell))
        except RowError as trouble:
            if trouble.reason != "missing picture":
                raise
            missing.append(trouble.detail)
    if missing:  # all of them are to be found, so all are told
        raise RowError("missing picture", ", ".join(missing))
    return tuple(found)


def frames(place: SourceFiles, value: Any) -> tuple[bytes, ...]:
    """The frames of a cell that holds one clip as a list of pictures; Trouble if it is a video file."""
    if isinstance(value, dict):
        value = value.get("video")
    if isinstance(value, list) and any(isinstance(cell, list) for cell in value):
        if len(value) > 1:
            raise RowError("bad row", f"{len(value)} clips where one is taken")
        value = value[0]
    return pictures(place, value)


def without(text: str, token: str, count: int) -> str:
    """The text without its placeholders and the line break that belongs to each; Trouble if there are not as many as pictures or clips."""
    if (found := text.count(token)) != count:
        raise RowError("placeholders", f"{found} of {token} for {count} of what it stands for")
    mark = re.escape(token)
    return text_of(re.sub(rf"\n(?:{mark})+\Z|{mark}\n?", "", text))


def unread(record: dict[str, Any], known: Collection[str]) -> None:
    """Trouble if the record has a filled column that nobody reads."""
    if left := [name for name, value in record.items() if name not in known and value is not None and value not in ("", [], {})]:
        raise RowError("unread column", ", ".join(left))


def without_audio(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the empty columns of audio; Trouble if one is filled."""
    if any(value for name, value in record.items() if "audio" in name):
        raise RowError("audio")
    return {name: value for name, value in record.items() if "audio" not in name}


def side(text: str = "", images: tuple[bytes, ...] = (), video: tuple[bytes, ...] = (), instruction: str = "", what: str = "") -> Item:
    """One side of an example, without a name yet; Trouble if there is nothing in it."""
    if not (text or images or video):
        raise RowError("empty side", what)
    return Item("", text, images, video, instruction)


# Rows


@dataclass(frozen=True, slots=True)
class Shown:
    """A document beside a query, with a teacher's score if it has one."""

    item: Item
    score: float | None = None


Scored = tuple[str, float | None]  # the id of a document, and its score


class Examples:
    """Makes the rows of the examples in a piece of a format without ids.

    A query is named after its place, and after what it is about where a format says so. Equal documents are one candidate, with the
    instruction of the first; each is judged as often as it stands, and curation settles what is judged twice.
    """

    def __init__(self, place: SourceFiles, shard: Shard, split: str = ""):
        self.source = place.source(shard.file)
        self.split = split or place.split(shard.file)
        self._line = self._nth = 0

    def query_id(self, line: int, about: str = "") -> str:
        """The name of the next query in this line."""
        self._nth = self._nth + 1 if line == self._line else 1
        self._line = line
        place = f"{self.source}:{line}" + (f".{self._nth}" if self._nth > 1 else "")
        return re.sub(r"\s", "_", f"{place}@{about}" if about else place)

    def rows(self, line: int, query: Item, positives: Iterable[Shown], negatives: Iterable[Shown] = (), about: str = "") -> list[Row]:
        """Candidates, the query, and what is told of them."""
        made = [[(self.candidate(line, shown.item), shown.score) for shown in documents] for documents in (positives, negatives)]
        candidates: dict[str, Candidate] = {}
        for documents in made:
            for candidate, _ in documents:
                candidates.setdefault(candidate.item.id, candidate)
        told = [[(candidate.item.id, score) for candidate, score in documents] for documents in made]
        return [*candidates.values(), *self.asked(line, query, *told, about)]

    def asked(self, line: int, query: Item, positives: list[Scored], negatives: list[Scored], about: str = "") -> list[Row]:
        """The query, and what is told of candidates by their ids."""
        if not positives:
            raise RowError("no answer")
        name = self.query_id(line, about)
        told = [
            Judgement(name, key, relevance, score, self.source, line)
            for relevance, documents in ((1, positives), (0, negatives))
            for key, score in documents
        ]
        return [Query(replace(query, id=name, source=self.source, line=line), self.split), *told]

    def candidate(self, line: int, item: Item) -> Candidate:
        """A document under the name of its content."""
        made = nameless(item.text, item.images, item.video, self.source, line)
        return replace(made, item=replace(made.item, instruction=item.instruction)) if item.instruction else made


def scores_of(value: Any, count: int, what: str) -> list[float | None]:
    """A teacher's scores, one for each document, or none."""
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
