"""Curated rows become pairs to train on and queries to measure with, and never one from the other."""

import random
from dataclasses import replace

import pytest

from mirepoix.components import pairs
from mirepoix.components.batches import PairStore
from mirepoix.components.corpus import read_part
from mirepoix.components.instructions import INSTRUCTIONS, instructed
from mirepoix.components.pairs import PairsConfig
from mirepoix.components.wishes import TASKS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, table_to_items
from tests.components.larder import made, write_corpus

ADAPT = PairsConfig().adapt_tasks


def read(folder, name):
    store = PairStore(folder / name)
    return store.pairs(range(len(store)))


def evaluation(folder):
    return {item.id: item for item in table_to_items(read_part(folder, "queries"))}


@pytest.fixture(scope="module")
def truth(curated):
    """The curated corpus by id: candidates, queries, the split and task of each query, and who answers whom."""
    queries = read_part(curated.folder, "queries")
    labels = {row["id"]: (row["split"], row["task"]) for row in queries.select(["id", "split", "task"]).to_pylist()}
    judged = {(row["query_id"], row["item_id"]) for row in read_part(curated.folder, "qrels").to_pylist()}
    corpus = {item.id: item for item in table_to_items(read_part(curated.folder, "corpus"))}
    return corpus, {item.id: item for item in table_to_items(queries)}, labels, judged


def test_every_task_of_the_world_has_wordings():
    assert set(INSTRUCTIONS) == set(TASKS)
    assert all(len(set(wordings)) == len(wordings) > 1 for wordings in INSTRUCTIONS.values())


def test_the_store_for_instruction_has_every_training_pair_with_the_items_it_names(paired, truth):
    corpus, queries, labels, judged = truth
    found = read(paired.folder, "instruct")
    assert {(pair.query.id, pair.positive.id) for pair in found} == {pair for pair in judged if labels[pair[0]][0] == "train"}
    for pair in found:
        task = labels[pair.query.id][1]
        assert pair.positive == corpus[pair.positive.id] and pair.task == task and pair.id == f"{pair.query.id}>{pair.positive.id}"
        assert pair.query.instruction in (*INSTRUCTIONS[task], "")
        assert replace(pair.query, instruction="") == queries[pair.query.id]


def test_the_store_for_adaptation_has_its_tasks_alone_and_no_instruction(paired, truth):
    _, _, labels, judged = truth
    found = read(paired.folder, "adapt")
    wanted = {pair for pair in judged if labels[pair[0]][0] == "train" and labels[pair[0]][1] in ADAPT}
    assert {(pair.query.id, pair.positive.id) for pair in found} == wanted
    assert {pair.query.instruction for pair in found} == {""}


def test_queries_to_measure_with_have_instructions_and_are_none_that_was_trained_on(paired, truth):
    _, queries, labels, _ = truth
    found = evaluation(paired.folder)
    assert set(found) == {query for query, (split, _) in labels.items() if split != "train"}
    assert all(item.instruction in INSTRUCTIONS[labels[item.id][1]] for item in found.values())
    assert all(replace(item, instruction="") == queries[item.id] for item in found.values())
    assert not set(found) & {pair.query.id for name in ("adapt", "instruct") for pair in read(paired.folder, name)}


def test_pairs_are_counted_by_store_and_task(paired, truth):
    _, _, labels, judged = truth
    metrics, rows = paired.outcome.metrics, paired.outcome.rows
    assert rows.read == rows.written == len(judged) == metrics["training_pairs"] + metrics["evaluation_pairs"]
    assert metrics["instruct_pairs"] == metrics["training_pairs"] == sum(metrics[f"instruct_pairs {task}"] for task in TASKS)
    assert metrics["adapt_pairs"] == sum(metrics[f"adapt_pairs {task}"] for task in ADAPT)
    assert metrics["evaluation_pairs"] == sum(labels[query][0] != "train" for query, _ in judged)


def test_a_share_of_the_queries_is_trained_on_without_an_instruction(paired, curated, tmp_path):
    """A search that names no target has none."""
    pairs_of = {pair.query.id: pair.query.instruction for pair in read(paired.folder, "instruct")}
    bare = sum(not instruction for instruction in pairs_of.values()) / len(pairs_of)
    assert 0.05 < bare < 0.15
    always = made(tmp_path / "always", pairs.work, PairsConfig(without_instruction=0.0), curate=curated.folder)
    assert all(pair.query.instruction for pair in read(always.folder, "instruct"))


