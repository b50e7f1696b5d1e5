"""Answers of held-out queries and their kin are in none of the texts that passages are made of."""

import pytest

from mirepoix.components.corpus.parts import held_out
from mirepoix.components.passages.triples import corpus_texts
from tests.components.fixtures import write_held_out_corpus


@pytest.fixture
def folder(tmp_path):
    return write_held_out_corpus(tmp_path / "curate")


def test_texts_come_without_what_is_held_out_and_alone_without_pictures(folder):
    texts = dict(corpus_texts(folder, alone=False, without=held_out(folder)))
    assert texts == {name: f"text of {name}" for name in ("trained", "refuted", "kin-of-trained", "free")}
    assert list(dict(corpus_texts(folder, alone=True, without=()))) == [
        *("trained", "validated", "tested", "refuted", "other", "kin-behind", "kin-before", "kin-of-trained", "like-tested")
    ]
