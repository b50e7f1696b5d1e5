"""The rows made of captioned pictures, for the formats that have nothing else (webdataset, hf-images, folder).

Each picture is a candidate, `<key>.image`. Its captions give queries in both directions, in the split of the file's name:

    <key>.i2t           the picture as a query; each caption is an answer, as a candidate whose id is a hash of its content
    <key>.t2i-<hash>    a caption as a query; the picture is the answer

Where captions are read together with their pictures (`sources.captions`), a picture and its captions are one candidate, `<key>.image`, with
the captions as its text, a line each; labels where there are none. No query is made of them: a caption is in its own answer word for word.

A label is a caption that many pictures share: it answers the picture, but is no query, since most of its answers would be unjudged.
A picture without a caption is only a candidate; so is one whose caption is blank, and that caption is rejected.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RejectedRow, Row, RowError, split_of, unnamed_candidate
from mirepoix.components.ingestion.formats.writing import ELSE, count_unsupported, picture_suffix
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash
from mirepoix.models.picture_formats import PICTURE_ENDINGS

AUDIO = ("wav", "mp3", "flac", "ogg", "m4a", "opus", "aac")
CAPTIONS = ("text", "caption", "captions", "texts")
LABELS = ("label", "labels")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture with its captions and labels."""

    key: str
    picture: bytes
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def candidate(self, source: str, line: int) -> Candidate:
        """The picture as a candidate."""
        if not self.picture:
            raise RowError("missing picture", "the picture is empty")
        return Candidate(Item(f"{self.key}.image", images=(self.picture,), source=source, line=line))

    def joined(self, source: str, line: int) -> Candidate:
        """The picture and its captions, or else its labels, as one candidate."""
        return replace(
            alone := self.candidate(source, line), item=replace(alone.item, text="\n".join(dict.fromkeys(self.captions or self.labels)))
        )

    def rows(self, captions: str, split: str, source: str, line: int) -> Iterator[Row]:
        """The candidates and queries of the picture, with its captions apart or together."""
        if captions == "together":
            yield self.joined(source, line)
        else:
            yield self.candidate(source, line)
            yield from self.pairs(split, source, line)

    def pairs(self, split: str, source: str, line: int, lines: Mapping[str, int] = MappingProxyType({})) -> Iterator[Row]:
        """The texts as candidates, and the queries of both directions; `lines` has the lines of texts that are not in `line`."""
        texts = tuple(dict.fromkeys((*self.captions, *self.labels)))
        if not texts:
            return
        query = Item(f"{self.key}.i2t", images=(self.picture,), source=source, line=line)
        yield Query(query, split, "i->t", named=False)
        for text in texts:
            candidate = unnamed_candidate(text, source=source, line=lines.get(text, line))
            yield candidate
            yield Judgement(query.id, candidate.item.id, source=source, line=candidate.item.line)
        for text in dict.fromkeys(self.captions):
            name = f"{self.key}.t2i-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
            caption = Item(name, text, source=source, line=lines.get(text, line))
            yield Query(caption, split, "t->i", named=False)
            yield Judgement(caption.id, f"{self.key}.image", source=source, line=caption.line)


def texts_of(value: Any) -> tuple[str, ...]:
    """The captions of a cell: one text, a list of them, or none."""
    return tuple(filter(None, map(text_of, value if isinstance(value, list) else [value])))


