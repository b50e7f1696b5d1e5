"""A release: an encoder, the index of its vectors, the documents that results show, and golden vectors, published and replaced together.

encoder/        what Encoder.save wrote
index/          what Index.save wrote
documents/      documents.arrow: id, text, modality, thumbnail, in corpus order; order.npy: its row for each position in the index
golden.json     a few items with the vectors that the encoder gave them when the corpus was embedded, as documents and as queries
release.json    name, version and digests of the parts; it holds no time, so that equal parts give an equal version
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.models.encoder_config import read_description
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, row_to_item
from mirepoix.models.picture_formats import picture_format
from mirepoix.serving.golden import GOLDEN, Golden, read_golden
from mirepoix.serving.pictures import encoded, read_picture
from mirepoix.serving.pictures_config import PictureLimits
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import CHUNK, MANIFEST, cache_folder, digest_of, fetch

# torch, the encoders and FAISS are imported where an encoder or an index is opened, so that reading what a release says, or the documents
# that it shows, loads none of them, and assembling one loads no encoder.
if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder
    from mirepoix.serving.search.dense import Index

THUMBNAIL = 160  # pixels of the longer side
_UNLIMITED = PictureLimits(max_bytes=1 << 40, max_pixels=1 << 40, max_ratio=1 << 40)  # of a corpus, to which curation has applied its own
_DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("modality", pa.int8(), nullable=False),
        pa.field("thumbnail", pa.large_binary()),
    ]
)


class Document(NamedTuple):
    """An item as a search result shows it."""

    id: str
    text: str
    modality: Modality
    pictured: bool


class Documents:
    """The documents of a release, memory-mapped, by their positions in its index."""

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
        picture: bytes | None = self._table["thumbnail"][int(self._order[position])].as_py()
        return picture


@dataclass(frozen=True)
class Release:
    """The content of release.json, and the folder of the release."""

    folder: Path
    name: str
    version: str
    encoder: str  # digests of the parts
    index: str
    documents: str
    golden: str
    widths: tuple[int, ...]  # to which rows may be truncated; the last is the full width
    instructions: dict[str, str]  # of queries in training, by task ("t->i"); "" for a search without a target
    custom_code: bool = False  # whether opening the encoder runs code that its checkpoint brought

    def open_encoder(self, device: str = "cpu", trust_remote_code: bool = False) -> "Encoder":
        """The encoder on a device; refused unless it reproduces the golden vectors there.

        One that runs code of its checkpoint is opened only for a caller that trusts that code.
        """
        self.refuse_code(trust_remote_code)
        from mirepoix.models.encoder import load_encoder

        encoder = load_encoder(self.folder / "encoder", trust_remote_code).to(device)
        self.verify(encoder)
        return encoder

    def refuse_code(self, trust_remote_code: bool) -> None:
        """Refuses a release that runs code of its checkpoint, unless that is trusted."""
        if self.custom_code and not trust_remote_code:
            raise Refused(
                f"release {self.name} {self.version} runs code that its checkpoint brought ({self.folder / 'encoder'}); read it, then give "
                "--trust-remote-code (serve, export) or deploy.trust_remote_code=true (run)"
            )

    def open_index(self) -> "Index":
        from mirepoix.serving.search.dense import Index

        index = open_index(self.folder / "index")
        assert isinstance(index, Index)  # `assemble` refuses any other
        return index

    def open_documents(self) -> Documents:
        return Documents(self.folder / "documents")

    def verify(self, encoder: "Encoder") -> float:
        """The least cosine between a golden row and the row that the encoder computes now; refused if it is too low."""
        return read_golden(self.folder / GOLDEN).verify(encoder, f"release {self.name} {self.version}")


def folder_digest(folder: str | Path) -> str:
    """The digest of a folder's files but for its manifest; every index records that of the encoder of its vectors."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return digest_of((path.relative_to(folder).as_posix(), _sha256(path)) for path in files)


def assemble(
    folder: str | Path,
    name: str,
    encoder_folder: str | Path,
    index_folder: str | Path,
    corpus_folder: str | Path,
    golden: Golden,
    instructions: Mapping[str, str] | None = None,
    widths: Sequence[int] = (),
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Release:
    """Writes a release into an empty folder; refused unless the index holds the vectors of this corpus by this encoder.

    `golden` has vectors by that encoder. The encoder itself is not opened: its digest and its description say what is needed.
    """
    from mirepoix.serving.search.dense import Index

    folder, encoder_folder, index_folder = Path(folder), Path(encoder_folder), Path(index_folder)
    if not golden.items:
        raise Refused("a release needs golden items; give at least one")
    index, description, identity = open_index(index_folder), read_description(encoder_folder), folder_digest(encoder_folder)
    if index.description.encoder != identity:
        recorded = index.description.encoder[:12] or "an unnamed encoder"
        raise Refused(f"the index was made by {recorded} and the encoder is {identity[:12]}; embed and index the corpus with this encoder")
    assert isinstance(index, Index)  # an index of words names no encoder
    if index.description.width != golden.width:
        raise Refused(f"the index is {index.description.width} wide and the encoder {golden.width}; build the index again")
    for part, source in (("encoder", encoder_folder), ("index", index_folder)):
        shutil.copytree(source, folder / part, ignore=lambda at, _, top=str(source): {MANIFEST, GOLDEN} if at == top else set())
    _write_documents(folder / "documents", Path(corpus_folder), index, report)
    golden.write(folder / GOLDEN)
    fields: dict[str, Any] = {
        "name": name,
        "encoder": identity,
        "index": folder_digest(folder / "index"),
        "documents": folder_digest(folder / "documents"),
        "golden": _sha256(folder / GOLDEN),
        "widths": sorted({*widths, *description["widths"], golden.width}),
        "instructions": dict(sorted((instructions or {}).items())),
    }
    if description.get("custom_code"):
        fields["custom_code"] = True
    fields["version"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    (folder / "release.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    return read_release(folder)


def read_release(folder: str | Path) -> Release:
    """The release in a local folder, without verification."""
    path = Path(folder) / "release.json"
    if not path.is_file():
        raise Refused(f"{folder} holds no release.json; give the folder or URI of a release")
    plain = json.loads(path.read_text())
    return Release(**{**plain, "folder": Path(folder), "widths": tuple(plain["widths"])})


def open_release(target: str | Path, cache: Path | None = None) -> Release:
    """The published release at a path or URI; every file is verified against the manifest first."""
    return read_release(fetch(target, cache or cache_folder()))


def thumbnail(data: bytes) -> bytes:
    """A small JPEG without metadata; a PNG if a small PNG was given."""
    picture = read_picture(data, _UNLIMITED)
    if max(picture.size) <= THUMBNAIL and picture_format(data) == "PNG":
        return encoded(picture, "PNG")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return encoded(picture, "JPEG", quality=85)


def _write_documents(folder: Path, corpus: Path, index: "Index", report: Callable[[dict[str, Any]], None] | None) -> None:
    folder.mkdir(parents=True)
    order = np.full(len(index), -1, dtype=np.int64)
    written = 0
    with pa.OSFile(str(folder / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, _DOCUMENTS) as writer:
        for items in _corpus(corpus):
            rows: list[tuple[str, str, int, bytes | None]] = []
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


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
