"""UNITE's training examples: one JSON array (or JSON lines) of

    {"query": SIDE, "candidate": SIDE, "negative": SIDE, "target_modal": "text,image"}

SIDE has any of `text`, `image` (a path, a list of paths, or {"type": "image", "image": path}) and `video` (a list of paths of frames: clips
are lists of frames). A text has the placeholder <|IMAGE|> for each picture and <|VIDEO|> for the clip. `negative` and `target_modal` may
be missing; `target_modal` must agree with the candidate. Several answers or negatives are written as several rows.
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
    pictures,
    pieces,
    refuse_unread,
    side,
    text_of,
    without_placeholders,
)
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import SEVERAL, Files, examples, fits, split_file, with_placeholders
from mirepoix.models.item import Item, Modality

NAME = "unite"
IMAGE, VIDEO = "<|IMAGE|>", "<|VIDEO|>"
MODES = {"text": Modality.TEXT, "image": Modality.IMAGE, "video": Modality.VIDEO}


def detect(tree: SourceFiles) -> bool:
    return has_columns(tree, data_files(tree, "json", "jsonl"), "query", "candidate")


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, data_files(tree, "json", "jsonl"))


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(tree, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, ("query", "candidate", "negative", "target_modal"))
        candidate = _side(tree, row, "candidate")
        _agrees(row.get("target_modal"), candidate)
        negatives = [Document(_side(tree, row, "negative"))] if row.get("negative") else []
        return made.rows(line, _side(tree, row, "query"), [Document(candidate)], negatives)

    return rowwise("queries", made.source, tree.records(shard), parse)


def _side(tree: SourceFiles, row: dict[str, Any], name: str) -> Item:
    cell = row.get(name) or {}
    if not isinstance(cell, dict):
        raise RowError("bad row", f"{name} is a {type(cell).__name__} and no object")
    refuse_unread(cell, ("text", "image", "video"))
    text, images, video = text_of(cell.get("text")), pictures(tree, cell.get("image")), frames(tree, cell.get("video"))
    if text:
        text = without_placeholders(without_placeholders(text, IMAGE, len(images)), VIDEO, bool(video))
    return side(text, images, video, what=name)


def _agrees(declared: Any, candidate: Item) -> None:
    if declared is None:
        return
    if not isinstance(declared, str):
        raise RowError("bad row", f"target_modal is a {type(declared).__name__} and no text such as 'text,image'")
    words = {word.strip() for word in declared.split(",")}
    if not words <= set(MODES):
        raise RowError("unknown modality", f"target_modal {declared!r} is not made of {', '.join(MODES)}")
    if sum(MODES[word] for word in words) != candidate.modality:
        raise RowError("unknown modality", f"target_modal is {declared!r}, and the candidate has {_words(candidate)}")


def _words(item: Item) -> str:
    return ",".join(word for word, mode in MODES.items() if item.modality & mode)


def write(target: Path, corpus: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    with Files(target) as files:
        for example in examples(corpus, dropped):
            file = split_file(example.split, NAME, "json")
            pairs = list(example.singles())
            dropped[SEVERAL] += len(pairs) > 1
            for positive, negative in pairs:
                row: dict[str, Any] = {"query": _cell(files, example.query), "candidate": _cell(files, positive.item)}
                if negative is not None:
                    row["negative"] = _cell(files, negative.item)
                row["target_modal"] = _words(positive.item)
                files.element(file, row)
    return +dropped


def _cell(files: Files, item: Item) -> dict[str, Any]:
    fits(item, NAME, video=True)
    cell: dict[str, Any] = {"text": with_placeholders(item, NAME, IMAGE, VIDEO)}
    if item.images:
        cell["image"] = files.pictures(item.images)
    if item.video:
        cell["video"] = files.pictures(item.video)
    return cell
