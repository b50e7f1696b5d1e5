"""Judgements, pools and texts are found by places among the sorted ids of a corpus."""

import numpy as np
import pyarrow as pa
import pytest

from mirepoix.components.evaluation.scoring import judgements
from mirepoix.components.evaluation.scoring.judgements import answer_in, places_of, read_judged
from tests.components.fixtures import write_corpus

PARTS = {
    "corpus": [{"id": id, "text": f"text of {id}"} for id in ("c", "a", "d", "b")],
    "queries": [
        {"id": "q1", "text": "?", "split": "test", "task": "t->t", "dataset": "one", "pool": "p"},
        {"id": "q2", "text": "?", "split": "train", "task": "t->t"},
        {"id": "q3", "text": "?", "split": "test", "task": "t->t", "answers": ["x"]},
    ],
    "qrels": [
        {"query_id": "q1", "item_id": "d", "relevance": 2},
        {"query_id": "q1", "item_id": "a", "relevance": 0},
        {"query_id": "q2", "item_id": "b"},
        {"query_id": "q1", "item_id": "gone", "relevance": 1},
    ],
    "pools": [{"pool": "p", "item_id": id} for id in ("d", "a", "d", "gone")],
}
IDS = pa.array(["a", "b", "c", "d"])


@pytest.mark.parametrize("at_a_time", [1, 3, 1_000_000])
def test_judgements_of_the_measured_queries_are_sorted_and_what_is_in_no_index_is_at_minus_one(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr(judgements, "JOINED", at_a_time)
    found = read_judged(write_corpus(tmp_path / "curate", **PARTS), IDS, np.ones(4, int), lambda _, split: split == "test")
    assert [question.id for question in found.questions] == ["q1", "q3"]
    places, grades = found.of(0)
    assert (places.tolist(), grades.tolist()) == ([-1, 0, 3], [1, 0, 2])
    assert found.of(1)[0].tolist() == [] and found.answered(0) and found.answered(1)
    assert {name: pool.tolist() for name, pool in found.pools.items()} == {"p": [0, 3]}
    assert [(question.dataset, question.pool) for question in found.questions] == [("one", "p"), ("made", "")]


def test_of_several_sources_each_is_the_pool_of_its_queries_that_name_none(tmp_path):
    corpus = [{"id": f"{of}/{id}", "text": id, "source": f"{of}/{of}.parquet"} for of in ("one", "two") for id in "ab"]
    names = ("one", "two", "apart")  # the last has queries alone
    queries = [{"id": f"{of}/q", "text": "?", "split": "test", "task": "t->t", "source": f"{of}/q.parquet"} for of in names]
    curate = write_corpus(tmp_path / "curate", corpus=corpus, queries=queries)
    ids = pa.array(["one/a", "one/b", "two/a", "two/b"])
    found = read_judged(curate, ids, np.ones(4, int), lambda *_: True)
    pools = {tuple(queries): None if among is None else among.tolist() for queries, among in found.groups("dataset")}
    assert pools == {(0,): [0, 1], (1,): [2, 3], (2,): None}
    assert [(queries.tolist(), among) for queries, among in found.groups("universal")] == [([0, 1, 2], None)]


def test_a_query_whose_judgements_are_all_zero_is_not_answered(tmp_path):
    parts = PARTS | {"qrels": [{"query_id": "q1", "item_id": "a", "relevance": 0}]}
    found = read_judged(write_corpus(tmp_path / "curate", **parts), IDS, np.ones(4, int), lambda id, _: id == "q1")
    assert not found.answered(0)


def test_texts_are_read_by_places_whatever_the_order_of_the_corpus(tmp_path):
    found = read_judged(write_corpus(tmp_path / "curate", **PARTS), IDS, np.ones(4, int), lambda *_: True)
    assert found.texts(np.array([3, 0, 3])) == {0: "text of a", 3: "text of d"}
    assert found.texts(np.empty(0, int)) == {}


def test_the_union_of_one_source_is_not_that_of_another(tmp_path):
    parts = {
        "corpus": [{"id": id, "text": "x", "source": f"{id[0]}/file"} for id in ("a/1", "a/2", "b/1", "b/2")],
        "queries": [{"id": f"{name}/q", "text": "?", "split": "test", "task": "t->t", "source": f"{name}/file"} for name in "ab"],
        "qrels": [{"query_id": "a/q", "item_id": "a/1"}, {"query_id": "b/q", "item_id": "b/1"}],
        "pools": [{"pool": "a/union", "item_id": id} for id in ("a/1", "a/2")],
    }
    ids = pa.array(["a/1", "a/2", "b/1", "b/2"])
    found = read_judged(write_corpus(tmp_path / "curate", **parts), ids, np.ones(4, int), lambda *_: True)
    searched = {found.questions[query].id: places for queries, places in found.groups("universal") for query in queries}
    assert searched["a/q"].tolist() == [0, 1] and searched["b/q"] is None, "a source without a union has all candidates"
    own = {found.questions[query].id: places.tolist() for queries, places in found.groups("dataset") for query in queries}
    assert own == {"a/q": [0, 1], "b/q": [2, 3]}


def test_a_place_is_that_of_the_id_or_minus_one():
    assert places_of(pa.array(["d", "x", "a"]), pa.chunked_array([["a", "b"], ["d"]])).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    ("answer", "passage", "words", "strings"),
    [
        ("Art", "the ART of war", True, True),
        ("art", "Artists paint", False, True),
        ("1.5", "it is 105 long", False, False),
        ("1.5", "it is 1.5 long", True, True),
        (" war ", "of war.", True, True),
        ("", "anything", False, False),
        ("C++", "written in C++.", True, True),
        ("C++", "written in C++11", False, True),
    ],
)
def test_an_answer_is_in_a_passage_as_whole_words_or_as_any_string(answer, passage, words, strings):
    assert answer_in([answer], passage, whole_words=True) is words and answer_in(["no such", answer], passage, whole_words=False) is strings
