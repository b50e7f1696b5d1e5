"""What the reader of a format gives, a row at a time, and what is wrong with the rows that it cannot give.

A format is a module with

    NAME, WHAT                     the name that users give, and a line on what it is
    detect(place)                  whether the folder or file looks like it; cheap, by names and a first row
    shards(place)                  the pieces of it that can be read each by itself
    read(place, shard)             the rows of a piece: Candidate, Query, Judgement, Triple, Prompt, and Fault for what is wrong;
                                   Notice for what is left aside of a file whose rows are read
    write(target, corpus)          optional: a canonical corpus folder as this format, and how much of what it has no place for; Refused
                                   where an item could not be written whole

A row is given whole or not at all. A bad row is a Fault and reading goes on. Where a file itself breaks it is Unreadable: what stood before
is given, other pieces are read, and then the source is refused. What no piece of a source can do without is Refused at once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash


@dataclass(frozen=True, slots=True)
class Candidate:
    """What can be found."""

    item: Item
    named: bool = True  # False: the format has no ids, so the id is made of the content and may come again


@dataclass(frozen=True, slots=True)
class Query:
    """What searches."""

    item: Item
    split: str
    task: str = ""  # "t->it"; empty: settled by the modality of its first answer
    named: bool = True  # False: the same query may come again, with more judgements


@dataclass(frozen=True, slots=True)
class Judgement:
    """That a candidate answers a query (relevance above 0), or that it does not though it may look so."""

    query_id: str
    item_id: str
    relevance: int = 1
    score: float | None = None  # of a teacher
    source: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Triple:
    """A picture with a question, its concise answer, and the candidates that are known to hold the answer."""

    item: Item  # the question as text, with the picture
    split: str
    answer: str
    evidence: tuple[str, ...] = ()  # ids of candidates


@dataclass(frozen=True, slots=True)
class Prompt:
    """One wording of an instruction that the source brings for a task."""

    task: str
    wording: str
    source: str = ""  # the source, or the data set in it, whose queries it is for: a prefix of Item.source or of the query's id


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be used, and where it stands."""

    part: str  # corpus, queries, qrels, triples or prompts; file: all that is left of one
    id: str
    reason: str  # one of REASONS
    detail: str
    source: str
    line: int  # 0: the file as a whole


@dataclass(frozen=True, slots=True)
class Notice:
    """What of a whole file is left aside; costs no row."""

    source: str
    detail: str


Row = Candidate | Query | Judgement | Triple | Prompt | RejectedRow | Notice

REASONS = {
    "bad JSON": "the line is no JSON object",
    "bad row": "a field is missing or of the wrong type",
    "bad id": "the id is empty or has white space",
    "bad task": "the task is not of the form it->t, or no answer is what it asks for",
    "bad split": "the split is empty",
    "missing picture": "the file of a picture is not there or cannot be read",
    "URL": "a picture is given by a URL; nothing is fetched, so download it first",
    "video file": "a clip is given as a video file; give its frames as pictures",
    "audio": "the row has audio, which no encoder here takes",
    "placeholders": "the count of placeholders in the text is not the count of pictures",
    "empty side": "a query, a positive or a negative has neither text nor picture nor video",
    "unknown modality": "the modality is not one of text, image, video, or does not agree with what is there",
    "unread column": "the row has a column that nothing here would read",
    "duplicate id": "the id stands twice",
    "no answer": "the query has no positive",
    "unknown item": "the candidate that is named is not in the corpus",
    "unknown query": "the query that is named is not there",
    "unreadable": "the file cannot be read from there on",
}


class Unreadable(Refused):
    """A file that cannot be read from a line on, or as a whole (0)."""

    def __init__(self, words: str, line: int = 0):
        super().__init__(words, line)
        self.line = line

    def __str__(self) -> str:
        return self.args[0]


class RowError(Exception):
    """What is wrong with the row that is being read; becomes a Fault."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


LARGEST = 2**31 - 1  # of relevance
Parse = Callable[[int, Any], Iterable[Row]]


def rowwise(part: str, source: str, records: Iterable[tuple[int, Any]], parse: Parse) -> Iterator[Row]:
    """The rows that `parse` makes of each numbered record; one that it finds troubled, or that is a Trouble itself, becomes a Fault."""
    for line, record in records:
        try:
            if isinstance(record, RowError):
                raise record
            made = list(map(_sound, parse(line, record)))
        except RowError as trouble:
            made = [_sound(RejectedRow(part, _named(record), trouble.reason, trouble.detail, source, line))]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            made = [_sound(RejectedRow(part, _named(record), "bad row", detail[:200], source, line))]
        yield from made


def _sound(row: Row) -> Row:
    """The row, if every text and number in it has a place in a table; what a fault tells is written so that it has."""
    match row:
        case RejectedRow():
            return replace(row, id=_plain(row.id), detail=_plain(row.detail))
        case Notice():
            return replace(row, detail=_plain(row.detail))
        case Judgement(query, item, relevance):
            texts = (query, item)
            if not isinstance(relevance, int) or not -LARGEST - 1 <= relevance <= LARGEST:
                raise RowError("bad row", f"the relevance is no whole number of 32 bits: {relevance!r:.80}")
        case Prompt(task, wording, source):
            texts = (task, wording, source)
        case Candidate(item):
            texts = (item.id, item.text, item.instruction)
        case Query(item, split, task):
            texts = (item.id, item.text, item.instruction, split, task)
        case Triple(item, split, answer, evidence):
            texts = (item.id, item.text, item.instruction, split, answer, *evidence)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError("bad row", f"{_plain(text[error.start])} is half a character, which no file can hold") from error
    return row


def _plain(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _named(record: Any) -> str:
    """The id of a troubled record, if it has one."""
    if isinstance(record, dict):
        for name in ("id", "_id", "qid", "did", "query_id", "docid", "key", "snippet_id", "image_id", "Guid"):
            if isinstance(record.get(name), (str, int)):
                return str(record[name])
    return ""


def nameless(text: str, images: tuple[bytes, ...] = (), video: tuple[bytes, ...] = (), source: str = "", line: int = 0) -> Candidate:
    """A candidate of a format without ids: equal content has an equal id."""
    if not (text or images or video):
        raise RowError("empty side")
    item = Item("", text, images, video, source=source, line=line)
    return Candidate(Item("c-" + content_hash(item).hex()[:32], text, images, video, source=source, line=line), named=False)


def split_of(file: str) -> str:
    """The split that a file's name speaks of: train, validation or test; train where it speaks of none."""
    words = file.lower().replace("\\", "/").replace("-", "/").replace("_", "/").replace(".", "/").split("/")
    for word in reversed(words):
        if word in ("test", "testing"):
            return "test"
        if word in ("dev", "val", "valid", "validation", "devel"):
            return "validation"
        if word in ("train", "training"):
            return "train"
    return "train"
