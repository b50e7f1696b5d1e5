"""What a picture with captions means, for every format that has no more than that (webdataset, hf-images, folder).

Each picture is a candidate, `<key>.image`. With captions, pairs of both directions come of it, in the split that the file's name says:

    <key>.i2t           the picture as a query; each caption, as a candidate named by its content, is an answer
    <key>.t2i-<hash>    a caption as a query; the picture is the answer

A label is a caption that many pictures share: it answers the picture, and is no query, since most of its answers would be unknown.
A picture without a caption is a candidate alone; so is one whose caption is there and empty, which is a fault beside it.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RejectedRow, Row, RowError, nameless, split_of
from mirepoix.components.ingestion.formats.writing import ELSE, ending, unheld
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash

ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
AUDIO = ("wav", "mp3", "flac", "ogg", "m4a", "opus", "aac")
CAPTIONS = ("text", "caption", "captions", "texts")
LABELS = ("label", "labels")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture with what is said of it."""

    key: str
    picture: bytes
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def candidate(self, source: str, line: int) -> Candidate:
        """The picture as what can be found."""
        if not self.picture:
            raise RowError("missing picture", "the picture is empty")
        return Candidate(Item(f"{self.key}.image", images=(self.picture,), source=source, line=line))

    def pairs(self, split: str, source: str, line: int, lines: Mapping[str, int] = MappingProxyType({})) -> Iterator[Row]:
        """The texts as what can be found, and the queries of both directions; `lines` has those of texts that stand in other ones."""
        texts = tuple(dict.fromkeys((*self.captions, *self.labels)))
        if not texts:
            return
        query = Item(f"{self.key}.i2t", images=(self.picture,), source=source, line=line)
        yield Query(query, split, "i->t", named=False)
        for text in texts:
            candidate = nameless(text, source=source, line=lines.get(text, line))
            yield candidate
            yield Judgement(query.id, candidate.item.id, source=source, line=candidate.item.line)
        for text in dict.fromkeys(self.captions):
            name = f"{self.key}.t2i-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
            asked = Item(name, text, source=source, line=lines.get(text, line))
            yield Query(asked, split, "t->i", named=False)
            yield Judgement(asked.id, f"{self.key}.image", source=source, line=asked.line)


def texts_of(value: Any) -> tuple[str, ...]:
    """The captions that a cell holds: one text, a list of them, or none."""
    return tuple(filter(None, map(text_of, value if isinstance(value, list) else [value])))


def blank(row: Mapping[str, Any]) -> list[str]:
    """The columns of captions and labels that have texts, all of white space; an absent cell or an empty list has none."""
    given = {name: row[name] if isinstance(row.get(name), list) else [row.get(name)] for name in (*CAPTIONS, *LABELS) if name in row}
    texts = {name: [text for text in cells if isinstance(text, str)] for name, cells in given.items()}
    return [name for name, found in texts.items() if found and not any(map(text_of, found))]


def unsaid(key: str, columns: list[str], source: str, line: int) -> RejectedRow:
    """What a caption is that says nothing; its picture stays a candidate."""
    return RejectedRow("queries", f"{key}.i2t", "empty side", f"nothing stands under {', '.join(columns)}", source, line)


def captioned(corpus: Path, format: str, left: Counter[str]) -> Iterator[tuple[str, Captioned]]:
    """The pictures of a corpus with their split ("" without captions) and what is said of them; refuses what is no such thing.

    What these formats have no place for beside that is counted in `left`. What is held are the captions.
    """
    left.update(unheld(corpus))
    shelf, told = CorpusReader(corpus), _Told(format, left)
    for query, split, _, judgements in shelf.queries():
        told.take(query, split, judgements, lambda id: id in shelf)
    texts = {id: text for id, text in shelf.texts() if id in told.texts}
    for item in shelf.candidates():
        if item.instruction:
            raise told.refused(f"an instruction, as candidate {item.id!r} has")
        if item.text and not item.images and not item.video:
            if item.id not in told.texts:
                raise told.refused(f"text without a picture, as candidate {item.id!r} is")
        elif item.text or item.video or len(item.images) != 1:
            raise told.refused(f"what is not one picture, as candidate {item.id!r}")
        else:
            yield told.of(item, texts)
    if lost := [*told.said.values(), *told.shown.values()]:
        raise told.refused(f"query {lost[0][0]!r}, whose picture is no candidate")


