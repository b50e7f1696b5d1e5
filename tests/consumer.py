"""A program that uses Mirepoix as a library; `test_layers.py` checks its types against the installed wheel."""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

import mirepoix
from mirepoix.components.evaluation.mteb_encoder import MtebEncoder
from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.item import Item, Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.models.vectors import Vectors
from mirepoix.serving.in_process.ranking import RankedDocument, Ranking
from mirepoix.serving.in_process.retriever import Retriever
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.search.hits import Hit
from mirepoix.workflows.python.running import RunResult


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


def benchmarked(target: str) -> str:
    """The name of a release in the results of mteb."""
    model = mirepoix.mteb_encoder(target, instructions={"t->i": "Find a picture."}, num_frames=8, device="cpu")
    assert_type(model, MtebEncoder)
    assert_type(mirepoix.mteb_encoder(mirepoix.open(target)), MtebEncoder)
    return model.name


def searched(pictures: Path, query: str) -> list[str]:
    """The ids of the pictures of a folder that answer a query best, by the package's own names."""
    result = mirepoix.run("search", {"sources.path": [pictures]}, until="release", local=True, evaluate__draws=50)
    assert_type(result, RunResult)
    assert_type(result.scores, dict[str, float])
    release = mirepoix.open(result.release, device="cpu")
    assert_type(release, Retriever)
    assert_type(release.search(query, k=3, target="i"), Ranking)
    assert_type(release.search(pictures / "a.png"), Ranking)
    assert_type(release.search({"text": query, "image": pictures / "a.png"}), Ranking)
    assert_type(release.search([query, pictures / "a.png", Item("x", query)]), list[Ranking])
    best: RankedDocument = release.search(query)[0]
    assert_type(best.source, str | None)
    vectors = release.encode([query, b"bytes"], role="query")
    if not isinstance(vectors, RaggedRows):
        assert_type(vectors, np.ndarray)
    assert_type(release.encode(np.zeros((8, 8, 3), np.uint8)), np.ndarray)
    assert_type(release.encode(Image.new("RGB", (8, 8))), np.ndarray)
    assert_type(release.similarity(query, [query]), np.ndarray)
    return [best.id, *(document.id for document in release.search(query))]
