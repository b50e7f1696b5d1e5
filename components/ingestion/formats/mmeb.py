"""MMEB's rows, Parquet or JSON lines, told apart by their columns.

    train   qry, qry_image_path, pos_text, pos_image_path, and optionally neg_text, neg_image_path
    eval    qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text (list), tgt_img_path (list)

<|image_1|> stands in a text where its picture goes; the paths of pictures are relative to the folder given as `images`; an empty text or
path is none. Of evaluation rows the first target is the answer, the others are candidates that do not answer, the split is test, and the
placeholder may be missing. `qry_inst` is the instruction of the query, `tgt_inst` that of its candidates. Several answers or negatives of
a training query are written as several rows, a query of the test split as a row for evaluation.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats.fields import (
    Examples,
    Shown,
    columns,
    data_files,
    pictures,
    pieces,
    records,
    side,
    text_of,
    unread,
    without,
)
from mirepoix.components.ingestion.formats.rows import Candidate, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import SEVERAL, Example, Files, examples, fits, marked, split_file, unworded
from mirepoix.models.item import Item

NAME = "mmeb"
WHAT = "MMEB's training and evaluation rows, Parquet or JSON lines, with <|image_1|> where the picture goes"
IMAGE = "<|image_1|>"
ROWS = 500  # written at a time
TRAIN = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
EVAL = ("qry_inst", "qry_text", "qry_img_path", "tgt_inst", "tgt_text", "tgt_img_path")
TRAIN_SCHEMA = pa.schema([(name, pa.string()) for name in TRAIN])
EVAL_SCHEMA = pa.schema([(name, pa.list_(pa.string()) if name in ("tgt_text", "tgt_img_path") else pa.string()) for name in EVAL])


def detect(place: SourceFiles) -> bool:
    return any(_kind(columns(place, file)) for file in data_files(place, "parquet", "json", "jsonl")[:4])


def _kind(names: list[str]) -> str:
    if {"qry", "pos_text"} <= set(names):
        return "train"
    return "eval" if "qry_text" in names and {"tgt_text", "tgt_img_path"} & set(names) else ""


def shards(place: SourceFiles) -> list[Shard]:
    return pieces(place, data_files(place, "parquet", "json", "jsonl"))


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    training, evaluation = Examples(place, shard), _Evaluation(place, shard)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        if "qry" not in row and "qry_text" in row:
            return evaluation.rows(line, row)
        unread(row, TRAIN)
        query = _side(place, row["qry"], row.get("qry_image_path"), "qry")
        positive = _side(place, row["pos_text"], row.get("pos_image_path"), "pos")
        negatives = []
        if row.get("neg_text") or row.get("neg_image_path"):
            negatives = [Shown(_side(place, row.get("neg_text"), row.get("neg_image_path"), "neg"))]
        return training.rows(line, query, [Shown(positive)], negatives)

    return rowwise("queries", training.source, records(place, shard), parse)


def _side(place: SourceFiles, text: Any, path: Any, what: str) -> Item:
    shown = pictures(place, path)
    return side(without(text_of(text), IMAGE, len(shown)), shown, what=what)


class _Evaluation:
    """Makes the rows of evaluation examples; a candidate comes once in a piece, and its picture is read once."""

    def __init__(self, place: SourceFiles, shard: Shard):
        self.place, self.examples = place, Examples(place, shard, "test")
        self.ids: dict[tuple[str, str, str], str] = {}  # of candidates, by instruction, text and path

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, EVAL)
        shown = pictures(self.place, row.get("qry_img_path"))
        wording, text = _spoken(row.get("qry_inst"), row.get("qry_text"), bool(shown))
        query = side(text, shown, instruction=wording, what="qry")
        texts, paths = _several(row.get("tgt_text")), _several(row.get("tgt_img_path"))
        if texts and paths and len(texts) != len(paths):
            raise RowError("bad row", f"tgt_text is {len(texts)} long, and tgt_img_path {len(paths)}")
        count = max(len(texts), len(paths))
        keys = list(zip([row.get("tgt_inst") or ""] * count, texts or [""] * count, paths or [""] * count, strict=True))
        fresh = {key: self._candidate(line, *key) for key in dict.fromkeys(keys) if key not in self.ids}
        ids = {key: fresh[key].item.id if key in fresh else self.ids[key] for key in keys}
        asked = self.examples.asked(line, query, [(ids[key], None) for key in keys[:1]], [(ids[key], None) for key in keys[1:]])
        self.ids |= {key: candidate.item.id for key, candidate in fresh.items()}
        return [*{candidate.item.id: candidate for candidate in fresh.values()}.values(), *asked]

    def _candidate(self, line: int, wording: str, text: str, path: str) -> Candidate:
        shown = pictures(self.place, path)
        if IMAGE in text and not shown:
            raise RowError("placeholders", f"{IMAGE} in a target without a picture")
        wording, text = _spoken(wording if shown else wording.replace(IMAGE, ""), text, bool(shown))
        return self.examples.candidate(line, side(text, shown, instruction=wording, what="tgt"))


def _spoken(instruction: Any, text: Any, pictured: bool) -> tuple[str, str]:
    """Instruction and text without the placeholder, which may stand in either or be missing."""
    instruction, text = text_of(instruction), text_of(text)
    counts = instruction.count(IMAGE), text.count(IMAGE)
    if sum(counts) > pictured:
        raise RowError("placeholders", f"{sum(counts)} of {IMAGE} for {int(pictured)} of what it stands for")
    return without(instruction, IMAGE, counts[0]).strip(), without(text, IMAGE, counts[1])


def _several(value: Any) -> list[str]:
    """Texts or paths, of which one may stand by itself; an empty one is none."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(cell is not None and not isinstance(cell, str) for cell in values):
        raise RowError("bad row", "a target is no text")
    return [cell or "" for cell in values]


