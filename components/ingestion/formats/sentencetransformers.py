"""Columns as sentence-transformers trains on them, Parquet or JSON lines. Their order matters, not their names: the first is the query, the
second its positive, the others are negatives.

    anchor, positive, negative_1, ...               with `score(s)`: a list of a teacher's scores, one for each document
    anchor, text, label                             1: positive, 0: negative; rows with equal anchors are one query
    anchor, texts, labels                           lists of documents and of 1 and 0

Without labels, all documents of a list in the second column are positives; if it is the only column of documents and has scores, it is
unclear which of them are positive, and the row is rejected, as is one with an empty text. A cell is a text, the path of a picture (without
white space, with a picture's extension), a picture ({"bytes", "path"}), an object with any of text, image and video, or chat messages,
whose system message is the instruction. The columns label, labels, score and scores are not input. A similarity between 0 and 1 does not
decide whether a pair is positive, so such rows are rejected. A file with a column for a picture and one for a passage or an answer is
detected as ViD2R, unless the format is named.
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
    Document,
    Examples,
    columns,
    data_files,
    frames,
    picture,
    pictures,
    pieces,
    records,
    refuse_unread,
    scores_of,
    side,
    text_of,
    without_audio,
)
from mirepoix.components.ingestion.formats.rows import Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, SEVERAL, examples, fits, has_scores, picture_suffix, split_file
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash
from mirepoix.models.picture_formats import PICTURE_ENDINGS

NAME = "sentence-transformers"
LABELS, SCORES = ("label", "labels"), ("score", "scores")
FIRST = re.compile("anchor|query|sentence_?[1aA]|premise")
OTHERS = re.compile(
    r"(positive|answer|response|passage|document|image|sentence_?[2bB]|hypothesis|(hard_)?negative)s?(_?\d+)?|text|labels?|scores?"
)
PICTURE = re.compile(rf"\S+\.({'|'.join(PICTURE_ENDINGS)})", re.I)
HELD_BYTES = 64 << 20  # of rows that are buffered


def detect(tree: SourceFiles) -> bool:
    return any(_has_known_columns(columns(tree, file)) for file in data_files(tree, "parquet", "json", "jsonl")[:4])


def _has_known_columns(names: list[str]) -> bool:
    if len(names) < 2 or vid2r.is_vid2r(names):
        return False
    return bool(FIRST.fullmatch(names[0])) and all(OTHERS.fullmatch(name) for name in names[1:])


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, data_files(tree, "parquet", "json", "jsonl"))


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    made, names = Examples(tree, shard), columns(tree, shard.file)
    inputs = [name for name in names if name not in LABELS + SCORES]

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, names)
        if len(inputs) < 2:
            raise RowError("bad row", f"{len(inputs)} columns of input where a query and what answers it belong")
        query, *others = (_cell(tree, row.get(name), name) for name in inputs)
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
        documents_scored = [Document(document, value) for document, value in zip(documents, scores, strict=True)]
        positives, negatives = (
            [one for one, is_answer in zip(documents_scored, answers, strict=True) if is_answer == wanted] for wanted in (1, 0)
        )
        return made.rows(line, query[0], positives, negatives)

    return rowwise("queries", made.source, records(tree, shard, rows=32), parse)


def _pair(made: Examples, line: int, query: Item, documents: list[Item], label: Any, score: Any) -> list[Row]:
    """A labelled pair: equal anchors in a file are one query."""
    if len(documents) != 1 or label not in (0, 1):
        raise RowError("bad row", f"label {label!r} beside {len(documents)} documents: one document with 1 or 0, or a list of one for each")
    name = re.sub(r"\s", "_", f"{made.source}:q-{content_hash(query).hex()[:32]}")
    candidate = made.candidate(line, documents[0])
    [teacher] = scores_of(None if score is None else [score], 1, "score")
    query_row = Query(replace(query, id=name, source=made.source, line=line), made.split, named=False)
    return [candidate, query_row, Judgement(name, candidate.item.id, int(label), teacher, made.source, line)]


def _cell(tree: SourceFiles, value: Any, name: str) -> list[Item]:
    """The items of a cell: one, a list of them, or none in an empty cell."""
    if isinstance(value, list) and not (value and isinstance(value[0], dict) and "role" in value[0]):
        return [item for cell in value for item in _cell(tree, cell, name)]
    if isinstance(value, list):
        return [_messages(tree, value, name)]
    if isinstance(value, bytes):
        return [side(images=(value,), what=name)]
    if isinstance(value, dict):
        if "bytes" in value or "path" in value:
            return [side(images=(picture(tree, value),))] if any(value.values()) else []
        refuse_unread(without_audio(value), ("text", "image", "video"))
        parts = text_of(value.get("text")), pictures(tree, value.get("image")), frames(tree, value.get("video"))
        return [side(*parts, what=name)] if any(cell is not None for cell in value.values()) else []
    if value is None:
        return []
    text = text_of(value)
    return [side(images=(tree.picture(text),)) if PICTURE.fullmatch(text) else side(text, what=name)]


def _messages(tree: SourceFiles, messages: list[Any], name: str) -> Item:
    texts: dict[str, list[str]] = {"system": [], "user": []}
    images: tuple[bytes, ...] = ()
    clip: tuple[bytes, ...] = ()
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
                images += pictures(tree, given)
            else:
                clip += frames(tree, given)
    wording, text = ("\n".join(filter(None, texts[role])) for role in ("system", "user"))
    return side(text, images, clip, wording, name)


# Writing

TEXT, IMAGE = pa.string(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BOTH, NUMBERS = pa.struct([("text", TEXT), ("image", IMAGE)]), pa.list_(pa.float64())
VALUE, IMAGE_VALUE = {"dtype": "string", "_type": "Value"}, {"_type": "Image"}
CELLS = {
    "t": (TEXT, VALUE),
    "i": (IMAGE, IMAGE_VALUE),
    "it": (BOTH, {"text": VALUE, "image": IMAGE_VALUE}),
}  # by modality: type, and as `datasets` has it
SCORED = (NUMBERS, {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"})


def write(target: Path, corpus: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
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
    for example in examples(corpus, dropped, keep_scores=True):
        split_file(example.split, NAME, "parquet")
        dropped[SEVERAL] += len(example.positives) > 1
        for positive in example.positives:
            items = [example.query, positive.item, *(document.item for document in example.negatives)]
            scores = [positive.score, *(document.score for document in example.negatives)] if has_scores(example, NAME) else None
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
    return +dropped


def _schema(kinds: list[str], with_scores: bool) -> pa.Schema:
    """The schema with the metadata that `datasets` needs; files with the same columns load as one data set."""
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, len(kinds) - 1))]
    found = {name: CELLS[kind] for name, kind in zip(names, kinds, strict=True)} | ({"scores": SCORED} if with_scores else {})
    features = {"info": {"features": {name: feature for name, (_, feature) in found.items()}}}
    return pa.schema([(name, kind) for name, (kind, _) in found.items()], {"huggingface": json.dumps(features)})


def _written(item: Item) -> Any:
    if PICTURE.fullmatch(item.text):
        raise Refused(f"{NAME} would read the text of {item.id} as the path of a picture; leave that item out, or {ELSE}")
    image = {"bytes": item.images[0], "path": f"{item.id[:40]}.{picture_suffix(item.images[0])}"} if item.images else None
    return {"t": item.text, "i": image, "it": {"text": item.text, "image": image}}[item.modality.letters]
