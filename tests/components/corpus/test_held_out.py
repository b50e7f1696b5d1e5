"""What answers a held-out query is held out with its kin."""

import pytest

from mirepoix.components.corpus.held_out import held_out
from tests.components.fixtures import write_corpus


@pytest.fixture
def folder(tmp_path):
    queries = [{"id": f"q-{split}", "text": "x", "split": split, "task": "t->t"} for split in ("train", "validation", "test", "mine")]
    judged = [
        {"query_id": "q-train", "item_id": "trained"},
        {"query_id": "q-validation", "item_id": "validated"},
        {"query_id": "q-test", "item_id": "tested"},
        {"query_id": "q-test", "item_id": "refuted", "relevance": 0},
        {"query_id": "q-mine", "item_id": "other"},
    ]
    kin = [("tested", "kin-behind"), ("kin-before", "tested"), ("trained", "kin-of-trained")]
    names = ["trained", "validated", "tested", "refuted", "other", "kin-behind", "kin-before", "kin-of-trained", "like-tested", "free"]
    return write_corpus(
        tmp_path / "curate",
        corpus=[{"id": name, "text": f"text of {name}", "images": [b"i"] if name == "free" else []} for name in names],
        queries=queries,
        qrels=judged,
        kin=[{"item_id": one, "kin_id": other, "why": "test"} for one, other in kin],
        held=[{"item_id": "like-tested"}, {"item_id": "tested"}],
    )


def test_held_out_are_the_answers_of_every_split_but_train_their_kin_and_what_curation_found(folder):
    assert held_out(folder) == {"validated", "tested", "other", "kin-behind", "kin-before", "like-tested"}


def test_a_corpus_without_queries_holds_nothing_out(tmp_path):
    assert held_out(write_corpus(tmp_path / "bare")) == set()
