"""Captions are lost by seed, at several rates side by side, and what has lost its caption at one rate has at every higher one."""

import pytest

from mirepoix.components.corpus import captions
from mirepoix.components.corpus.captions import BARE
from mirepoix.components.corpus.captions_config import CaptionsConfig, at_rate
from mirepoix.components.corpus.parts import read_part
from mirepoix.models.errors import Refused
from tests.components.fixtures import context, write_corpus

COUNT = 40
CORPUS = [{"id": f"p{n}", "text": f"caption {n}", "images": [b"x"]} for n in range(COUNT)] + [{"id": "t", "text": "a passage"}]
QUERIES = [
    {"id": "q1", "text": "one", "split": "test", "task": "t->it", "dataset": "webqa"},
    {"id": "q2", "text": "two", "split": "test", "task": "t->t"},
    {"id": "learnt", "text": "three", "split": "train", "task": "t->t"},
]
QRELS = [
    {"query_id": "q1", "item_id": "p0", "relevance": 2},
    {"query_id": "q2", "item_id": "t"},
    {"query_id": "learnt", "item_id": "t"},
]
RATES = (0.0, 0.25, 0.5, 1.0)


def made(tmp_path, seed=0, of="documents", rates=RATES, **parts):
    curate = write_corpus(tmp_path / f"curate{seed}", **{"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS, **parts})
    to = context(tmp_path / f"run{seed}", seed)
    return captions.work(to, CaptionsConfig(of, rates), curate), to.folder


def pools(folder):
    found: dict[str, set[str]] = {}
    for row in read_part(folder, "pools").to_pylist():
        found.setdefault(row["pool"], set()).add(row["item_id"])
    return found


def test_documents_are_there_whole_and_bare_and_the_pool_of_a_rate_has_one_of_the_two(tmp_path):
    outcome, folder = made(tmp_path)
    rows = {row["id"]: row for row in read_part(folder, "corpus").to_pylist()}
    assert len(rows) == 2 * COUNT + 1 and rows[f"p3{BARE}"]["text"] == "" and rows[f"p3{BARE}"]["images"] == [b"x"]
    found = pools(folder)
    assert all(len(pool) == COUNT + 1 and "t" in pool for pool in found.values())
    bare = {rate: {id for id in found[f"captions {rate:g}"] if id.endswith(BARE)} for rate in RATES}
    assert bare[0.0] == set() and len(bare[1.0]) == COUNT and bare[0.25] < bare[0.5] < bare[1.0]
    assert 3 <= len(bare[0.25]) <= 17 and 12 <= len(bare[0.5]) <= 28
    assert [row["count"] for row in outcome.tables["captions"]] == [len(bare[rate]) for rate in RATES]
    assert outcome.metrics == {"captioned": COUNT}


def test_every_query_is_asked_at_every_rate_of_its_own_data_set_and_its_answer_is_the_one_that_is_in_the_pool(tmp_path):
    outcome, folder = made(tmp_path)
    rows = {row["id"]: row for row in read_part(folder, "queries").to_pylist()}
    assert set(rows) == {f"{query}#{rate:g}" for query in ("q1", "q2") for rate in RATES}
    assert (outcome.rows.read, outcome.rows.written, outcome.rows.rejected) == (3, 2, 1), "a query of train is left out"
    assert (rows["q1#0.25"]["dataset"], rows["q1#0.25"]["pool"], rows["q1#0.25"]["text"]) == ("webqa+ 0.25", "captions 0.25", "one")
    assert rows["q2#0"]["dataset"] == "made+ 0", "a query without a data set is of that of its source"
    found = pools(folder)
    judged = [(row["query_id"], row["item_id"], row["relevance"]) for row in read_part(folder, "qrels").to_pylist()]
    assert len(judged) == 2 * len(RATES) and ("q1#0", "p0", 2) in judged and ("q1#1", f"p0{BARE}", 2) in judged
    assert all(item in found[rows[query]["pool"]] for query, item, _ in judged)


def test_another_seed_takes_other_captions_and_the_same_seed_the_same(tmp_path):
    first, again, other = (pools(made(tmp_path / str(place), seed)[1]) for place, seed in enumerate((0, 0, 1)))
    assert first == again and first["captions 0.5"] != other["captions 0.5"]


def test_queries_lose_the_text_beside_their_picture_and_documents_stay(tmp_path):
    queries = [
        {"id": f"q{n}", "text": "which?", "images": [b"x"], "split": "test", "task": "it->t", "answers": ["y"]} for n in range(COUNT)
    ]
    alone = {"id": "alone", "text": "words alone", "split": "test", "task": "t->t", "answers": ["y"]}
    _, folder = made(tmp_path, of="queries", queries=[*queries, alone], qrels=[])
    rows = {row["id"]: row for row in read_part(folder, "queries").to_pylist()}
    bare = {rate: {n for n in range(COUNT) if not rows[f"q{n}#{rate:g}"]["text"]} for rate in RATES}
    assert bare[0.0] == set() and len(bare[1.0]) == COUNT and bare[0.25] < bare[0.5]
    assert rows["q3#1"]["images"] == [b"x"] and rows["q3#1"]["answers"] == ["y"] and rows["alone#1"]["text"] == "words alone"
    assert [row["id"] for row in read_part(folder, "corpus").to_pylist()] == [row["id"] for row in CORPUS]
    assert pools(folder) == {} and rows["q3#1"]["dataset"] == at_rate("made", 1.0)


@pytest.mark.parametrize(("of", "what"), [("documents", "candidate"), ("queries", "query")])
def test_a_corpus_without_captions_is_refused(tmp_path, of, what):
    with pytest.raises(Refused, match=f"no {what} has a text beside a picture, so there is no caption to remove; give captions.of="):
        made(tmp_path, of=of, corpus=[{"id": "p0", "images": [b"x"]}, {"id": "t", "text": "a passage"}])


@pytest.mark.parametrize("rates", [(), (0.5, 0.5), (1.5,), (-0.1,)])
def test_rates_are_shares_each_once(rates):
    with pytest.raises(Refused, match=r"captions\.rates is .*; give shares from 0 to 1, each once"):
        CaptionsConfig(rates=rates)
