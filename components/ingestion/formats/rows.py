"""The rows that the reader of a format yields, and the errors of rows that it cannot use.

A format is a module with

    NAME                           the name that users give; its description is in sources_config.py
    detect(tree)                   whether a source looks like this format; cheap, by file names and a first row
    shards(tree)                   pieces of the source that are read independently
    read(tree, shard)              the rows of a piece: Candidate, Query, Judgement, Member, Triple, Prompt; RejectedRow for a bad row;
                                   Notice for columns or files that are ignored
    named_splits(tree)             optional, where files name the splits of their queries: those that there are, read or not; `shards` may
                                   leave out the pieces of a split that `tree.reads` says no to
    datasets(tree)                 optional, of a format in OF_DATASETS: its data sets, read or not; no piece is of one to which
                                   `tree.reads_dataset` says no; ORIGIN is where they come from
    missing(tree)                  optional, of a benchmark: files that the data sets that are read need to be measured, and lack
    no_union(tree)                 optional, of a benchmark that ranks the candidates of all data sets together: what would have all of
                                   them read; empty where they are
    modality(tree)                 optional, of a benchmark without `datasets`: what some of its items have
    sidecars(tree)                 optional: files that are read with the pictures that they lie beside, and are in no piece
    OVER                           optional: names of formats that a source of this one looks like too; it is detected as this one then
    write(target, corpus)          optional: writes a canonical corpus folder in this format, and returns counts of what the format cannot
                                   represent; Refused if an item cannot be written whole

A row is read whole or rejected, and reading continues after a rejected one. A file that breaks raises Unreadable: the rows before are used,
other pieces are read, and then the source is refused. A source that lacks a file it needs is Refused at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash

NAMED_LETTERS = 120
"""The most letters that a notice takes to name columns."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document of the corpus, which can be retrieved."""

    item: Item
    named: bool = True  # False: the format has no ids; the id is a hash of the content and may be yielded again


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its split."""

    item: Item
    split: str
    task: str = ""  # "t->it"; empty: derived from the modality of its first answer
    named: bool = True  # False: the same query may be yielded again, with more judgements
    dataset: str = ""  # by which results are reported, such as "mscoco"; empty: the name of the source
    pool: str = ""  # the candidates of its data set, as its `Member` rows name them; empty: all of the source
    answers: tuple[str, ...] = ()  # strings any of which makes a passage that has it relevant, for queries without judgements


@dataclass(frozen=True, slots=True)
class Judgement:
    """A relevance judgement: a candidate answers a query (above 0), or is a hard negative (0 or below)."""

    query_id: str
    item_id: str
    relevance: int = 1
    score: float | None = None  # of a teacher
    source: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A candidate is in the pool of a data set; one that is in several has a row for each."""

    pool: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Triple:
    """A picture with a question, its concise answer, and the candidates that contain the answer (the evidence)."""

    item: Item  # the question as text, with the picture
    split: str
    answer: str
    evidence: tuple[str, ...] = ()  # ids of candidates


