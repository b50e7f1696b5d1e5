"""MMEB's training and evaluation rows, Parquet or JSON lines, recognised by their columns.

    train   qry, qry_image_path, pos_text, pos_image_path, and optionally neg_text, neg_image_path
    eval    qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text (list), tgt_img_path (list)

<|image_1|> is the placeholder of the picture in a text; the paths of pictures are relative to the folder given as `images`; an empty text
or path is none. In evaluation rows the first target is the answer, the others are judged irrelevant, the split is test, and the
placeholder may be missing. A target that is repeated in the list of a query is one candidate, and an answer if the first is. `qry_inst` is
the instruction of the query, `tgt_inst` that of its candidates; equal targets under one instruction are one candidate. Several answers or
negatives of a training query are written as several rows, a query of the test split as an evaluation row.

The data set of a query is the subset, as its folder or else its file is called: ImageNet-1K in ImageNet-1K/test-00000-of-00001.parquet,
ImageNet-1K/test/0000.parquet and ImageNet-1K.jsonl. Files of splits that are not read are not opened, but that the columns of those whose
name does not say test are read, since evaluation rows are of that split.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats.benchmark_files import PICTURED, UNPACKED, DataSet, Missing, first_rows, missing_picture, some_of
from mirepoix.components.ingestion.formats.fields import (
    Document,
    Examples,
    columns,
    data_files,
    pictures,
    pieces,
    records,
    refuse_unread,
    side,
    text_of,
    without_placeholders,
)
from mirepoix.components.ingestion.formats.rows import Candidate, Query, Row, RowError, rowwise, split_named
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import (
    SEVERAL,
    Example,
    Files,
    examples,
    fits,
    split_file,
    with_placeholders,
    without_instruction,
)
from mirepoix.models.item import Item, encoded_hash

NAME = "mmeb"
ORIGIN = "hf.co/datasets/TIGER-Lab/MMEB-eval"
IMAGE = "<|image_1|>"
ROWS = 500  # written at a time
COMMON = ("", "data", "eval", "original", "diverse_instruction")  # original and diverse_instruction: splits of the training rows
TRAIN = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
EVAL = ("qry_inst", "qry_text", "qry_img_path", "tgt_inst", "tgt_text", "tgt_img_path")
TRAIN_SCHEMA = pa.schema([(name, pa.string()) for name in TRAIN])
EVAL_SCHEMA = pa.schema([(name, pa.list_(pa.string()) if name in ("tgt_text", "tgt_img_path") else pa.string()) for name in EVAL])


def detect(tree: SourceFiles) -> bool:
    return any(_kind(columns(tree, file)) for file in data_files(tree, "parquet", "json", "jsonl")[:4])


def _kind(names: list[str]) -> str:
    if {"qry", "pos_text"} <= set(names):
        return "train"
    return "eval" if "qry_text" in names and {"tgt_text", "tgt_img_path"} & set(names) else ""


def datasets(tree: SourceFiles) -> list[DataSet]:
    names = sorted({subset(file) for file in data_files(tree, "parquet", "json", "jsonl") if _is_read(tree, file)} - {""})
    return [DataSet(name, name, modality=PICTURED) for name in names]


def missing(tree: SourceFiles) -> list[Missing]:
    """The benchmark needs rows of evaluation, and the pictures that they name."""
    files: dict[str, list[str]] = {}
    for file in _files(tree):
        if tree.reads("test") and _kind(columns(tree, file)) == "eval":
            files.setdefault(subset(file), []).append(file)
    if not files:
        return [Missing("rows of evaluation, ImageNet-1K/test-*.parquet and others", ORIGIN)]
    pictures = {name: first for name, found in files.items() if (first := first_missing_picture(tree, found[0]))}
    if not pictures:
        return []
    what = f"the pictures of {some_of([*pictures])}, such as {next(iter(pictures.values()))}"
    return [Missing(what, f"images.zip at {ORIGIN}", UNPACKED)]


def first_missing_picture(tree: SourceFiles, file: str) -> str:
    """The first picture that the rows of a file begin with, if none of these is there; empty if one is."""
    return missing_picture(tree, ((path,) for row in first_rows(tree, file) for path in _paths(row)))


def _paths(row: dict[str, Any]) -> list[str]:
    """The pictures that a row of evaluation names."""
    targets = row.get("tgt_img_path")
    given = [row.get("qry_img_path"), *(targets if isinstance(targets, list) else [targets])]
    return [path for path in given if isinstance(path, str) and path]


def shards(tree: SourceFiles) -> list[Shard]:
    return pieces(tree, _files(tree))


def _files(tree: SourceFiles) -> list[str]:
    """The files that are read."""
    return [file for file in data_files(tree, "parquet", "json", "jsonl") if tree.reads_dataset(subset(file)) and _is_read(tree, file)]


def _is_read(tree: SourceFiles, file: str) -> bool:
    """Whether a file may have rows of the splits that are read."""
    return tree.reads(tree.split(file)) or (tree.reads("test") and _kind(columns(tree, file)) == "eval")


def subset(file: str) -> str:
    """The subset that a file is of, by the last folder that is called otherwise than a split, or else by its name; empty if none is."""
    *folders, name = file.split("/")
    stem = re.sub(r"(?i)(-\d+-of-\d+)?\.(parquet|jsonl?)(\.gz)?$", "", name)
    whole = re.sub(r"(?i)[-_.](train|dev|val|validation|test)$", "", stem)
    return next((step for step in (*reversed(folders), whole) if not _is_common(step)), "")


def _is_common(step: str) -> bool:
    """Whether a step of a path is the name of no subset: a split's, a number, or that of a folder of all."""
    return step.isdecimal() or step.lower() in COMMON or split_named(step) in ("train", "validation", "test")


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    training, evaluation = Examples(tree, shard), _Evaluation(tree, shard)
    name = subset(shard.file)

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        return [replace(made, dataset=name) if isinstance(made, Query) else made for made in parsed(line, row)]

    def parsed(line: int, row: dict[str, Any]) -> list[Row]:
        if "qry" not in row and "qry_text" in row:
            return evaluation.rows(line, row)
        refuse_unread(row, TRAIN)
        query = _side(tree, row["qry"], row.get("qry_image_path"), "qry")
        positive = _side(tree, row["pos_text"], row.get("pos_image_path"), "pos")
        negatives = []
        if row.get("neg_text") or row.get("neg_image_path"):
            negatives = [Document(_side(tree, row.get("neg_text"), row.get("neg_image_path"), "neg"))]
        return training.rows(line, query, [Document(positive)], negatives)

    return rowwise("queries", training.source, records(tree, shard), parse)


