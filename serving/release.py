"""A release: the encoder, the index that it filled, what the results show, and golden vectors; verified, swapped and rolled back as one.

encoder/        what Encoder.save wrote
index/          what Index.save wrote
documents/      documents.arrow: id, text, modality, thumbnail, in corpus order; order.npy: its row for each position in the index
golden.json     a few items and the vectors that the encoder gave them, as documents and as queries, when the release was assembled
release.json    name, version and identities; the same parts give the same version, so it carries no time
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, item_to_row, row_to_item
from mirepoix.models.vectors import Vectors
from mirepoix.serving.pictures import PictureLimits, encoded, read_picture
from mirepoix.serving.search.dense import Index, open_index
from mirepoix.serving.store import CHUNK, MANIFEST, digest_of, fetch

COSINE = 0.999  # golden vectors that come out further away than this are another encoder's
THUMBNAIL = 160  # pixels of the longer side
_DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("modality", pa.int8(), nullable=False),
        pa.field("thumbnail", pa.large_binary()),
    ]
)


class Document(NamedTuple):
    """What a search result shows of an item."""

    id: str
    text: str
    modality: Modality
    pictured: bool


class Documents:
    """The documents of a release, mapped from disk, by their positions in its index."""

    def __init__(self, folder: Path):
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / "documents.arrow"))).read_all()
        self._order = np.load(folder / "order.npy", mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Document:
        row = int(self._order[position])
        id, text, code = (self._table[name][row].as_py() for name in ("id", "text", "modality"))
        return Document(id, text, Modality(code), self._table["thumbnail"][row].is_valid)

    def thumbnail(self, position: int) -> bytes | None:
        return self._table["thumbnail"][int(self._order[position])].as_py()


@dataclass(frozen=True)
class Release:
    """What release.json says, and the folder that it says it of."""

    folder: Path
    name: str
    version: str
    encoder: str  # digests of the parts
    index: str
    documents: str
    golden: str
    widths: tuple[int, ...]  # that the encoder was trained to be cut to; the last is its own
    instructions: dict[str, str]  # the wording that queries were trained with, by task ("t->i"); "" is the one without a target

    def open_encoder(self) -> Encoder:
        return load_encoder(self.folder / "encoder")

    def open_index(self) -> Index:
        return open_index(self.folder / "index")

    def open_documents(self) -> Documents:
        return Documents(self.folder / "documents")

    def verify(self, encoder: Encoder) -> float:
        """The least cosine between a golden row and the one that the encoder gives now; refused below `COSINE`."""
        golden = json.loads((self.folder / "golden.json").read_text())
        items = [_item(row) for row in golden["items"]]
        given = Vectors.cat([encoder.encode(items), encoder.encode(items, role="query")])
        kept = golden["vectors"] + golden["queries"]
        least = 1.0
        for item, rows, rows_TD, mask_T in zip(golden["items"] * 2, kept, given.rows_NTD, given.mask_NT, strict=True):
            expected_TD, found_TD = torch.tensor(rows), rows_TD[mask_T]
            same = expected_TD.shape == found_TD.shape
            cosine = torch.nn.functional.cosine_similarity(expected_TD, found_TD).min().item() if same else float("nan")
            if not cosine >= COSINE:
                raise Refused(
                    f"release {self.name} {self.version}: golden item {item['id']!r} comes out at cosine {cosine:.4f} to the vector it was "
                    f"released with, {COSINE} is needed; something here encodes differently and would search the index wrongly"
                )
            least = min(least, cosine)
        return least


def encoder_digest(folder: str | Path) -> str:
    """The identity of an encoder's folder, which stands in every index that it fills."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return digest_of((path.relative_to(folder).as_posix(), _sha256(path)) for path in files)


