"""What answers a held-out query is known with its kin, and stands in none of the texts that passages are made of."""

import pytest

from mirepoix.components.corpus.held_out import held_out
from mirepoix.components.passages.triples import corpus_texts
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


def test_texts_come_without_what_is_held_out_and_alone_without_pictures(folder):
    texts = dict(corpus_texts(folder, alone=False, without=held_out(folder)))
    assert texts == {name: f"text of {name}" for name in ("trained", "refuted", "kin-of-trained", "free")}
    assert list(dict(corpus_texts(folder, alone=True, without=()))) == [
        *("trained", "validated", "tested", "refuted", "other", "kin-behind", "kin-before", "kin-of-trained", "like-tested")
    ]
