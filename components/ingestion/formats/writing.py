"""What writers share: files of JSON lines, pictures as files beside them, examples of a corpus, and what a format cannot hold.

What an item consists of is written whole or refused. What a format has no place for beside that is counted, and returned by `write`.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Self

from mirepoix.components.corpus.parts import part_rows
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import Shown
from mirepoix.components.ingestion.formats.rows import split_of
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\0", "tif"), (b"MM\0*", "tif"))
ELSE = "write another format, such as canonical"
SEVERAL = "queries that are written as several rows"  # each of which is read as a query


def ending(data: bytes) -> str:
    """The ending of a picture's file, from its first bytes; "img" if they are of no known kind."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in MAGIC if data.startswith(magic)), "img")


class Files:
    """The files of a format that is being written: rows as lines of JSON, and each picture once."""

    def __init__(self, target: Path):
        self.target = target
        self._opened: dict[str, IO[str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, file: str) -> bool:
        """Whether the file was begun."""
        return file in self._opened

    def text(self, file: str, text: str) -> None:
        """Appends to a file, which is begun anew the first time."""
        if file not in self._opened:
            path = self.target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            self._opened[file] = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        self._opened[file].write(text)

    def row(self, file: str, row: dict[str, Any]) -> None:
        self.text(file, json.dumps(row, ensure_ascii=False) + "\n")

    def picture(self, data: bytes) -> str:
        """Where the picture lies, from the target on."""
        name = f"images/{sha256(data).hexdigest()[:32]}.{ending(data)}"
        path = self.target / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return name

    def pictures(self, pictures: tuple[bytes, ...]) -> list[str]:
        return [self.picture(data) for data in pictures]


@dataclass(frozen=True, slots=True)
class Example:
    """A query with what is told of it."""

    query: Item
    split: str
    task: str
    positives: list[Shown]
    negatives: list[Shown]

    def singles(self) -> Iterator[tuple[Shown, Shown | None]]:
        """The example as pairs of one positive and at most one negative each, with each of both in it."""
        for number in range(max(len(self.positives), len(self.negatives))):
            negative = self.negatives[number] if number < len(self.negatives) else None
            yield self.positives[number % len(self.positives)], negative


def unheld(corpus: Path) -> Counter[str]:
    """How many triples and prompts a corpus has, for which most formats have no place."""
    return Counter({part: rows for part in ("triples", "prompts") if (rows := part_rows(corpus, part))})


def unworded(item: Item, left: Counter[str]) -> Item:
    """A candidate without the instruction that it may have, which is counted."""
    left["instructions of candidates"] += bool(item.instruction)
    return replace(item, instruction="") if item.instruction else item


def examples(corpus: Path, left: Counter[str], scored: bool = False, worded: bool = False) -> Iterator[Example]:
    """The examples of a corpus, and in `left` the count of what the format has no place for.

    Scores are among it unless `scored`, instructions of candidates unless `worded`.
    """
    shelf, named = CorpusReader(corpus), set()
    for query, split, task, judgements in shelf.queries():
        shown: tuple[list[Shown], list[Shown]] = ([], [])
        for told in judgements:
            named.add(told["item_id"])
            item = shelf.item(told["item_id"])
            shown[told["relevance"] <= 0].append(Shown(item if worded else unworded(item, left), told["score"]))
            left["grades of relevance"] += told["relevance"] not in (0, 1)
            left["scores of a teacher"] += told["score"] is not None and not scored
        if shown[0]:
            yield Example(query, split, task, *shown)
        else:
            left["queries without an answer"] += 1
    left["candidates that no query names"] += part_rows(corpus, "corpus") - len(named)
    left.update(unheld(corpus))


def scored(example: Example, format: str) -> bool:
    """Whether the documents of the example have scores; refused where some have and some have not."""
    scores = [shown.score is not None for shown in example.positives + example.negatives]
    if any(scores) and not all(scores):
        raise Refused(f"{format} takes scores of all documents of a query or of none, and {example.query.id} has them of some; {ELSE}")
    return all(scores)


def split_file(split: str, format: str, ending: str) -> str:
    """The name of a split's file, from which the split is read again."""
    file = f"{split}.{ending}"
    if split != split_of(file):
        raise Refused(f"split {split!r} cannot be told by the name of a {format} file; call it train, validation or test (sources.splits)")
    return file


def fits(item: Item, format: str, images: int | None = None, video: bool = False, instruction: bool = False) -> Item:
    """The item, if the format can hold what it consists of; `images` is how many pictures it takes, None any number."""
    if images is not None and len(item.images) > images:
        has = f"{len(item.images)} pictures" if len(item.images) > 1 else "a picture"
        raise Refused(f"{format} holds {'no pictures' if not images else 'one picture an item'}, and {item.id} has {has}; {ELSE}")
    if item.video and not video:
        raise Refused(f"{format} holds no clips as frames, and {item.id} has one; {ELSE}")
    if item.instruction and not instruction:
        raise Refused(f"{format} has no place for an instruction, and {item.id} has one; {ELSE}")
    return item


def marked(item: Item, format: str, image: str, video: str | None = None) -> str:
    """The text of an item behind a placeholder for each of its pictures, and for its clip."""
    for token in filter(None, (image, video)):
        if token in item.text:
            raise Refused(f"{format} would read {token} in the text of {item.id} as a placeholder; leave that item out, or {ELSE}")
    marks = image * len(item.images) + (video or "") * bool(item.video)
    return f"{marks}\n{item.text}" if marks and item.text else marks or item.text
