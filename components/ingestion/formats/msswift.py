"""ms-swift's training examples for embeddings, JSON lines:

    {"messages": [{"role": "system", "content": instruction}, {"role": "user", "content": "<image>text"}], "images": [path],
     "positive_messages": [[...]], "positive_images": [[path]], "negative_messages": [[...], [...]], "negative_images": [[path], []]}

A system message is the instruction of its side. There is exactly one list of positive messages; the outer lists of pictures are as long as
those of messages, the inner ones as the count of <image> in them. `videos` likewise with <video>: a clip is a list of paths of frames.
`label` may say 1. Several answers are written as several rows.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.fields import (
    Document,
    Examples,
    data_files,
    frames,
    has_columns,
    list_of,
    pictures,
    pieces,
    refuse_unread,
    side,
    without_placeholders,
)
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import SEVERAL, Files, examples, fits, split_file, with_placeholders
from mirepoix.models.item import Item

NAME = "ms-swift"
IMAGE, VIDEO = "<image>", "<video>"
PREFIXES = ("", "positive_", "negative_")
READ = [f"{prefix}{kind}" for prefix in PREFIXES for kind in ("messages", "images", "videos")]


def detect(tree: SourceFiles) -> bool:
    return has_columns(tree, data_files(tree, "json", "jsonl"), "messages", "positive_messages")


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, data_files(tree, "json", "jsonl"))


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(tree, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        if any(row.get(f"{prefix}audios") for prefix in PREFIXES):
            raise RowError("audio")
        refuse_unread(row, (*READ, "label"))
        _positive(row.get("label"))
        query = _side(tree, row["messages"], row.get("images"), row.get("videos"), "messages")
        positives = _sides(tree, row, "positive_")
        if len(positives) != 1:
            raise RowError("bad row", f"positive_messages has {len(positives)} lists of messages; there is exactly one")
        return made.rows(line, query, positives, _sides(tree, row, "negative_"))

    return rowwise("queries", made.source, tree.records(shard), parse)


def _positive(label: Any) -> None:
    if label is None or label == 1:
        return
    if label == 0:
        raise RowError("no answer", "label is 0: the pair has no positive")
    raise RowError("bad row", f"label is {label!r}; it must be 1 or 0")


def _sides(tree: SourceFiles, row: dict[str, Any], prefix: str) -> list[Document]:
    name = f"{prefix}messages"
    messages = list_of(row.get(name), name)
    outer = []
    for kind in (f"{prefix}images", f"{prefix}videos"):
        given = list_of(row.get(kind), kind)
        if given and len(given) != len(messages):
            raise RowError("placeholders", f"{kind} is {len(given)} long, and {name} {len(messages)}")
        outer.append(given or [None] * len(messages))
    return [Document(_side(tree, turns, images, videos, name)) for turns, images, videos in zip(messages, *outer, strict=True)]


def _side(tree: SourceFiles, messages: Any, images: Any, videos: Any, what: str) -> Item:
    texts: dict[str, list[str]] = {"system": [], "user": []}
    for message in list_of(messages, what):
        role, content = message["role"], message["content"]
        if role not in texts or not isinstance(content, str):
            raise RowError("bad row", f"{what} has a message of {role!r}; a side is made of system and user messages, each one text")
        texts[role].append(content)
    pictures_read = pictures(tree, list_of(images, "images"))
    clips = list_of(videos, "videos")
    frames_read = frames(tree, clips)
    text = without_placeholders(without_placeholders("\n".join(texts["user"]), IMAGE, len(pictures_read)), VIDEO, bool(frames_read))
    return side(text, pictures_read, frames_read, "\n".join(texts["system"]), what)


def write(target: Path, corpus: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    with Files(target) as files:
        for example in examples(corpus, dropped, keep_instructions=True):
            file = split_file(example.split, NAME, "jsonl")
            dropped[SEVERAL] += len(example.positives) > 1
            for positive in example.positives:
                row: dict[str, Any] = {}
                for prefix, items in (
                    ("", [example.query]),
                    ("positive_", [positive.item]),
                    ("negative_", [document.item for document in example.negatives]),
                ):
                    cells: dict[str, list[Any]] = {"messages": [_messages(item) for item in items]}
                    cells["images"] = [files.pictures(item.images) for item in items]
                    cells["videos"] = [[files.pictures(item.video)] if item.video else [] for item in items]
                    filled = {kind: cell for kind, cell in cells.items() if any(cell)}
                    row |= {f"{prefix}{kind}": cell if prefix else cell[0] for kind, cell in filled.items()}
                files.row(file, row)
    return +dropped


def _messages(item: Item) -> list[dict[str, str]]:
    fits(item, NAME, video=True, instruction=True)
    user = {"role": "user", "content": with_placeholders(item, NAME, IMAGE, VIDEO)}
    return [{"role": "system", "content": item.instruction}, user] if item.instruction else [user]
