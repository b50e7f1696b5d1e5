"""What answers a held-out query is held out with its kin."""

import pytest

from mirepoix.components.corpus.held_out import held_out
from tests.components.fixtures import write_corpus, write_held_out_corpus


@pytest.fixture
def folder(tmp_path):
    return write_held_out_corpus(tmp_path / "curate")


def test_held_out_are_the_answers_of_every_split_but_train_their_kin_and_what_curation_found(folder):
    assert held_out(folder) == {"validated", "tested", "other", "kin-behind", "kin-before", "like-tested"}


def test_a_corpus_without_queries_holds_nothing_out(tmp_path):
    assert held_out(write_corpus(tmp_path / "bare")) == set()