def _side(tree: SourceFiles, text: Any, path: Any, what: str) -> Item:
    images = pictures(tree, path)
    return side(without_placeholders(text_of(text), IMAGE, len(images)), images, what=what)


class _Evaluation:
    """Makes the rows of evaluation examples; each candidate is yielded once per piece, and its picture is read once."""

    def __init__(self, tree: SourceFiles, shard: Shard):
        self.tree, self.examples = tree, Examples(tree, shard, "test")
        self.ids: dict[tuple[str, str, str], str] = {}  # of candidates, by instruction, text and path

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, EVAL)
        images = pictures(self.tree, row.get("qry_img_path"))
        wording, text = _split_placeholder(row.get("qry_inst"), row.get("qry_text"), bool(images))
        query = side(text, images, instruction=wording, what="qry")
        texts, paths = _several(row.get("tgt_text")), _several(row.get("tgt_img_path"))
        if texts and paths and len(texts) != len(paths):
            raise RowError("bad row", f"tgt_text is {len(texts)} long, and tgt_img_path {len(paths)}")
        count = max(len(texts), len(paths))
        keys = list(zip([row.get("tgt_inst") or ""] * count, texts or [""] * count, paths or [""] * count, strict=True))
        fresh = {key: self._candidate(line, *key) for key in dict.fromkeys(keys) if key not in self.ids}
        ids = {key: fresh[key].item.id if key in fresh else self.ids[key] for key in keys}
        judged_query = self.examples.judged_query(
            line, query, [(ids[key], None) for key in keys[:1]], [(ids[key], None) for key in keys[1:]]
        )
        self.ids |= {key: candidate.item.id for key, candidate in fresh.items()}
        return [*{candidate.item.id: candidate for candidate in fresh.values()}.values(), *judged_query]

    def _candidate(self, line: int, wording: str, text: str, path: str) -> Candidate:
        images = pictures(self.tree, path)
        if IMAGE in text and not images:
            raise RowError("placeholders", f"{IMAGE} in a target without a picture")
        wording, text = _split_placeholder(wording if images else wording.replace(IMAGE, ""), text, bool(images))
        made = self.examples.candidate(line, side(text, images, instruction=wording, what="tgt"))
        return replace(made, item=replace(made.item, id=f"c-{encoded_hash(made.item).hex()[:32]}")) if wording else made


