"""Texts are searched by words or by a release's encoder, through the index that is served, and what was encoded outlives a kill."""

from pathlib import Path

import pytest

from mirepoix.components.passages import text_search
from mirepoix.components.passages.text_search import ReleaseRetriever, Texts, WordRetriever, open_retriever
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.vectors import maxsim
from mirepoix.serving.release import read_release
from mirepoix.serving.store import delete

SAID = {"b": "the red fox runs", "a": "a red hen", "c": "it sleeps"}


def texts(home: Path, said: dict[str, str] | None = None) -> Texts:
    return Texts(home / "texts.arrow", (said or SAID).items())


def test_texts_are_found_by_their_ids_and_read_from_disk(tmp_path):
    kept = texts(tmp_path)
    assert (len(kept), kept.ids, list(kept)) == (3, ["b", "a", "c"], list(SAID.values()))
    assert kept["a"] == "a red hen" and "c" in kept and "d" not in kept
    assert len(Texts(tmp_path / "none.arrow", [])) == 0


def test_the_first_text_of_an_id_stands(tmp_path):
    many = [(f"{n % 1500}", f"text {n}") for n in range(4000)]
    kept = Texts(tmp_path / "many.arrow", many)
    assert len(kept) == 1500 and kept["7"] == "text 7" and list(kept) == [f"text {n}" for n in range(1500)]


def test_words_find_texts(tmp_path):
    retriever = open_retriever("bm25")
    search = retriever.index(texts(tmp_path), str(tmp_path / "scratch"))
    assert isinstance(retriever, WordRetriever) and retriever.name == "bm25"
    assert [[hit.id for hit in hits] for hits in search(["red fox", " ", "zebra", "sleeps"], 5)] == [["b", "a"], [], [], ["c"]]


def test_a_releases_encoder_finds_what_its_vectors_say_with_its_instruction(released, tmp_path):
    retriever = open_retriever(str(released.folder))
    found = retriever.index(texts(tmp_path), str(tmp_path / "scratch"))(["red fox", "", "sleeps"], 2)
    vectors = retriever.encoder.encode([Item(id, text) for id, text in SAID.items()])
    asked = retriever.encoder.encode([Item("q", text, instruction=retriever.instruction) for text in ("red fox", "sleeps")])
    scores = maxsim(asked, vectors)
    ids = list(SAID)
    for hits, row in zip((found[0], found[2]), scores, strict=True):
        assert [hit.id for hit in hits] == [ids[n] for n in row.argsort(descending=True)[:2]]
        assert [hit.score for hit in hits] == pytest.approx(sorted(row.tolist(), reverse=True)[:2], abs=1e-5)
    release = read_release(released.folder)
    assert found[1] == [] and retriever.instruction == release.instructions["t->t"]
    assert retriever.name == f"{release.name} {release.version}"


def test_what_was_encoded_before_a_kill_is_not_encoded_again(released, tmp_path, monkeypatch):
    monkeypatch.setattr(text_search, "_SHARD", 2)
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