def blank_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns of captions and labels whose texts are all white space; an absent cell or an empty list is not blank."""
    given = {name: row[name] if isinstance(row.get(name), list) else [row.get(name)] for name in (*CAPTIONS, *LABELS) if name in row}
    texts = {name: [text for text in cells if isinstance(text, str)] for name, cells in given.items()}
    return [name for name, found in texts.items() if found and not any(map(text_of, found))]


def blank_caption(key: str, columns: list[str], source: str, line: int) -> RejectedRow:
    """The rejection of a blank caption, whose picture remains a candidate."""
    return RejectedRow("queries", f"{key}.i2t", "empty side", f"no text in {', '.join(columns)}", source, line)


def captioned(corpus: Path, format: str, dropped: Counter[str]) -> Iterator[tuple[str, Captioned]]:
    """The captioned pictures of a corpus with their split ("" without captions); refuses other content.

    Counts in `dropped` what these formats cannot represent besides. Only the captions are kept in memory.
    """
    dropped.update(count_unsupported(corpus))
    reader, index = CorpusReader(corpus), _CaptionIndex(format, dropped)
    for query, split, _, judgements in reader.queries():
        index.add_query(query, split, judgements, lambda id: id in reader)
    texts = {id: text for id, text in reader.texts() if id in index.texts}
    for item in reader.candidates():
        if item.instruction:
            raise index.refusal(f"an instruction, as candidate {item.id!r} has")
        if item.text and not item.images and not item.video:
            if item.id not in index.texts:
                raise index.refusal(f"text without a picture, as candidate {item.id!r} is")
        elif item.text or item.video or len(item.images) != 1:
            raise index.refusal(f"what is not one picture, as candidate {item.id!r}")
        else:
            yield index.captioned_item(item, texts)
    if lost := [*index.by_text.values(), *index.by_picture.values()]:
        raise index.refusal(f"query {lost[0][0]!r}, whose picture is no candidate")


class _CaptionIndex:
    """The captions and labels of a corpus's pictures, collected from its queries."""

    def __init__(self, format: str, dropped: Counter[str]):
        self.format, self.dropped = format, dropped
        self.by_text: dict[str, tuple[str, str, list[str]]] = {}  # picture's id -> a query, split, captions
        self.by_picture: dict[str | bytes, tuple[str, str, list[str]]] = {}  # picture's id or hash -> a query, split, ids of texts
        self.texts: set[str] = set()

    def refusal(self, what: str) -> Refused:
        return Refused(f"{self.format} cannot hold {what}; it holds pictures with captions; {ELSE}")

    def add_query(self, query: Item, split: str, judgements: list[dict[str, Any]], is_candidate: Callable[[str], bool]) -> None:
        named = f"as query {query.id!r} has"
        if split_of(f"{split}.x") != split or split not in SPLITS:
            raise self.refusal(f"split {split!r}, {named}")
        if query.instruction:
            raise self.refusal(f"an instruction, {named}")
        self.dropped["negatives"] += sum(row["relevance"] <= 0 for row in judgements)
        self.dropped["grades of relevance"] += sum(row["relevance"] not in (0, 1) for row in judgements)
        self.dropped["scores of a teacher"] += sum(row["score"] is not None for row in judgements)
        answers = [row["item_id"] for row in judgements if row["relevance"] > 0]
        if not answers:
            self.dropped["queries without an answer"] += 1
            return
        if query.video or len(query.images) != (not query.text) or (query.text and len(answers) > 1):
            raise self.refusal(f"query {query.id!r}, which is neither one picture nor the caption of one")
        if query.text:
            self._collect(self.by_text, answers[0], query, split, [query.text])
        else:
            picture = query.id.removesuffix(".i2t") + ".image"
            key = picture if picture != f"{query.id}.image" and is_candidate(picture) else content_hash(query)
            self._collect(self.by_picture, key, query, split, answers)
            self.texts.update(answers)

    def _collect(self, table: dict[Any, tuple[str, str, list[str]]], key: str | bytes, query: Item, split: str, texts: list[str]) -> None:
        _, other, noted = table.setdefault(key, (query.id, split, []))
        if other != split:
            raise self.refusal(f"one picture in the splits {other} and {split}, as query {query.id!r} has it")
        noted.extend(texts)

    def captioned_item(self, item: Item, texts: dict[str, str]) -> tuple[str, Captioned]:
        by_text = self.by_text.pop(item.id, None)
        by_picture = self.by_picture.pop(item.id, None) or self.by_picture.pop(content_hash(item), None)
        captions = by_text[2] if by_text else []
        answers = [texts.get(id, "") for id in by_picture[2]] if by_picture else []
        if not all(answers):
            raise self.refusal(f"query {by_picture[0]!r}, which a picture answers")  # type: ignore[index]
        labels = [text for text in answers if text not in captions]
        splits = {query[1] for query in (by_text, by_picture) if query}
        if len(splits) > 1 or (captions and labels):
            raise self.refusal(f"different splits or answers in the two directions, as candidate {item.id!r} has")
        return "".join(splits), Captioned(item.id.removesuffix(".image"), item.images[0], tuple(captions), tuple(labels))


def safe_name(key: str) -> bool:
    """Whether a key can be used unchanged as the name of a picture's file."""
    plain = re.fullmatch(r"[\w./-]+", key, re.A) and posixpath.normpath(key) == key and not re.search(r"(^|/)\.", key)
    return bool(plain) and not key.startswith("/") and key.lower().rpartition(".")[2] in PICTURE_ENDINGS


def known_suffix(picture: bytes, id: str) -> str:
    """The extension of a picture's file, by its content; refused if the format is unknown."""
    found = picture_suffix(picture)
    if found not in PICTURE_ENDINGS:
        raise Refused(
            f"candidate {id!r} is no JPEG, PNG, WEBP, GIF, BMP or TIFF picture, so no file can be named for it; curate the corpus first"
        )
    return found