@dataclass(frozen=True, slots=True)
class Prompt:
    """One wording of a task's instruction, from the source."""

    task: str
    wording: str
    source: str = ""  # the source, or the data set in it, whose queries it is for: a prefix of Item.source or of the query's id


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be used, with its file and line."""

    part: str  # corpus, queries, qrels, triples, prompts or pools; file: the rest of a file
    id: str
    reason: str  # one of REASONS
    detail: str
    source: str
    line: int  # 0: the file as a whole


@dataclass(frozen=True, slots=True)
class Notice:
    """Columns or files that are ignored, or an encoding that is not UTF-8, while no row is rejected."""

    source: str
    detail: str


def unread_columns(source: str, columns: Sequence[str]) -> Notice:
    """The notice of columns that are not read: the first that fit into a line, and how many more."""
    shown = len(columns)
    while shown > 1 and len(", ".join(columns[:shown])) > NAMED_LETTERS:
        shown -= 1
    names = ", ".join(columns[:shown])[:NAMED_LETTERS]
    if more := len(columns) - shown:
        names += f" and {more} more"
    if len(columns) == 1:
        return Notice(source, f"the column {names} is not read; the rows are read without it")
    return Notice(source, f"the columns {names} are not read; the rows are read without them")


Row = Candidate | Query | Judgement | Member | Triple | Prompt | RejectedRow | Notice

REASONS = {
    "bad JSON": "the line is no JSON object",
    "bad row": "a field is missing or of the wrong type",
    "bad id": "the id is empty or has white space",
    "bad task": "the task is not of the form it->t, or no answer has its target modality",
    "bad split": "the split is empty",
    "missing picture": "the file of a picture is missing or cannot be read",
    "URL": "a picture is given by a URL; nothing is fetched, so download it first",
    "video file": "a clip is given as a video file; give its frames as pictures",
    "audio": "the row has audio, which no encoder here takes",
    "placeholders": "the count of placeholders in the text is not the count of pictures",
    "empty side": "a query, a positive or a negative has neither text nor picture nor video",
    "unknown modality": "the modality is not one of text, image, video, or disagrees with the content",
    "unread column": "the row has a column that the format does not read",
    "duplicate id": "the id is used twice",
    "no answer": "the query has no positive",
    "unknown item": "the judged candidate is not in the corpus",
    "unknown query": "the judged query does not exist",
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
    """The reason for which the row that is being read is rejected; `rowwise` makes it a RejectedRow."""

    def __init__(self, reason: str, detail: str = ""):
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


LARGEST = 2**31 - 1  # of relevance
Parse = Callable[[int, Any], Iterable[Row]]


def rowwise(part: str, source: str, records: Iterable[tuple[int, Any]], parse: Parse) -> Iterator[Row]:
    """The rows that `parse` makes of each numbered record; a RejectedRow where it raises, or where the record is a RowError."""
    for line, record in records:
        try:
            if isinstance(record, RowError):
                raise record
            made = list(map(_encodable, parse(line, record)))
        except RowError as error:
            made = [_encodable(RejectedRow(part, _id_of_record(record), error.reason, error.detail, source, line))]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            made = [_encodable(RejectedRow(part, _id_of_record(record), "bad row", detail[:200], source, line))]
        yield from made


def _encodable(row: Row) -> Row:
    """The row if its texts can be encoded and its numbers stored in a table, else RowError; texts of a RejectedRow are escaped."""
    texts: tuple[str, ...]
    match row:
        case RejectedRow():
            return replace(row, id=_escaped(row.id), detail=_escaped(row.detail))
        case Notice():
            return replace(row, detail=_escaped(row.detail))
        case Judgement(query, item, relevance):
            texts = (query, item)
            if not isinstance(relevance, int) or not -LARGEST - 1 <= relevance <= LARGEST:
                raise RowError("bad row", f"the relevance is no whole number of 32 bits: {relevance!r:.80}")
        case Prompt(task, wording, source):
            texts = (task, wording, source)
        case Candidate(item):
            texts = (item.id, item.text, item.instruction)
        case Query(item, split, task, _, dataset, pool, answers):
            texts = (item.id, item.text, item.instruction, split, task, dataset, pool, *answers)
        case Member(pool, item_id):
            texts = (pool, item_id)
        case Triple(item, split, answer, evidence):
            texts = (item.id, item.text, item.instruction, split, answer, *evidence)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError("bad row", f"{_escaped(text[error.start])} is an unpaired surrogate, which no file can hold") from error
    return row


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _id_of_record(record: Any) -> str:
    """The id of a rejected record, if it has one."""
    if isinstance(record, dict):
        for name in ("id", "_id", "qid", "did", "query_id", "docid", "key", "snippet_id", "image_id", "Guid"):
            if isinstance(record.get(name), (str, int)):
                return str(record[name])
    return ""


def unnamed_candidate(
    text: str, images: tuple[bytes, ...] = (), video: tuple[bytes, ...] = (), source: str = "", line: int = 0
) -> Candidate:
    """A candidate of a format without ids; its id is a hash of its content."""
    if not (text or images or video):
        raise RowError("empty side")
    item = Item("", text, images, video, source=source, line=line)
    return Candidate(Item("c-" + content_hash(item).hex()[:32], text, images, video, source=source, line=line), named=False)


_SPLITS = {
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("dev", "val", "valid", "validation", "devel"), "validation"),
    **dict.fromkeys(("train", "training"), "train"),
}


def split_of(file: str) -> str:
    """The split in the name of a file: train, validation or test; train where it has none."""
    words = file.lower().replace("\\", "/").replace("-", "/").replace("_", "/").replace(".", "/").split("/")
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "train")


def split_named(name: str) -> str:
    """The split that a cell names: dev and val are validation, as in names of files; any other name is taken as it is."""
    return _SPLITS.get(name.strip().lower(), name.strip())