def _split_placeholder(instruction: Any, text: Any, pictured: bool) -> tuple[str, str]:
    """Instruction and text without the placeholder, which may be in either or missing."""
    instruction, text = text_of(instruction), text_of(text)
    counts = instruction.count(IMAGE), text.count(IMAGE)
    if sum(counts) > pictured:
        raise RowError("placeholders", f"{IMAGE} is there {sum(counts)} times; pictures: {int(pictured)}")
    return without_placeholders(instruction, IMAGE, counts[0]).strip(), without_placeholders(text, IMAGE, counts[1])


def _several(value: Any) -> list[str]:
    """The texts or paths of a cell with one or a list of them; an absent one is empty."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(cell is not None and not isinstance(cell, str) for cell in values):
        raise RowError("bad row", "a target is no text")
    return [cell or "" for cell in values]


def write(target: Path, corpus: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    waiting: dict[str, list[dict[str, Any]]] = {}
    with Files(target) as files, ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}

        def flush(file: str) -> None:
            schema = EVAL_SCHEMA if file.endswith("test.parquet") else TRAIN_SCHEMA
            if file not in writers:
                (target / file).parent.mkdir(exist_ok=True)
                writers[file] = stack.enter_context(pq.ParquetWriter(target / file, schema))
            writers[file].write_table(pa.Table.from_pylist(waiting.pop(file), schema=schema))

        target.mkdir(parents=True, exist_ok=True)
        for example in examples(corpus, dropped, keep_instructions=True):
            file = split_file(example.split, NAME, "parquet")
            if name := example.dataset:
                named = re.fullmatch(r"[\w.-]+", name) and subset(f"{name}/{file}") == name
                dropped["names of data sets"] += not named
                file = f"{name}/{file}" if named else file
            rows = list((_eval_rows if example.split == "test" else _train_rows)(files, example, dropped))
            dropped[SEVERAL] += len(rows) > 1
            waiting.setdefault(file, []).extend(rows)
            if len(waiting[file]) >= ROWS:
                flush(file)
        for file in list(waiting):
            flush(file)
    return +dropped


def _train_rows(files: Files, example: Example, dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    for positive, negative in example.singles():
        row: dict[str, Any] = {}
        others = [without_instruction(document.item, dropped) if document else Item("") for document in (positive, negative)]
        for name, item in zip(("qry", "pos", "neg"), [example.query, *others], strict=True):
            fits(item, NAME, images=1)
            row["qry" if name == "qry" else f"{name}_text"] = with_placeholders(item, NAME, IMAGE)
            row[f"{name}_image_path"] = _path(files, item)
        yield row


def _eval_rows(files: Files, example: Example, dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    for positive in example.positives:
        items = [positive.item, *(document.item for document in example.negatives)]
        wording = positive.item.instruction
        dropped["instructions of candidates"] += sum(item.instruction != wording for item in items)
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
    with_placeholders(fits(item, NAME, images=1, instruction=True), NAME, IMAGE)  # refuses a text that contains the placeholder
    return item.text


def _path(files: Files, item: Item) -> str:
    return files.picture(item.images[0]) if item.images else ""
