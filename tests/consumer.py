"""A program that uses Mirepoix as a library; `test_layers.py` checks its types against the installed wheel."""

from collections.abc import Sequence
from pathlib import Path

from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.item import Item, Modality
from mirepoix.models.vectors import Vectors
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.search.hits import Hit


def embedded(folder: Path, texts: Sequence[str]) -> Vectors:
    """The vectors of texts by the encoder in a folder."""
    encoder: Encoder = load_encoder(folder)
    return encoder.encode([Item(id=str(number), text=text) for number, text in enumerate(texts)], batch_size=8)


def found(target: str, text: str, picture: bytes | None = None) -> list[tuple[str, float]]:
    """The ids and scores of the ten items of a release that answer a query best, pictures alone."""
    release: Release = open_release(target)
    query = Item("query", text, images=(picture,) if picture else (), instruction=release.instructions.get("", ""))
    vectors = release.open_encoder().encode([query], role="query").truncated(release.widths[0])
    hits: list[list[Hit]] = release.open_index().search(vectors.ragged(), 10, modalities={Modality.IMAGE})
    return [(hit.id, hit.score) for hit in hits[0]]
