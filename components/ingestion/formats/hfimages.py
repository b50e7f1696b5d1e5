"""Hugging Face image data sets: Parquet with a column of pictures as {bytes, path}.

    data/train-00000-of-00002.parquet    image (or any column of that type), and text, caption, captions or texts (a text or a list);
                                         label or labels, a text or the number of a ClassLabel, where there is no caption; id or key

A picture without bytes is read from its path, relative to the source or to the folder given as `images`. The names of a ClassLabel come
from the metadata that `datasets` writes into the file under `huggingface`. A row is named by its `id` or `key`, or else after its file
and number. captions.py describes the rows made of captions. Other columns are reported in one notice per file.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats.captions import (
    CAPTIONS,
    LABELS,
    SPLITS,
    Captioned,
    blank_caption,
    blank_columns,
    captioned,
    texts_of,
)
from mirepoix.components.ingestion.formats.fields import id_of, picture, records
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise, unread_columns
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused

NAME = "hf-images"
FILES = r".*\.parquet"
KEYS = ("id", "key")
GROUP_ROWS, GROUP_BYTES = 1000, 16 << 20
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("id", pa.string()), ("image", PICTURE), ("captions", pa.list_(pa.string())), ("labels", pa.list_(pa.string()))])
_TEXTS = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
_FEATURES = {"id": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}, "captions": _TEXTS, "labels": _TEXTS}


def detect(tree: SourceFiles) -> bool:
    """A Parquet file with one column of pictures, and besides it captions or labels, or only columns of primitive types."""
    files = tree.files(FILES)
    if not files:
        return False
    schema = tree.schema(files[0])
    others = [field for field in schema if field.name not in (*CAPTIONS, *LABELS, *KEYS)]
    text_columns = [name for name in (*CAPTIONS, *LABELS) if name in schema.names]
    picture_columns = _pictures(schema)
    return len(picture_columns) == 1 and (
        bool(text_columns) or all(field.name in picture_columns or pa.types.is_primitive(field.type) for field in others)
    )


def shards(tree: SourceFiles) -> list[Shard]:
    return [shard for file in tree.files(FILES) for shard in tree.parquet_shards(file)]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split, schema = tree.source(shard.file), tree.split(shard.file), tree.schema(shard.file)
    picture_columns = _pictures(schema)
    if len(picture_columns) != 1:
        named = ", ".join(picture_columns) or f"none among {', '.join(schema.names)}"
        raise Refused(f"{source} is to have one column of pictures, a struct of bytes and path, and has {named}; see the format hf-images")
    (image,) = picture_columns
    classes = _classes(schema)
    known = [image, *(name for name in (*CAPTIONS, *LABELS, *KEYS) if name in schema.names)]

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        named = next((row[name] for name in KEYS if row.get(name) is not None), None)
        key = id_of(named) if named is not None else re.sub(r"\s", "_", f"{shard.file}:{line}")
        if not row[image]:
            raise RowError("missing picture", f"{image} is empty")
        captions = tuple(text for name in CAPTIONS for text in texts_of(row.get(name)))
        labels = () if captions else tuple(text for name in LABELS for text in _label(row.get(name), name, classes))
        entry = Captioned(key, picture(tree, row[image]), captions, labels)
        yield from entry.rows(tree.captions, split, source, line)
        if (empty := blank_columns(row)) and not captions and not labels:
            yield blank_caption(key, empty, source, line)

    unread = [name for name in schema.names if name not in known]
    if unread and not shard.start:
        yield unread_columns(source, unread)
    yield from rowwise("corpus", source, records(tree, shard, known, rows=64), parse)


def _pictures(schema: pa.Schema) -> list[str]:
    """The columns of pictures."""
    return [field.name for field in schema if pa.types.is_struct(field.type) and {part.name for part in field.type} == {"bytes", "path"}]


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """The class names by column, from the metadata that `datasets` writes."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {
            name: list(about["names"]) for name, about in features.items() if isinstance(about, dict) and about.get("_type") == "ClassLabel"
        }
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Refused(
            f"the features in the Parquet metadata under `huggingface` cannot be read ({error!r}); write the file anew"
        ) from error


def _label(value: Any, column: str, classes: dict[str, list[str]]) -> tuple[str, ...]:
    """The label texts of a cell; -1 is no label, and a class number without class names is ignored."""
    texts: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, int):
            texts += texts_of(one)
        elif column in classes and one != -1:
            if not 0 <= one < len(classes[column]):
                raise RowError("bad row", f"{column} is {one}, and there are {len(classes[column])} names")
            texts.append(classes[column][one])
    return tuple(texts)


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes one Parquet file for each split, and `pictures` for those without captions; the ids are kept."""
    dropped: Counter[str] = Counter()
    target.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": _FEATURES}})})
    with ExitStack() as stack:
        files: dict[str, _Groups] = {}
        for split, entry in captioned(corpus, NAME, dropped):
            name = split or "pictures"
            assert name in (*SPLITS, "pictures")
            if name not in files:
                file = stack.enter_context(pq.ParquetWriter(target / f"{name}-00000-of-00001.parquet", schema))
                files[name] = stack.enter_context(_Groups(file))
            files[name].add(entry)
    return +dropped


class _Groups:
    """Buffers rows and writes them to a file, a row group at a time."""

    def __init__(self, file: pq.ParquetWriter):
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0

    def add(self, entry: Captioned) -> None:
        image = {"bytes": entry.picture, "path": None}
        self.rows.append({"id": entry.key, "image": image, "captions": list(entry.captions), "labels": list(entry.labels)})
        self.bytes += len(entry.picture)
        if len(self.rows) >= GROUP_ROWS or self.bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        self.file.write_table(pa.Table.from_pylist(self.rows, schema=SCHEMA))
        self.rows, self.bytes = [], 0

    def __enter__(self) -> "_Groups":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self.rows:
            self.flush()
