"""Texts are searched by words or by a release's encoder, through the index that is served, and encoded texts survive a kill."""

from pathlib import Path

from mirepoix.components.passages.text_search import Texts, WordRetriever
from mirepoix.components.passages.vid2r_run import open_retriever

TEXTS = {"b": "the red fox runs", "a": "a red hen", "c": "it sleeps"}


def texts(home: Path, contents: dict[str, str] | None = None) -> Texts:
    return Texts(home / "texts.arrow", (contents or TEXTS).items())


def test_texts_are_found_by_their_ids_and_read_from_disk(tmp_path):
    kept = texts(tmp_path)
    assert (len(kept), kept.ids, list(kept)) == (3, ["b", "a", "c"], list(TEXTS.values()))
    assert kept["a"] == "a red hen" and "c" in kept and "d" not in kept
    assert len(Texts(tmp_path / "none.arrow", [])) == 0


def test_the_first_text_of_an_id_is_kept(tmp_path):
    many = [(f"{n % 1500}", f"text {n}") for n in range(4000)]
    kept = Texts(tmp_path / "many.arrow", many)
    assert len(kept) == 1500 and kept["7"] == "text 7" and list(kept) == [f"text {n}" for n in range(1500)]


def test_words_find_texts(tmp_path):
    retriever = open_retriever("bm25")
    search = retriever.index(texts(tmp_path), str(tmp_path / "scratch"))
    assert isinstance(retriever, WordRetriever) and retriever.name == "bm25"
    assert [[hit.id for hit in hits] for hits in search(["red fox", " ", "zebra", "sleeps"], 5)] == [["b", "a"], [], [], ["c"]]
