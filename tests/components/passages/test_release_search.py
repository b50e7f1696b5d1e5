"""Texts are searched by the encoder of a release."""

from pathlib import Path

import pytest

from mirepoix.components.passages import release_search
from mirepoix.components.passages.release_search import ReleaseRetriever
from mirepoix.components.passages.text_search import Texts
from mirepoix.components.passages.vid2r_run import open_retriever
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.vectors import maxsim
from mirepoix.serving.release import read_release
from mirepoix.serving.store import delete

TEXTS = {"b": "the red fox runs", "a": "a red hen", "c": "it sleeps"}


def texts(home: Path, contents: dict[str, str] | None = None) -> Texts:
    return Texts(home / "texts.arrow", (contents or TEXTS).items())


def test_a_releases_encoder_finds_what_its_vectors_say_with_its_instruction(released, tmp_path):
    retriever = open_retriever(str(released.folder))
    found = retriever.index(texts(tmp_path), str(tmp_path / "scratch"))(["red fox", "", "sleeps"], 2)
    vectors = retriever.encoder.encode([Item(id, text) for id, text in TEXTS.items()])
    asked = retriever.encoder.encode([Item("q", text, instruction=retriever.instruction) for text in ("red fox", "sleeps")])
    scores = maxsim(asked, vectors)
    ids = list(TEXTS)
    for hits, row in zip((found[0], found[2]), scores, strict=True):
        assert [hit.id for hit in hits] == [ids[n] for n in row.argsort(descending=True)[:2]]
        assert [hit.score for hit in hits] == pytest.approx(sorted(row.tolist(), reverse=True)[:2], abs=1e-5)
    release = read_release(released.folder)
    assert found[1] == [] and retriever.instruction == release.instructions["t->t"]
    assert retriever.name == f"{release.name} {release.version}"


def test_what_was_encoded_before_a_kill_is_not_encoded_again(released, tmp_path, monkeypatch):
    monkeypatch.setattr(release_search, "_SHARD", 2)
    retriever = ReleaseRetriever(str(released.folder))
    scratch, encoded = str(tmp_path / "scratch"), []
    real = retriever.encoder.encode

    def counted(items, *more, role):
        encoded.append((role, len(items)))
        return real(items, *more, role=role)

    monkeypatch.setattr(retriever.encoder, "encode", counted)
    first = retriever.index(texts(tmp_path), scratch)(["red"], 3)
    assert encoded == [("document", 2), ("document", 1), ("query", 1)]
    delete(tmp_path / "scratch" / "vectors-000000002.arrow")
    assert retriever.index(texts(tmp_path), scratch)(["red"], 3) == first
    assert encoded[3:] == [("document", 1), ("query", 1)]


def test_what_is_no_release_is_refused(tmp_path):
    with pytest.raises(Refused):
        open_retriever(str(tmp_path / "nothing"))
