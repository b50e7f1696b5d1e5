"""Helpers for writing formats: files of JSON lines, picture files, the examples of a corpus, and checks of what a format can represent.

The content of an item is written whole or refused. Other fields that a format cannot represent are counted, and `write` returns the counts.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Self

from mirepoix.components.corpus.parts import part_rows, part_tables
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import Document
from mirepoix.components.ingestion.formats.rows import split_of
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.picture_formats import picture_format

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
ELSE = "write another format, such as canonical"
UNSUPPORTED = {"triples": "triples", "prompts": "prompts", "pools": "members of pools"}
SEVERAL = "queries that are written as several rows"  # each is read as a query of its own


def picture_suffix(data: bytes) -> str:
    """The ending of a picture's file, from its first bytes; "img" if they are of no known kind."""
    return SUFFIXES.get(picture_format(data), "img")


class Files:
    """The files of a format that is being written: rows as lines of JSON, and each picture once."""

    def __init__(self, target: Path):
        self.target = target
        self._opened: dict[str, IO[str]] = {}
        self._arrays: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._arrays:
            self.text(file, "\n]\n")
        self._stack.close()

    def __contains__(self, file: str) -> bool:
        """Whether the file was started."""
        return file in self._opened

    def text(self, file: str, text: str) -> None:
        """Appends to a file; the first call replaces it."""
        if file not in self._opened:
            path = self.target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            self._opened[file] = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        self._opened[file].write(text)

    def row(self, file: str, row: dict[str, Any]) -> None:
        self.text(file, json.dumps(row, ensure_ascii=False) + "\n")

    def element(self, file: str, element: dict[str, Any]) -> None:
        """Appends to a file that is one JSON array, which ends with the others."""
        self.text(file, (",\n" if file in self._arrays else "[\n") + json.dumps(element, ensure_ascii=False))
        self._arrays.add(file)

    def picture(self, data: bytes) -> str:
        """Writes the picture once, named by its hash, and returns its path relative to the target."""
        name = f"images/{sha256(data).hexdigest()[:32]}.{picture_suffix(data)}"
        path = self.target / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return name

    def pictures(self, pictures: tuple[bytes, ...]) -> list[str]:
        return [self.picture(data) for data in pictures]


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its positive and negative documents."""

    query: Item
    split: str
    task: str
    positives: list[Document]
    negatives: list[Document]
    dataset: str = ""

    def singles(self) -> Iterator[tuple[Document, Document | None]]:
        """The example as pairs of a positive and at most one negative, so that every document is in some pair."""
        for number in range(max(len(self.positives), len(self.negatives))):
            negative = self.negatives[number] if number < len(self.negatives) else None
            yield self.positives[number % len(self.positives)], negative


def count_unsupported(corpus: Path) -> Counter[str]:
    """The counts of what most formats cannot represent: triples, prompts, members of pools, and queries with answers as texts."""
    found = Counter({name: rows for part, name in UNSUPPORTED.items() if (rows := part_rows(corpus, part))})
    for table in part_tables(corpus, "queries", ["answers"]):
        if count := sum(map(bool, table["answers"].to_pylist())):
            found["answers as texts"] += count
    return found


def without_instruction(item: Item, dropped: Counter[str]) -> Item:
    """The candidate without its instruction, which is counted in `dropped`."""
    dropped["instructions of candidates"] += bool(item.instruction)
    return replace(item, instruction="") if item.instruction else item


def examples(corpus: Path, dropped: Counter[str], keep_scores: bool = False, keep_instructions: bool = False) -> Iterator[Example]:
    """The examples of a corpus; counts in `dropped` what the format cannot represent.

    Scores are counted as dropped unless `keep_scores`, instructions of candidates unless `keep_instructions`.
    """
    reader, named = CorpusReader(corpus), set()
    for (query, split, task, judgements), origin in zip(reader.queries(), reader.origins(), strict=True):
        documents: tuple[list[Document], list[Document]] = ([], [])
        for judgement in judgements:
            named.add(judgement["item_id"])
            item = reader.item(judgement["item_id"])
            documents[judgement["relevance"] <= 0].append(
                Document(item if keep_instructions else without_instruction(item, dropped), judgement["score"])
            )
            dropped["grades of relevance"] += judgement["relevance"] not in (0, 1)
            dropped["scores of a teacher"] += judgement["score"] is not None and not keep_scores
        if documents[0]:
            yield Example(query, split, task, *documents, origin.dataset)
        else:
            dropped["queries without an answer"] += 1
    dropped["candidates that no query names"] += part_rows(corpus, "corpus") - len(named)
    dropped.update(count_unsupported(corpus))


def has_scores(example: Example, format: str) -> bool:
    """Whether the documents of the example have scores; refused if only some of them have."""
    scores = [document.score is not None for document in example.positives + example.negatives]
    if any(scores) and not all(scores):
        raise Refused(f"{format} takes scores of all documents of a query or of none, and {example.query.id} has them of some; {ELSE}")
    return all(scores)


def split_file(split: str, format: str, extension: str) -> str:
    """The file name of a split, refused if the reader would take another split from it."""
    file = f"{split}.{extension}"
    if split != split_of(file):
        raise Refused(
            f"split {split!r} cannot be expressed in the name of a {format} file; rename it to train, validation or test (sources.splits)"
        )
    return file


def fits(item: Item, format: str, images: int | None = None, video: bool = False, instruction: bool = False) -> Item:
    """The item if the format can represent its content, else Refused; `images` is the most pictures an item may have, None any number."""
    if images is not None and len(item.images) > images:
        has = f"{len(item.images)} pictures" if len(item.images) > 1 else "a picture"
        raise Refused(f"{format} holds {'no pictures' if not images else 'one picture an item'}, and {item.id} has {has}; {ELSE}")
    if item.video and not video:
        raise Refused(f"{format} holds no clips as frames, and {item.id} has one; {ELSE}")
    if item.instruction and not instruction:
        raise Refused(f"{format} has no place for an instruction, and {item.id} has one; {ELSE}")
    return item


def with_placeholders(item: Item, format: str, image: str, video: str | None = None) -> str:
    """The text of an item after a placeholder for each of its pictures, and for its clip."""
    for token in filter(None, (image, video)):
        if token in item.text:
            raise Refused(f"{format} would read {token} in the text of {item.id} as a placeholder; leave that item out, or {ELSE}")
    marks = image * len(item.images) + (video or "") * bool(item.video)
    return f"{marks}\n{item.text}" if marks and item.text else marks or item.text
