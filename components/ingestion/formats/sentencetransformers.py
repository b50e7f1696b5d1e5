"""Columns as sentence-transformers trains on them, Parquet or JSON lines. Their order matters, not their names: the first is the query, the
second what answers it, the others do not answer.

    anchor, positive, negative_1, ...               with `score(s)`: a list of a teacher's scores, one for each document
    anchor, text, label                             1: it answers, 0: it does not; rows with equal anchors are one query
    anchor, texts, labels                           lists of documents and of 1 and 0

A list in the second column without labels are all answers; where that is the only column of documents and has scores, nothing says which
of them answer, and the row is a fault, as one with an empty text is. A cell is a text, the path of a picture (without white space, with a
picture's ending), a picture ({"bytes", "path"}), an object with any of text, image and video, or chat messages, whose system message is the
instruction. Columns called label, labels, score and scores are no input. A similarity between 0 and 1 says of no pair that it answers, so
such rows are faults. What has a column for a picture and one for a passage or an answer is taken for ViD2R, unless the format is named.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats import vid2r
from mirepoix.components.ingestion.formats.fields import (
    Examples,
    Shown,
    columns,
    data_files,
    frames,
    picture,
    pictures,
    pieces,
    records,
    scores_of,
    side,
    text_of,
    unread,
    without_audio,
)
from mirepoix.components.ingestion.formats.rows import Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, SEVERAL, ending, examples, fits, scored, split_file
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash

NAME = "sentence-transformers"
WHAT = "columns in the order anchor, positive, negatives, and a label or scores, as sentence-transformers trains on them"
LABELS, SCORES = ("label", "labels"), ("score", "scores")
FIRST = re.compile("anchor|query|sentence_?[1aA]|premise")
OTHERS = re.compile(
    r"(positive|answer|response|passage|document|image|sentence_?[2bB]|hypothesis|(hard_)?negative)s?(_?\d+)?|text|labels?|scores?"
)
PICTURE = re.compile(r"\S+\.(jpe?g|png|webp|gif|bmp|tiff?)", re.I)
HELD_BYTES = 64 << 20  # of rows that wait to be written


def detect(place: SourceFiles) -> bool:
    return any(_looks(columns(place, file)) for file in data_files(place, "parquet", "json", "jsonl")[:4])


def _looks(names: list[str]) -> bool:
    if len(names) < 2 or vid2r.looks(names):
        return False
    return bool(FIRST.fullmatch(names[0])) and all(OTHERS.fullmatch(name) for name in names[1:])


def shards(place: SourceFiles) -> list[Shard]:
    return pieces(place, data_files(place, "parquet", "json", "jsonl"))


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    made, names = Examples(place, shard), columns(place, shard.file)
    inputs = [name for name in names if name not in LABELS + SCORES]

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, names)
        if len(inputs) < 2:
            raise RowError("bad row", f"{len(inputs)} columns of input where a query and what answers it belong")
        query, *others = (_cell(place, row.get(name), name) for name in inputs)
        if len(query) != 1:
            raise RowError("empty side" if not query else "bad row", f"{inputs[0]} has {len(query)} queries")
        documents = [document for cell in others for document in cell]
        label, score = (next((row[name] for name in kind if row.get(name) is not None), None) for kind in (LABELS, SCORES))
        if label is None and not isinstance(score, list):
            label, score = score, None
        if label is not None and not isinstance(label, list):
            return _pair(made, line, query[0], documents, label, score)
        if not others[0]:
            raise RowError("empty side", inputs[1])
        if label is not None and not set(label) <= {0, 1}:
            label, score = None, label
        if label is None and score is not None and len(documents) == len(others[0]) > 1:
            raise RowError("bad row", f"{inputs[1]} has {len(documents)} documents with scores, and nothing says which of them answer")
        scores = scores_of(score, len(documents), "scores")
        answers = label or [1] * len(others[0]) + [0] * (len(documents) - len(others[0]))
        if len(answers) != len(documents):
            raise RowError("bad row", f"{len(answers)} labels for {len(documents)} documents")
        shown = [Shown(document, value) for document, value in zip(documents, scores, strict=True)]
        kinds = ([one for one, is_answer in zip(shown, answers, strict=True) if is_answer == wanted] for wanted in (1, 0))
        return made.rows(line, query[0], *kinds)

    return rowwise("queries", made.source, records(place, shard, rows=32), parse)


def _pair(made: Examples, line: int, query: Item, documents: list[Item], label: Any, score: Any) -> list[Row]:
    """A labelled pair: equal anchors in a file are one query."""
    if len(documents) != 1 or label not in (0, 1):
        raise RowError("bad row", f"label {label!r} beside {len(documents)} documents: one document with 1 or 0, or a list of one for each")
    name = re.sub(r"\s", "_", f"{made.source}:q-{content_hash(query).hex()[:32]}")
    candidate = made.candidate(line, documents[0])
    [teacher] = scores_of(None if score is None else [score], 1, "score")
    asked = Query(replace(query, id=name, source=made.source, line=line), made.split, named=False)
    return [candidate, asked, Judgement(name, candidate.item.id, int(label), teacher, made.source, line)]


def _cell(place: SourceFiles, value: Any, name: str) -> list[Item]:
    """What a cell holds: one thing, or a list of them; an empty one none."""
    if isinstance(value, list) and not (value and isinstance(value[0], dict) and "role" in value[0]):
        return [item for cell in value for item in _cell(place, cell, name)]
    if isinstance(value, list):
        return [_messages(place, value, name)]
    if isinstance(value, bytes):
        return [side(images=(value,), what=name)]
    if isinstance(value, dict):
        if "bytes" in value or "path" in value:
            return [side(images=(picture(place, value),))] if any(value.values()) else []
        unread(without_audio(value), ("text", "image", "video"))
        parts = text_of(value.get("text")), pictures(place, value.get("image")), frames(place, value.get("video"))
        return [side(*parts, what=name)] if any(cell is not None for cell in value.values()) else []
    if value is None:
        return []
    text = text_of(value)
    return [side(images=(place.picture(text),)) if PICTURE.fullmatch(text) else side(text, what=name)]


def _messages(place: SourceFiles, messages: list[Any], name: str) -> Item:
    texts: dict[str, list[str]] = {"system": [], "user": []}
    shown: tuple[bytes, ...] = ()
    moving: tuple[bytes, ...] = ()
    for message in messages:
        if message["role"] not in texts:
            raise RowError("bad row", f"{name} has a message of {message['role']!r}; there are those of system and user")
        content = message["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            kind = part["type"]
            if kind not in ("text", "image", "video"):
                raise RowError("audio" if kind == "audio" else "bad row", f"{name} has a part of type {kind!r}")
            given = part.get(kind) or part.get("path") or part.get("url")
            if kind == "text":
                texts[message["role"]].append(text_of(given))
            elif kind == "image":
                shown += pictures(place, given)
            else:
                moving += frames(place, given)
    wording, text = ("\n".join(filter(None, texts[role])) for role in ("system", "user"))
    return side(text, shown, moving, wording, name)


# Writing

TEXT, IMAGE = pa.string(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BOTH, NUMBERS = pa.struct([("text", TEXT), ("image", IMAGE)]), pa.list_(pa.float64())
VALUE, SHOWN = {"dtype": "string", "_type": "Value"}, {"_type": "Image"}
CELLS = {
    "t": (TEXT, VALUE),
    "i": (IMAGE, SHOWN),
    "it": (BOTH, {"text": VALUE, "image": SHOWN}),
}  # by modality: type, and as `datasets` has it
SCORED = (NUMBERS, {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"})


def write(target: Path, corpus: Path) -> Counter[str]:
    left: Counter[str] = Counter()
    waiting: dict[str, list[dict[str, Any]]] = {}
    schemas: dict[str, pa.Schema] = {}
    parts: Counter[str] = Counter()
    held = 0

    def flush() -> None:
        for stem, rows in waiting.items():
            pq.write_table(pa.Table.from_pylist(rows, schemas[stem]), target / f"{stem}-{parts[stem]:05d}.parquet", row_group_size=100)
            parts[stem] += 1
        waiting.clear()

    target.mkdir(parents=True, exist_ok=True)
    for example in examples(corpus, left, scored=True):
        split_file(example.split, NAME, "parquet")
        left[SEVERAL] += len(example.positives) > 1
        for positive in example.positives:
            items = [example.query, positive.item, *(shown.item for shown in example.negatives)]
            scores = [positive.score, *(shown.score for shown in example.negatives)] if scored(example, NAME) else None
            kinds = [fits(item, NAME, images=1).modality.letters for item in items]
            runs = [f"{len(list(run))}{kind}".removeprefix("1") for kind, run in groupby(kinds[2:])]
            stem = "-".join([example.split, *kinds[:2], *runs, *(["scored"] if scores else [])])
            schemas.setdefault(stem, _schema(kinds, scores is not None))
            cells = [_written(item) for item in items]
            waiting.setdefault(stem, []).append(dict(zip(schemas[stem].names, [*cells, scores], strict=False)))
            held += sum(len(item.text) + sum(map(len, item.images)) for item in items)
            if held > HELD_BYTES:
                flush()
                held = 0
    flush()
    return +left


def _schema(kinds: list[str], with_scores: bool) -> pa.Schema:
    """Columns with what `datasets` wants to know of them: files with the same columns load as one data set."""
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, len(kinds) - 1))]
    found = {name: CELLS[kind] for name, kind in zip(names, kinds, strict=True)} | ({"scores": SCORED} if with_scores else {})
    features = {"info": {"features": {name: feature for name, (_, feature) in found.items()}}}
    return pa.schema([(name, kind) for name, (kind, _) in found.items()], {"huggingface": json.dumps(features)})


def _written(item: Item) -> Any:
    if PICTURE.fullmatch(item.text):
        raise Refused(f"{NAME} would read the text of {item.id} as the path of a picture; leave that item out, or {ELSE}")
    image = {"bytes": item.images[0], "path": f"{item.id[:40]}.{ending(item.images[0])}"} if item.images else None
    return {"t": item.text, "i": image, "it": {"text": item.text, "image": image}}[item.modality.letters]
