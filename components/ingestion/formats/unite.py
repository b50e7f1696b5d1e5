"""UNITE's training examples: one JSON array (or JSON lines) of

    {"query": SIDE, "candidate": SIDE, "negative": SIDE, "target_modal": "text,image"}

SIDE has any of `text`, `image` (a path, a list of paths, or {"type": "image", "image": path}) and `video` (a list of paths of frames: clips
are taken as frames). Where there is a text, <|IMAGE|> and <|VIDEO|> stand in it for each picture and for the clip. `negative` and
`target_modal` may be missing; `target_modal` must agree with the candidate. Several answers or negatives are written as several rows.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.fields import (
    Examples,
    Shown,
    data_files,
    frames,
    pictures,
    pieces,
    shows,
    side,
    text_of,
    unread,
    without,
)
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import SEVERAL, Files, examples, fits, marked, split_file
from mirepoix.models.item import Item, Modality

NAME = "unite"
WHAT = "UNITE's JSON: query, candidate and negative with any of text, image and video"
IMAGE, VIDEO = "<|IMAGE|>", "<|VIDEO|>"
MODES = {"text": Modality.TEXT, "image": Modality.IMAGE, "video": Modality.VIDEO}


def detect(place: SourceFiles) -> bool:
    return shows(place, data_files(place, "json", "jsonl"), "query", "candidate")


def shards(place: SourceFiles) -> list[Shard]:
    return pieces(place, data_files(place, "json", "jsonl"))


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    made = Examples(place, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, ("query", "candidate", "negative", "target_modal"))
        candidate = _side(place, row, "candidate")
        _agrees(row.get("target_modal"), candidate)
        negatives = [Shown(_side(place, row, "negative"))] if row.get("negative") else []
        return made.rows(line, _side(place, row, "query"), [Shown(candidate)], negatives)

    return rowwise("queries", made.source, place.records(shard), parse)


def _side(place: SourceFiles, row: dict[str, Any], name: str) -> Item:
    cell = row.get(name) or {}
    if not isinstance(cell, dict):
        raise RowError("bad row", f"{name} is a {type(cell).__name__} and no object")
    unread(cell, ("text", "image", "video"))
    text, images, video = text_of(cell.get("text")), pictures(place, cell.get("image")), frames(place, cell.get("video"))
    if text:
        text = without(without(text, IMAGE, len(images)), VIDEO, bool(video))
    return side(text, images, video, what=name)


def _agrees(told: Any, candidate: Item) -> None:
    if told is None:
        return
    if not isinstance(told, str):
        raise RowError("bad row", f"target_modal is a {type(told).__name__} and no text such as 'text,image'")
    words = {word.strip() for word in told.split(",")}
    if not words <= set(MODES):
        raise RowError("unknown modality", f"target_modal {told!r} is not made of {', '.join(MODES)}")
    if sum(MODES[word] for word in words) != candidate.modality:
        raise RowError("unknown modality", f"target_modal is {told!r}, and the candidate has {_words(candidate)}")


def _words(item: Item) -> str:
    return ",".join(word for word, mode in MODES.items() if item.modality & mode)


def write(target: Path, corpus: Path) -> Counter[str]:
    left: Counter[str] = Counter()
    begun: set[str] = set()
    with Files(target) as files:
        for example in examples(corpus, left):
            file = split_file(example.split, NAME, "json")
            pairs = list(example.singles())
            left[SEVERAL] += len(pairs) > 1
            for positive, negative in pairs:
                row = {"query": _cell(files, example.query), "candidate": _cell(files, positive.item)}
                if negative is not None:
                    row["negative"] = _cell(files, negative.item)
                row["target_modal"] = _words(positive.item)
                files.text(file, (",\n" if file in files else "[\n") + json.dumps(row, ensure_ascii=False))
                begun.add(file)
        for file in begun:
            files.text(file, "\n]\n")
    return +left


def _cell(files: Files, item: Item) -> dict[str, Any]:
    fits(item, NAME, video=True)
    cell: dict[str, Any] = {"text": marked(item, NAME, IMAGE, VIDEO)}
    if item.images:
        cell["image"] = files.pictures(item.images)
    if item.video:
        cell["video"] = files.pictures(item.video)
    return cell