def assemble(
    folder: str | Path,
    name: str,
    encoder_folder: str | Path,
    index_folder: str | Path,
    corpus_folder: str | Path,
    golden: Sequence[Item],
    instructions: Mapping[str, str] | None = None,
    widths: Sequence[int] = (),
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Release:
    """Writes a release into an empty folder; refused unless the index was filled by this encoder from this corpus."""
    folder, encoder_folder, index_folder = Path(folder), Path(encoder_folder), Path(index_folder)
    if not golden:
        raise Refused("a release needs golden items; give at least one")
    index, encoder, identity = open_index(index_folder), load_encoder(encoder_folder), encoder_digest(encoder_folder)
    if index.description.encoder != identity:
        told = index.description.encoder[:12] or "an unnamed encoder"
        raise Refused(f"the index was filled by {told} and the encoder is {identity[:12]}; embed and index the corpus with this encoder")
    if index.description.width != encoder.dimension:
        raise Refused(f"the index is {index.description.width} wide and the encoder {encoder.dimension}; build the index again")
    for part, source in (("encoder", encoder_folder), ("index", index_folder)):
        shutil.copytree(source, folder / part, ignore=lambda at, names, top=str(source): {MANIFEST} & set(names) if at == top else set())
    _write_documents(folder / "documents", Path(corpus_folder), index, report)
    (folder / "golden.json").write_text(json.dumps(_golden(golden, encoder.encode(golden), encoder.encode(golden, role="query"))) + "\n")
    told = {
        "name": name,
        "encoder": identity,
        "index": encoder_digest(folder / "index"),
        "documents": encoder_digest(folder / "documents"),
        "golden": _sha256(folder / "golden.json"),
        "widths": sorted({*widths, *encoder.widths, encoder.dimension}),
        "instructions": dict(sorted((instructions or {}).items())),
    }
    told["version"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    (folder / "release.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
    return read_release(folder)


def read_release(folder: str | Path) -> Release:
    """The release in a local folder, taken at its word."""
    path = Path(folder) / "release.json"
    if not path.is_file():
        raise Refused(f"{folder} holds no release.json; give the folder or URI of a release")
    plain = json.loads(path.read_text())
    return Release(**{**plain, "folder": Path(folder), "widths": tuple(plain["widths"])})


def open_release(target: str | Path, cache: Path | None = None) -> Release:
    """The published release at a path or URI, every byte compared with its manifest before anything is read from it."""
    return read_release(fetch(target, cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mirepoix"))


def verify_release(folder: str | Path) -> float:
    """The least cosine of the golden vectors of the release in a folder; refused where a server would refuse to start."""
    release = read_release(folder)
    return release.verify(release.open_encoder())


def thumbnail(data: bytes) -> bytes:
    """A small JPEG, or a PNG where a small PNG was given; of what the file carried beside pixels, nothing is left."""
    picture = read_picture(data, PictureLimits())
    if max(picture.size) <= THUMBNAIL and data.startswith(b"\x89PNG"):
        return encoded(picture, "PNG")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return encoded(picture, "JPEG", quality=85)


def _write_documents(folder: Path, corpus: Path, index: Index, report: Callable[[dict[str, Any]], None] | None) -> None:
    folder.mkdir(parents=True)
    order = np.full(len(index), -1, dtype=np.int64)
    written = 0
    with pa.OSFile(str(folder / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, _DOCUMENTS) as writer:
        for items in _corpus(corpus):
            rows = []
            for item in items:
                position = index.position(item.id)
                if position is None:
                    continue
                if order[position] >= 0:
                    raise Refused(f"the corpus {corpus} has two items with the id {item.id!r}; give each its own")
                if item.modality != index.modalities_N[position]:
                    raise Refused(
                        f"item {item.id!r} is {item.modality.letters!r} in the corpus and another in the index; index this corpus"
                    )
                order[position] = written + len(rows)
                shown = (item.images or item.video)[:1]
                rows.append((item.id, item.text, int(item.modality), thumbnail(shown[0]) if shown else None))
            if rows:
                columns = zip(*rows, strict=True)
                writer.write_batch(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _DOCUMENTS, strict=True)], _DOCUMENTS))
            written += len(rows)
            if report:
                report({"step": written, "total": len(index)})
    if written < len(index):
        absent = index.ids[int(np.argmin(order))].as_py()
        raise Refused(
            f"{len(index) - written} indexed items, such as {absent!r}, are not in the corpus {corpus}; give the corpus that was indexed"
        )
    np.save(folder / "order.npy", order)


def _corpus(folder: Path) -> Iterator[list[Item]]:
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise Refused(f"{folder} holds no .parquet file; give the folder of a corpus")
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield [row_to_item(row) for row in batch.to_pylist()]


def _golden(items: Sequence[Item], vectors: Vectors, queries: Vectors) -> dict[str, Any]:
    def text(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **{name: [base64.b64encode(data).decode() for data in row[name]] for name in ("images", "video")}}

    def rows(vectors: Vectors) -> list[list[list[float]]]:
        return [rows_TD[mask_T].tolist() for rows_TD, mask_T in zip(vectors.rows_NTD, vectors.mask_NT, strict=True)]

    return {"items": [text(item_to_row(item)) for item in items], "vectors": rows(vectors), "queries": rows(queries)}


def _item(row: dict[str, Any]) -> Item:
    return row_to_item({**row, **{name: [base64.b64decode(data) for data in row[name]] for name in ("images", "video")}})


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
