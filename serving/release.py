"""A release: an encoder, the index of its vectors, the documents that results show, and golden vectors, published and replaced together.

encoder/        what Encoder.save wrote
index/          what Index.save wrote
documents/      documents.arrow: id, text, modality, thumbnail, source, in corpus order; order.npy: its row for each position in the index
golden.json     a few items with the vectors that the encoder gave them when the corpus was embedded, as documents and as queries
contents.npy    the hash of what the encoder read of each item, in the order of the index; zeros where it is not known
release.json    name, version and digests of the parts; it holds no time, so that equal parts give an equal version
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.models.encoder_config import DESCRIPTION, read_description
from mirepoix.models.errors import Refused
from mirepoix.serving.documents import CONTENTS, Documents, DocumentWriter, read_ids_by_source
from mirepoix.serving.golden import GOLDEN, Golden, read_golden
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import CHUNK, MANIFEST, cache_folder, digest_of, fetch, files_of, join, open_file, read, read_manifest

# torch, the encoders and FAISS are imported where an encoder or an index is opened, so that reading what a release says, or the documents
# that it shows, loads none of them, and assembling one loads no encoder.
if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder
    from mirepoix.serving.search.dense import Index


ENCODER_PARTS = "encoder/", GOLDEN, "release.json"
"""What an encoder is opened and proved with."""


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
                "--trust-remote-code (serve, export, add, remove) or deploy.trust_remote_code=true (run)"
            )

    def open_index(self) -> "Index":
        from mirepoix.serving.search.dense import Index

        index = open_index(self.folder / "index")
        assert isinstance(index, Index)  # `assemble` refuses any other
        return index

    def open_documents(self) -> Documents:
        return Documents(self.folder / "documents")

    def contents(self) -> np.ndarray:
        """The hash of what the encoder read of each item, as 32 octets, in the order of the index; zeros where it is not known.

        Releases of earlier versions know none.
        """
        file = self.folder / CONTENTS
        found: np.ndarray = np.load(file, allow_pickle=False) if file.is_file() else np.zeros((self.items().num_rows, 32), np.uint8)
        return found

    def items(self) -> pa.Table:
        """Id and modality of each item, in the order of the index, which is not opened."""
        return pq.read_table(self.folder / "index" / "items.parquet", columns=["id", "modality"])

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
    shutil.copytree(encoder_folder, folder / "encoder", ignore=_outer(encoder_folder))
    shutil.copytree(index_folder, folder / "index", ignore=_outer(index_folder))
    with DocumentWriter(folder, index) as writer:
        writer.add_corpus(Path(corpus_folder), report)
    fields: dict[str, Any] = {
        "name": name,
        "encoder": identity,
        "widths": sorted({*widths, *description["widths"], golden.width}),
        "instructions": dict(sorted((instructions or {}).items())),
    }
    if description.get("custom_code"):
        fields["custom_code"] = True
    return _described(folder, fields, golden)


def revise(
    folder: str | Path,
    release: Release,
    index_folder: str | Path,
    kept: np.ndarray,
    corpus_folder: str | Path,
    golden: Golden,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Release:
    """Writes a release with the encoder, the name, the widths and the wordings of another into an empty folder.

    The index is of the items at the positions `kept` in the index of the other release, and of those in the corpus folder; the documents of
    the former are copied. The files of the encoder are linked where they can be, as published files never change.
    """
    from mirepoix.serving.search.dense import Index

    folder, index_folder, encoder = Path(folder), Path(index_folder), release.folder / "encoder"
    index = open_index(index_folder)
    if index.description.encoder != release.encoder:
        raise Refused(f"the index was not made by the encoder of release {release.name} {release.version}; index with that encoder")
    assert isinstance(index, Index)
    shutil.copytree(encoder, folder / "encoder", copy_function=_linked)
    shutil.copytree(index_folder, folder / "index", ignore=_outer(index_folder))
    with DocumentWriter(folder, index) as writer:
        writer.add_documents(release.open_documents(), release.items()["id"], release.contents(), kept)
        writer.add_corpus(Path(corpus_folder), report)
    fields: dict[str, Any] = {
        "name": release.name,
        "encoder": release.encoder,
        "widths": list(release.widths),
        "instructions": release.instructions,
    }
    if release.custom_code:
        fields["custom_code"] = True
    return _described(folder, fields, golden)


def _outer(folder: Path) -> Callable[[str, list[str]], set[str]]:
    """Leaves out of a copy what an artefact has besides its part of a release."""
    return lambda at, _: {MANIFEST, GOLDEN} if at == str(folder) else set()


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _described(folder: Path, fields: dict[str, Any], golden: Golden) -> Release:
    """Writes the golden vectors and the description of a release whose other parts are written."""
    golden.write(folder / GOLDEN)
    fields |= {part: folder_digest(folder / part) for part in ("index", "documents")}
    fields["golden"] = _sha256(folder / GOLDEN)
    fields["version"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    (folder / "release.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    return read_release(folder)


def read_release(folder: str | Path) -> Release:
    """The release in a local folder, without verification."""
    path = Path(folder) / "release.json"
    if not path.is_file():
        raise Refused(f"{folder} holds no release.json; give the folder or URI of a release")
    return _parsed(path.read_bytes(), Path(folder))


def _parsed(text: bytes, folder: Path) -> Release:
    plain = json.loads(text)
    return Release(**{**plain, "folder": folder, "widths": tuple(plain["widths"])})


def peek(target: str | Path) -> tuple[Release, dict[str, Any]]:
    """The description of the published release at a path or URI, and that of its encoder; no other file is read, and none is verified."""
    manifest = read_manifest(target)
    home = files_of(target, manifest) if manifest else str(target)
    text, encoder = read(join(home, "release.json")), read(join(home, "encoder", DESCRIPTION))
    if manifest is None or text is None or encoder is None:
        raise Refused(f"{target} holds no published release; give the folder or URI of one")
    return _parsed(text, Path(home)), json.loads(encoder)


def item_ids(target: str | Path) -> list[str]:
    """The ids of the items of the published release at a path or URI, sorted."""
    manifest = read_manifest(target)
    if manifest is None:
        raise Refused(f"{target} holds no published release; give the folder or URI of one")
    with open_file(join(files_of(target, manifest), "index", "items.parquet")) as file:
        ids: list[str] = pq.read_table(file, columns=["id"])["id"].to_pylist()
        return ids


def item_sources(target: str | Path) -> dict[str, list[str]]:
    """The ids of the items of each source in the published release at a path or URI; none for a release that knows no sources."""
    manifest = read_manifest(target)
    if manifest is None:
        raise Refused(f"{target} holds no published release; give the folder or URI of one")
    with open_file(join(files_of(target, manifest), "documents", "documents.arrow")) as file:
        return read_ids_by_source(file)


def open_release(target: str | Path, cache: Path | None = None, parts: tuple[str, ...] = ("",)) -> Release:
    """The published release at a path or URI; every file is verified against the manifest first, or those of some parts."""
    return read_release(fetch(target, cache or cache_folder(), parts))


def published_version(target: str) -> str | None:
    """The version of the release at a path or URI; None where it cannot be read."""
    try:
        return peek(target)[0].version
    except (Refused, OSError, ValueError, TypeError, KeyError):
        return None


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
