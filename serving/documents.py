"""The documents of a release, which search results show, and the hashes by which equal items are known.

documents/documents.arrow    id, text, modality, thumbnail, source, in corpus order; releases of earlier versions have no source
documents/order.npy          its row for each position in the index
contents.npy                 the hash of what the encoder read of each item, in the order of the index; zeros where it is not known
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, encoded_hash, row_to_item
from mirepoix.models.picture_formats import PICTURE_ENDINGS, picture_format
from mirepoix.serving.pictures import encoded, read_picture
from mirepoix.serving.pictures_config import PictureLimits

if TYPE_CHECKING:
    from mirepoix.serving.search.dense import Index

CONTENTS = "contents.npy"
THUMBNAIL = 160  # pixels of the longer side
_UNLIMITED = PictureLimits(max_bytes=1 << 40, max_pixels=1 << 40, max_ratio=1 << 40)  # of a corpus, to which curation has applied its own
_ELSEWHERE = re.compile(r"^[/\\~]|^[A-Za-z]:|://|(^|/)\.\.(/|$)")  # absolute, a URI, or above its source
_DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("modality", pa.int8(), nullable=False),
        pa.field("thumbnail", pa.large_binary()),
        pa.field("source", pa.string()),
    ]
)


class Document(NamedTuple):
    """An item as a search result shows it."""

    id: str
    text: str
    modality: Modality
    pictured: bool
    source: str | None  # of `shown_source`


def shown_source(source: str, line: int) -> str | None:
    """Where an item was read from, as a user finds it: `NAME/a/b.png` of a picture file, `NAME/table.csv:12` of a row of any other file.

    NAME is that of the source. None where that is not known, and for a path that is not relative to a source, as the column `source`
    of a user's own Parquet may hold: a release is given away, and is to tell nothing of the disks of those who made it.
    """
    name, _, file = source.partition("/")
    if not file or _ELSEWHERE.search(source):
        return None
    whole = file.rpartition(".")[2].lower() in PICTURE_ENDINGS
    path = file if file == name else source  # the source is this one file
    return path if whole or line < 1 else f"{path}:{line}"


class Documents:
    """The documents of a release, memory-mapped, by their positions in its index."""

    def __init__(self, folder: Path):
        table = pa.ipc.open_file(pa.memory_map(str(folder / "documents.arrow"))).read_all()
        if "source" not in table.column_names:  # a release of an earlier version
            table = table.append_column(_DOCUMENTS.field("source"), pa.nulls(table.num_rows, pa.string()))
        self._table = table
        self._order = np.load(folder / "order.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Document:
        row = int(self._order[position])
        id, text, code, source = (self._table[name][row].as_py() for name in ("id", "text", "modality", "source"))
        return Document(id, text, Modality(code), self._table["thumbnail"][row].is_valid, source)

    def thumbnail(self, position: int) -> bytes | None:
        picture: bytes | None = self._table["thumbnail"][int(self._order[position])].as_py()
        return picture

    def tables(self, positions: np.ndarray, rows: int = 1000) -> Iterator[pa.Table]:
        """The documents at some positions of the index, in the order of the corpus."""
        chosen = np.sort(self._order[positions])
        for start in range(0, len(chosen), rows):
            yield self._table.take(pa.array(chosen[start : start + rows]))

    def ids_by_source(self) -> dict[str, list[str]]:
        """The ids of the items of each source; none for a release that knows no sources."""
        return _ids_by_source(self._table)


def read_ids_by_source(file: pa.NativeFile) -> dict[str, list[str]]:
    """The same of an opened documents.arrow, of which only ids and sources are read."""
    names = pa.ipc.open_file(file).schema.names
    columns = [names.index(name) for name in ("id", "source") if name in names]
    return _ids_by_source(pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=columns)).read_all())


def _ids_by_source(table: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if "source" in table.column_names:
        for source, id in zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True):
            if source is not None:
                found.setdefault(source, []).append(id)
    return found


def thumbnail(data: bytes) -> bytes:
    """A small JPEG without metadata; a PNG if a small PNG was given."""
    picture = read_picture(data, _UNLIMITED)
    if max(picture.size) <= THUMBNAIL and picture_format(data) == "PNG":
        return encoded(picture, "PNG")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return encoded(picture, "JPEG", quality=85)


class DocumentWriter:
    """Writes the documents of a release, and the hashes of its items, for an index that is built already."""

    def __init__(self, folder: Path, index: "Index"):
        self.folder, self.index = folder / "documents", index
        self.order = np.full(len(index), -1, dtype=np.int64)
        self.contents = np.zeros((len(index), 32), np.uint8)
        self.written = 0
        self.sources: list[str] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self._sink = pa.OSFile(str(self.folder / "documents.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._sink, _DOCUMENTS)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._writer.close()
        self._sink.close()
        if kind is not None:
            return
        if self.written < len(self.index):
            absent = self.index.ids[int(np.argmin(self.order))].as_py()
            raise Refused(
                f"{len(self.index) - self.written} indexed items, such as {absent!r}, are not in the corpus "
                f"{', '.join(self.sources)}; give the corpus that was indexed"
            )
        np.save(self.folder / "order.npy", self.order)
        np.save(self.folder.parent / CONTENTS, self.contents)

    def add_documents(self, documents: Documents, ids: pa.ChunkedArray, contents: np.ndarray, kept: np.ndarray) -> None:
        """Copies the documents at some positions of another release's index, whose ids and hashes are given."""
        places = pc.index_in(ids.take(pa.array(kept)), value_set=self.index.ids).to_numpy()
        self.contents[places] = contents[kept]
        for table in documents.tables(kept):
            here = pc.index_in(table["id"], value_set=self.index.ids).to_numpy()
            self.order[here] = self.written + np.arange(table.num_rows)
            self._writer.write_table(table.combine_chunks())
            self.written += table.num_rows

    def add_corpus(self, corpus: Path, report: Callable[[dict[str, Any]], None] | None) -> None:
        """Writes the documents of those items of a corpus that are indexed."""
        self.sources.append(str(corpus))
        for items in _corpus(corpus):
            rows: list[tuple[str, str, int, bytes | None, str | None]] = []
            for item in items:
                position = self.index.position(item.id)
                if position is None:
                    continue
                if self.order[position] >= 0:
                    raise Refused(f"the corpus {corpus} has two items with the id {item.id!r}; give each its own")
                if item.modality != self.index.modalities_N[position]:
                    raise Refused(
                        f"item {item.id!r} is {item.modality.letters!r} in the corpus and another in the index; index this corpus"
                    )
                self.order[position] = self.written + len(rows)
                self.contents[position] = np.frombuffer(encoded_hash(item), np.uint8)
                shown = (item.images or item.video)[:1]
                picture = thumbnail(shown[0]) if shown else None
                rows.append((item.id, item.text, int(item.modality), picture, shown_source(item.source, item.line)))
            if rows:
                columns = zip(*rows, strict=True)
                arrays = [pa.array(column, field.type) for column, field in zip(columns, _DOCUMENTS, strict=True)]
                self._writer.write_batch(pa.record_batch(arrays, _DOCUMENTS))
            self.written += len(rows)
            if report:
                report({"step": self.written, "total": len(self.index)})


def _corpus(folder: Path) -> Iterator[list[Item]]:
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise Refused(f"{folder} holds no .parquet file; give the folder of a corpus")
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield [row_to_item(row) for row in batch.to_pylist()]