def write(target: Path, corpus: Path) -> Counter[str]:
    left: Counter[str] = Counter()
    waiting: dict[str, list[dict[str, Any]]] = {}
    with Files(target) as files, ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}

        def flush(file: str) -> None:
            schema = EVAL_SCHEMA if file == "test.parquet" else TRAIN_SCHEMA
            if file not in writers:
                writers[file] = stack.enter_context(pq.ParquetWriter(target / file, schema))
            writers[file].write_table(pa.Table.from_pylist(waiting.pop(file), schema=schema))

        target.mkdir(parents=True, exist_ok=True)
        for example in examples(corpus, left, worded=True):
            file = split_file(example.split, NAME, "parquet")
            rows = list((_eval_rows if example.split == "test" else _train_rows)(files, example, left))
            left[SEVERAL] += len(rows) > 1
            waiting.setdefault(file, []).extend(rows)
            if len(waiting[file]) >= ROWS:
                flush(file)
        for file in list(waiting):
            flush(file)
    return +left


def _train_rows(files: Files, example: Example, left: Counter[str]) -> Iterator[dict[str, Any]]:
    for positive, negative in example.singles():
        row: dict[str, Any] = {}
        others = [unworded(shown.item, left) if shown else Item("") for shown in (positive, negative)]
        for name, item in zip(("qry", "pos", "neg"), [example.query, *others], strict=True):
            fits(item, NAME, images=1)
            row["qry" if name == "qry" else f"{name}_text"] = marked(item, NAME, IMAGE)
            row[f"{name}_image_path"] = _path(files, item)
        yield row


def _eval_rows(files: Files, example: Example, left: Counter[str]) -> Iterator[dict[str, Any]]:
    for positive in example.positives:
        items = [positive.item, *(shown.item for shown in example.negatives)]
        wording = positive.item.instruction
        left["instructions of candidates"] += sum(item.instruction != wording for item in items)
        yield {
            "qry_inst": _wording(example.query.instruction, bool(example.query.images)),
            "qry_text": _text(example.query),
            "qry_img_path": _path(files, example.query),
            "tgt_inst": _wording(wording, any(item.images for item in items)),
            "tgt_text": [_text(item) for item in items],
            "tgt_img_path": [_path(files, item) for item in items],
        }


def _wording(instruction: str, pictured: bool) -> str:
    return "\n".join(filter(None, [IMAGE * pictured, instruction]))


def _text(item: Item) -> str:
    marked(fits(item, NAME, images=1, instruction=True), NAME, IMAGE)  # refuses a text that would be read otherwise
    return item.text


def _path(files: Files, item: Item) -> str:
    return files.picture(item.images[0]) if item.images else ""