class _Told:
    """What the queries of a corpus say of its pictures."""

    def __init__(self, format: str, left: Counter[str]):
        self.format, self.left = format, left
        self.said: dict[str, tuple[str, str, list[str]]] = {}  # picture's id: a query, split, captions
        self.shown: dict[str | bytes, tuple[str, str, list[str]]] = {}  # picture's id or hash: a query, split, ids of texts
        self.texts: set[str] = set()

    def refused(self, what: str) -> Refused:
        return Refused(f"{self.format} cannot hold {what}; it holds pictures with captions; {ELSE}")

    def take(self, query: Item, split: str, judgements: list[dict[str, Any]], there: Callable[[str], bool]) -> None:
        named = f"as query {query.id!r} has"
        if split_of(f"{split}.x") != split or split not in SPLITS:
            raise self.refused(f"split {split!r}, {named}")
        if query.instruction:
            raise self.refused(f"an instruction, {named}")
        self.left["negatives"] += sum(row["relevance"] <= 0 for row in judgements)
        self.left["grades of relevance"] += sum(row["relevance"] not in (0, 1) for row in judgements)
        self.left["scores of a teacher"] += sum(row["score"] is not None for row in judgements)
        answers = [row["item_id"] for row in judgements if row["relevance"] > 0]
        if not answers:
            self.left["queries without an answer"] += 1
            return
        if query.video or len(query.images) != (not query.text) or (query.text and len(answers) > 1):
            raise self.refused(f"query {query.id!r}, which is neither one picture nor the caption of one")
        if query.text:
            self._note(self.said, answers[0], query, split, [query.text])
        else:
            picture = query.id.removesuffix(".i2t") + ".image"
            place = picture if picture != f"{query.id}.image" and there(picture) else content_hash(query)
            self._note(self.shown, place, query, split, answers)
            self.texts.update(answers)

    def _note(self, told: dict[Any, tuple[str, str, list[str]]], place: str | bytes, query: Item, split: str, texts: list[str]) -> None:
        _, other, noted = told.setdefault(place, (query.id, split, []))
        if other != split:
            raise self.refused(f"one picture in the splits {other} and {split}, as query {query.id!r} has it")
        noted.extend(texts)

    def of(self, item: Item, texts: dict[str, str]) -> tuple[str, Captioned]:
        said = self.said.pop(item.id, None)
        shown = self.shown.pop(item.id, None) or self.shown.pop(content_hash(item), None)
        captions = said[2] if said else []
        answers = [texts.get(id, "") for id in shown[2]] if shown else []
        if not all(answers):
            raise self.refused(f"query {shown[0]!r}, which a picture answers")  # type: ignore[index]
        labels = [text for text in answers if text not in captions]
        splits = {told[1] for told in (said, shown) if told}
        if len(splits) > 1 or (captions and labels):
            raise self.refused(f"different splits or answers in the two directions, as candidate {item.id!r} has")
        return "".join(splits), Captioned(item.id.removesuffix(".image"), item.images[0], tuple(captions), tuple(labels))


def safe_name(key: str) -> bool:
    """Whether a key can be the name of a picture's file as it stands."""
    plain = re.fullmatch(r"[\w./-]+", key, re.A) and posixpath.normpath(key) == key and not re.search(r"(^|/)\.", key)
    return bool(plain) and not key.startswith("/") and key.lower().rpartition(".")[2] in ENDINGS


def named_ending(picture: bytes, id: str) -> str:
    """The ending of a picture's file, by which it is known as a picture."""
    found = ending(picture)
    if found not in ENDINGS:
        raise Refused(
            f"candidate {id!r} is no JPEG, PNG, WEBP, GIF, BMP or TIFF picture, so no file can be named for it; curate the corpus first"
        )
    return found