def test_adaptation_may_have_every_task_with_instructions_too(curated, tmp_path):
    config = PairsConfig(adapt_tasks=(), adapt_instructions=True)
    found = made(tmp_path / "both", pairs.work, config, curate=curated.folder)
    assert read(found.folder, "adapt") == read(found.folder, "instruct")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_no_instruction_is_refused(share):
    with pytest.raises(Refused, match="without_instruction"):
        PairsConfig(without_instruction=share)


def test_wordings_are_drawn_by_seed(paired, curated, tmp_path):
    same = made(tmp_path / "same", pairs.work, PairsConfig(), curate=curated.folder)
    other = made(tmp_path / "other", pairs.work, PairsConfig(), seed=1, curate=curated.folder)
    assert evaluation(same.folder) == evaluation(paired.folder) != evaluation(other.folder)
    assert read(same.folder, "instruct") == read(paired.folder, "instruct") != read(other.folder, "instruct")
    assert read(other.folder, "adapt") == read(paired.folder, "adapt")


def test_a_querys_wording_hangs_on_its_id_and_on_nothing_around_it():
    queries = [Item(f"q{n}", text="star ?") for n in range(60)]
    wordings = [instructed(query, "t->i", seed=3).instruction for query in queries]
    assert set(wordings) == set(INSTRUCTIONS["t->i"])
    random.Random(0).shuffle(queries)
    assert {query.id: instructed(query, "t->i", seed=3).instruction for query in queries} == {f"q{n}": w for n, w in enumerate(wordings)}


def test_an_instruction_that_a_query_brings_is_kept():
    query = Item("q", text="star ?", instruction="My own words.")
    assert instructed(query, "t->i", seed=0) is query


def test_a_task_without_wordings_goes_without_instruction():
    assert instructed(Item("q", text="star ?"), "v->t", seed=0).instruction == ""


def small(folder, queries, qrels=(("q1", "d1"), ("q2", "d2"))):
    candidates = [{"id": f"d{n}", "text": f"document {n}"} for n in (1, 2, 3)]
    judged = [dict(zip(("query_id", "item_id", "relevance"), row, strict=False)) for row in qrels]
    return write_corpus(folder, corpus=candidates, queries=queries, qrels=judged)


def query(number, split="train", task="t->t", **more):
    return {"id": f"q{number}", "text": f"query {number}", "split": split, "task": task, **more}


def test_adaptation_drops_an_instruction_that_a_query_brings(tmp_path):
    corpus = small(tmp_path / "in", [query(1, instruction="Mine."), query(2, "validation", instruction="Mine.")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=("t->t",)), curate=corpus)
    assert [pair.query.instruction for pair in read(found.folder, "adapt")] == [""]
    assert [pair.query.instruction for pair in read(found.folder, "instruct")] == ["Mine."]
    assert evaluation(found.folder)["q2"].instruction == "Mine."


def test_what_was_judged_irrelevant_is_no_positive(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, "validation")], [("q1", "d1", 0), ("q1", "d2", 2), ("q2", "d3", 1)])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    assert [pair.positive.id for pair in read(found.folder, "instruct")] == ["d2"]
    assert (found.outcome.rows.read, found.outcome.rows.written, found.outcome.rows.rejected) == (3, 2, 1)
    assert found.outcome.metrics["judged_irrelevant"] == 1


def test_an_item_of_many_pairs_is_written_once(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2)], [("q1", "d1"), ("q1", "d2"), ("q2", "d1")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    store = PairStore(found.folder / "instruct")
    assert len(store) == 3 and len(set(store.keys("query"))) == len(set(store.keys("positive"))) == 2


def test_an_unknown_task_is_refused_with_those_there_are(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, task="t->i")])
    with pytest.raises(Refused, match=r"no query has the task x->y of pairs.instruct_tasks; the corpus has t->i, t->t"):
        made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=("t->t",), instruct_tasks=("x->y",)), curate=corpus)


def test_a_corpus_without_a_training_pair_is_refused(tmp_path):
    corpus = small(tmp_path / "in", [query(1, "validation"), query(2, "test")])
    with pytest.raises(Refused, match="no pair is left to train on"):
        made(tmp_path / "out", pairs.work, PairsConfig(), curate=corpus)


def test_a_task_that_only_held_out_queries_have_is_refused(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, "validation", "t->i")])
    with pytest.raises(Refused, match=r"no pair is left to train on for pairs.adapt_tasks=t->i"):
        made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=("t->i",)), curate=corpus)
