"""Hugging Face image data sets: Parquet with a column of pictures as {bytes, path}.

    data/train-00000-of-00002.parquet    image (or any column of that type), and text, caption, captions or texts (a text or a list);
                                         label or labels, a text or the number of a ClassLabel, where there is no caption; id or key

A picture without bytes is read from its path, relative to the source or to the folder given as `images`. The names of a ClassLabel come
from the metadata that `datasets` writes into the file under `huggingface`. A row is named by its `id` or `key`, or else after its file
and number. What comes of a picture with captions is told in captions.py. Other columns are told of once for each file, as a notice.
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

from mirepoix.components.ingestion.formats.captions import CAPTIONS, LABELS, SPLITS, Captioned, blank, captioned, texts_of, unsaid
from mirepoix.components.ingestion.formats.fields import id_of, picture
from mirepoix.components.ingestion.formats.rows import Notice, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused

NAME = "hf-images"
WHAT = "Hugging Face image data sets as Parquet: pictures with captions or labels"
FILES = r".*\.parquet"
KEYS = ("id", "key")
GROUP_ROWS, GROUP_BYTES = 1000, 16 << 20
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("id", pa.string()), ("image", PICTURE), ("captions", pa.list_(pa.string())), ("labels", pa.list_(pa.string()))])
_TEXTS = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
_FEATURES = {"id": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}, "captions": _TEXTS, "labels": _TEXTS}


def detect(place: SourceFiles) -> bool:
    """One column of pictures, and nothing but it, captions, labels and numbers."""
    files = place.files(FILES)
    if not files:
        return False
    schema = place.schema(files[0])
    others = [field for field in schema if field.name not in (*CAPTIONS, *LABELS, *KEYS)]
    told = [name for name in (*CAPTIONS, *LABELS) if name in schema.names]
    shown = _pictures(schema)
    return len(shown) == 1 and (bool(told) or all(field.name in shown or pa.types.is_primitive(field.type) for field in others))


def shards(place: SourceFiles) -> list[Shard]:
    return [shard for file in place.files(FILES) for shard in place.parquet_shards(file)]


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split, schema = place.source(shard.file), place.split(shard.file), place.schema(shard.file)
    shown = _pictures(schema)
    if len(shown) != 1:
        named = ", ".join(shown) or f"none among {', '.join(schema.names)}"
        raise Refused(f"{source} is to have one column of pictures, a struct of bytes and path, and has {named}; see the format hf-images")
    (image,) = shown
    classes = _classes(schema)
    known = [image, *(name for name in (*CAPTIONS, *LABELS, *KEYS) if name in schema.names)]

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        named = next((row[name] for name in KEYS if row.get(name) is not None), None)
        key = id_of(named) if named is not None else re.sub(r"\s", "_", f"{shard.file}:{line}")
        if not row[image]:
            raise RowError("missing picture", f"{image} is empty")
        captions = tuple(text for name in CAPTIONS for text in texts_of(row.get(name)))
        labels = () if captions else tuple(text for name in LABELS for text in _label(row.get(name), name, classes))
        said = Captioned(key, picture(place, row[image]), captions, labels)
        yield said.candidate(source, line)
        yield from said.pairs(split, source, line)
        if (empty := blank(row)) and not captions and not labels:
            yield unsaid(key, empty, source, line)

    def records() -> Iterator[tuple[int, Any]]:
        for first, table in place.tables(shard, known, rows=64):
            yield from enumerate(table.to_pylist(), first)

    left = [name for name in schema.names if name not in known]
    if left and not shard.start:
        yield Notice(source, f"{', '.join(left)}; the rows are read without"[:200])
    yield from rowwise("corpus", source, records(), parse)


def _pictures(schema: pa.Schema) -> list[str]:
    """The columns of pictures."""
    return [field.name for field in schema if pa.types.is_struct(field.type) and {part.name for part in field.type} == {"bytes", "path"}]


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of classes by column, as `datasets` notes them."""
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
    """The names of what a picture shows; -1 is none, and a number without names says nothing."""
    texts = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, int):
            texts += texts_of(one)
        elif column in classes and one != -1:
            if not 0 <= one < len(classes[column]):
                raise RowError("bad row", f"{column} is {one}, and there are {len(classes[column])} names")
            texts.append(classes[column][one])
    return tuple(texts)


def write(target: Path, corpus: Path) -> Counter[str]:
    """One Parquet file for each split, and `pictures` for what has no caption; the ids are kept."""
    left: Counter[str] = Counter()
    target.mkdir(parents=True, exist_ok=True)
    noted = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": _FEATURES}})})
    with ExitStack() as stack:
        files: dict[str, _Groups] = {}
        for split, said in captioned(corpus, NAME, left):
            name = split or "pictures"
            assert name in (*SPLITS, "pictures")
            if name not in files:
                file = stack.enter_context(pq.ParquetWriter(target / f"{name}-00000-of-00001.parquet", noted))
                files[name] = stack.enter_context(_Groups(file))
            files[name].add(said)
    return +left


class _Groups:
    """Rows on their way into a file, a row group at a time."""

    def __init__(self, file: pq.ParquetWriter):
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0

    def add(self, said: Captioned) -> None:
        shown = {"bytes": said.picture, "path": None}
        self.rows.append({"id": said.key, "image": shown, "captions": list(said.captions), "labels": list(said.labels)})
        self.bytes += len(said.picture)
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
