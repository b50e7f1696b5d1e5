"""Curated rows become training pairs and evaluation queries, without overlap."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pytest

from mirepoix.components.corpus.parts import PartWriter, held_out, read_part
from mirepoix.components.pairs import pairs
from mirepoix.components.pairs.instructions import INSTRUCTIONS, WORDINGS
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.pairs.store import PairStore
from mirepoix.components.synthetic.queries import TASKS
from mirepoix.models.errors import Refused
from mirepoix.models.item import table_to_items
from tests.components.fixtures import context, made, write_corpus

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


def test_evaluation_queries_have_instructions_and_are_not_training_queries(paired, truth):
    _, queries, labels, _ = truth
    found = evaluation(paired.folder)
    assert set(found) == {query for query, (split, _) in labels.items() if split != "train"}
    assert all(item.instruction in INSTRUCTIONS[labels[item.id][1]] for item in found.values())
    assert all(replace(item, instruction="") == queries[item.id] for item in found.values())
    assert not set(found) & {pair.query.id for name in ("adapt", "instruct") for pair in read(paired.folder, name)}


def test_queries_of_evaluation_keep_their_data_set_pool_and_answers(tmp_path):
    about = {"dataset": "okvqa", "pool": "wiki", "answers": ["a star", "stars"]}
    asked = [{"id": split, "text": "?", "split": split, "task": "t->t", **about} for split in ("train", "test")]
    corpus = write_corpus(
        tmp_path / "in",
        corpus=[{"id": "d", "text": "a text"}],
        queries=[*asked, asked[1] | {"id": "bare"} | dict.fromkeys(about)],
        qrels=[{"query_id": "train", "item_id": "d"}],
    )
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=None), curate=corpus)
    rows = {row["id"]: row for row in read_part(found.folder, "queries").to_pylist()}
    assert {id: [row[name] for name in about] for id, row in rows.items()} == {"test": [*about.values()], "bare": [None] * 3}
    assert rows["test"]["instruction"]


def test_a_pair_has_the_grade_of_its_judgement(tmp_path):
    corpus = write_corpus(
        tmp_path / "in",
        corpus=[{"id": name, "text": f"text {name}"} for name in "abc"],
        queries=[{"id": "q", "text": "?", "split": "train", "task": "t->t"}],
        qrels=[{"query_id": "q", "item_id": name, "relevance": grade} for name, grade in (("a", 3), ("b", 1), ("c", 0))],
    )
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=None), curate=corpus)
    entries = PairStore(found.folder / "instruct").entries.table
    assert dict(zip(entries["id"].to_pylist(), entries["grade"].to_pylist(), strict=True)) == {"q>a": 3, "q>b": 1}


def test_pairs_are_counted_by_store_and_task(paired, truth):
    _, _, labels, judged = truth
    metrics, rows = paired.outcome.metrics, paired.outcome.rows
    assert rows.read == rows.written == len(judged) == metrics["training_pairs"] + metrics["evaluation_pairs"]
    assert metrics["instruct_pairs"] == metrics["training_pairs"] == sum(metrics[f"instruct_pairs {task}"] for task in TASKS)
    assert metrics["adapt_pairs"] == sum(metrics[f"adapt_pairs {task}"] for task in ADAPT)
    assert metrics["evaluation_pairs"] == sum(labels[query][0] != "train" for query, _ in judged)


def test_a_share_of_the_queries_is_trained_on_without_an_instruction(paired, curated, tmp_path):
    """Searches that name no target come without an instruction."""
    pairs_of = {pair.query.id: pair.query.instruction for pair in read(paired.folder, "instruct")}
    bare = sum(not instruction for instruction in pairs_of.values()) / len(pairs_of)
    assert 0.05 < bare < 0.15
    always = made(tmp_path / "always", pairs.work, PairsConfig(without_instruction=0.0), curate=curated.folder)
    assert all(pair.query.instruction for pair in read(always.folder, "instruct"))


def test_adaptation_may_have_every_task_with_instructions_too(curated, tmp_path):
    config = PairsConfig(adapt_tasks=(), adapt_instructions=True)
    found = made(tmp_path / "both", pairs.work, config, curate=curated.folder)
    assert read(found.folder, "adapt") == read(found.folder, "instruct")


def test_adapt_captions_makes_pairs_of_a_caption_and_its_picture(curated, truth, tmp_path):
    corpus, queries, _, _ = truth
    found = made(tmp_path / "captions", pairs.work, PairsConfig(adapt_captions=True, adapt_tasks=("v->v",)), curate=curated.folder)
    held = held_out(curated.folder)
    every = [item for item in corpus.values() if item.text and (item.images or item.video)]
    captioned = [item for item in every if item.id not in held]
    adapted = read(found.folder, "adapt")
    assert 0 < len(captioned) < len(every) and [pair.query.text for pair in adapted] == [item.text for item in captioned]
    for pair, item in zip(adapted, captioned, strict=True):
        assert (pair.positive.images, pair.positive.video, pair.positive.text) == (item.images, item.video, "")
        assert not pair.query.images + pair.query.video and pair.query.instruction == "" and pair.id not in queries
        assert pair.task == f"t->{pair.positive.modality.letters}"
    assert found.outcome.metrics["adapt_pairs"] == len(captioned) and not found.outcome.tables["notices"]
    usual = made(tmp_path / "usual", pairs.work, PairsConfig(adapt_tasks=None), curate=curated.folder)
    assert read(found.folder, "instruct") == read(usual.folder, "instruct"), "captions are adapted on alone"


BARE = PairsConfig(adapt_tasks=None, instruct_tasks=None)


def test_without_a_training_the_queries_of_every_split_are_those_of_evaluation(curated, truth, tmp_path):
    _, queries, labels, judged = truth
    found = made(tmp_path / "out", pairs.work, replace(BARE, mixture=("nobody=2",)), curate=curated.folder)
    assert set(evaluation(found.folder)) == set(queries)
    assert found.outcome.metrics == {"training_pairs": 0, "evaluation_pairs": len(judged), "hard_negatives": 0}
    assert all(item.instruction in INSTRUCTIONS[labels[item.id][1]] for item in evaluation(found.folder).values())
    assert json.loads((found.folder / WORDINGS).read_text())["t->i"] == "Find a picture of this."
    assert {path.name for path in found.folder.iterdir()} == {"queries", "rejects", WORDINGS, "manifest.json"}


def test_without_a_training_a_corpus_without_a_query_has_empty_parts(tmp_path):
    corpus = write_corpus(tmp_path / "in", corpus=[{"id": "d1", "text": "x"}])
    found = made(tmp_path / "out", pairs.work, replace(BARE, without_instruction=1.0), curate=corpus)
    assert evaluation(found.folder) == {} and (found.folder / WORDINGS).read_text() == "{}\n"
    with pytest.raises(Refused, match=r"no pair is left to train on.*`mirepoix run search` searches a corpus without a training"):
        made(tmp_path / "trained", pairs.work, PairsConfig(), curate=corpus)


def test_an_adaptation_alone_is_made_of_captions_and_needs_no_judged_query(tmp_path):
    corpus = write_corpus(tmp_path / "in", corpus=[{"id": "d1", "text": "a star", "images": [b"i"]}])
    config = PairsConfig(adapt_captions=True, instruct_tasks=None)
    found = made(tmp_path / "out", pairs.work, config, curate=corpus)
    assert [pair.query.text for pair in read(found.folder, "adapt")] == ["a star"] and not (found.folder / "instruct").exists()
    with pytest.raises(Refused, match="mixture has the entry 'nobody=2', which matches no pair"):
        made(tmp_path / "weighed", pairs.work, replace(config, mixture=("nobody=2",)), curate=corpus)


def test_captions_are_refused_where_there_are_none(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, "test")])
    with pytest.raises(Refused, match="adapt_captions is on, and no picture or clip that is not held out has a text"):
        made(tmp_path / "out", pairs.work, PairsConfig(adapt_captions=True), curate=corpus)


def test_captions_are_weighed_as_other_pairs_are(curated, tmp_path):
    half = made(tmp_path / "half", pairs.work, PairsConfig(adapt_captions=True, mixture=("*:t->i=0.5",)), curate=curated.folder)
    whole = made(tmp_path / "whole", pairs.work, PairsConfig(adapt_captions=True), curate=curated.folder)
    counted = [found.outcome.metrics["adapt_pairs t->i"] for found in (half, whole)]
    assert counted[0] == round(counted[1] / 2) > 0
    none = PairsConfig(adapt_captions=True, mixture=("*:t->i=0",))
    with pytest.raises(Refused, match=r"for the stage adapt: pairs\.mixture leaves none"):
        made(tmp_path / "none", pairs.work, none, curate=curated.folder)


def test_without_instruction_1_gives_no_query_an_instruction_in_training_evaluation_or_serving(tmp_path):
    """Not even one of its own from the source: MARVEL, UniVL-DR, MIRe and MiMIC read none."""
    corpus = small(
        tmp_path / "in", [query(1, instruction="Mine."), query(2), query(3, "validation", instruction="Mine."), query(4, "test")]
    )
    config = PairsConfig(adapt_tasks=(), adapt_instructions=True, without_instruction=1)
    found = made(tmp_path / "out", pairs.work, config, curate=corpus)
    asked = [pair.query for name in ("adapt", "instruct") for pair in read(found.folder, name)] + [*evaluation(found.folder).values()]
    assert len(asked) == 6 and {item.instruction for item in asked} == {""}
    assert json.loads((found.folder / WORDINGS).read_text()) == {}


def test_wordings_are_drawn_by_seed(paired, curated, tmp_path):
    same = made(tmp_path / "same", pairs.work, PairsConfig(), curate=curated.folder)
    other = made(tmp_path / "other", pairs.work, PairsConfig(), seed=1, curate=curated.folder)
    assert evaluation(same.folder) == evaluation(paired.folder) != evaluation(other.folder)
    assert read(same.folder, "instruct") == read(paired.folder, "instruct") != read(other.folder, "instruct")
    assert read(other.folder, "adapt") == read(paired.folder, "adapt")


def small(folder, queries, qrels=(("q1", "d1"), ("q2", "d2"))):
    candidates = [{"id": f"d{n}", "text": f"document {n}"} for n in (1, 2, 3)]
    return write_corpus(folder, corpus=candidates, queries=queries, qrels=rows_of(qrels))


def rows_of(qrels):
    return [dict(zip(("query_id", "item_id", "relevance"), row, strict=False)) for row in qrels]


def query(number, split="train", task="t->t", **more):
    return {"id": f"q{number}", "text": f"query {number}", "split": split, "task": task, **more}


def test_adaptation_drops_an_instruction_that_a_query_brings(tmp_path):
    corpus = small(tmp_path / "in", [query(1, instruction="Mine."), query(2, "validation", instruction="Mine.")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=("t->t",)), curate=corpus)
    assert [pair.query.instruction for pair in read(found.folder, "adapt")] == [""]
    assert [pair.query.instruction for pair in read(found.folder, "instruct")] == ["Mine."]
    assert evaluation(found.folder)["q2"].instruction == "Mine."


def test_candidates_judged_irrelevant_are_hard_negatives_of_their_querys_pairs(tmp_path):
    judged = [("q1", "d1", 0), ("q1", "d2", 2), ("q1", "d3", 1), ("q2", "d3", 1), ("q2", "d1", 0)]
    corpus = small(tmp_path / "in", [query(1), query(2, "validation")], judged)
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    for name in ("adapt", "instruct"):
        found_pairs = [(pair.positive.id, [item.id for item in pair.negatives]) for pair in read(found.folder, name)]
        assert found_pairs == [("d2", ["d1"]), ("d3", ["d1"])]
    assert (found.outcome.rows.read, found.outcome.rows.written, found.outcome.rows.rejected) == (5, 5, 0)
    assert found.outcome.metrics["hard_negatives"] == 1


def test_a_teachers_scores_stay_with_the_documents_that_it_scored(tmp_path):
    judged = {"query_id": "q1", "item_id": "d1", "score": 0.9}, {"query_id": "q2", "item_id": "d2"}
    refuted = [
        {"query_id": "q1", "item_id": id, "relevance": 0, "score": score} for id, score in (("d2", 0.25), ("d3", None), ("d4", -1.0))
    ]
    copied = [
        {"id": "d1", "text": "a star"},
        {"id": "d2", "text": "a disc"},
        {"id": "d3", "text": "a moon"},
        {"id": "d4", "text": "a star"},
    ]
    asked = [{"id": f"q{n}", "text": f"{n} ?", "split": "train", "task": "t->t"} for n in (1, 2)]
    corpus = write_corpus(tmp_path / "corpus", corpus=copied, queries=asked, qrels=[*judged, *refuted])
    store = PairStore(made(tmp_path, pairs.work, PairsConfig(adapt_tasks=(), mixture=("*=2",)), curate=corpus).folder / "instruct")
    found_pairs = {drawn.pair.id: drawn for drawn in store.drawn(range(len(store)))}
    assert [item.id for item in found_pairs["q1>d1"].pair.negatives] == ["d2", "d3"], "d4 is a copy of the answer"
    assert found_pairs["q1>d1"].scores == pytest.approx([0.9, 0.25, math.nan], nan_ok=True) and len(store) == 4
    assert found_pairs["q2>d2"].scores == pytest.approx([math.nan], nan_ok=True)


def test_a_negative_that_answers_the_same_query_is_left_out_with_its_reason(tmp_path):
    """By another row of the query, by a copy of the answer, or by another query that asks the same; or its query has no answer."""
    asked = [query(1), query(2, text="query 1"), query(3)]
    candidates = [{"id": f"d{n}", "text": f"document {n}"} for n in (1, 2, 3, 4)] + [{"id": "copy", "text": "document 2"}]
    judged = [("q1", "d1", 1), ("q1", "d1", 0), ("q1", "copy", 0), ("q1", "d3", 0), ("q1", "d4", 0), ("q2", "d2", 1), ("q2", "d3", 1)]
    corpus = write_corpus(tmp_path / "in", corpus=candidates, queries=asked, qrels=rows_of([*judged, ("q3", "d1", -1)]))
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    found_pairs = {pair.positive.id: [item.id for item in pair.negatives] for pair in read(found.folder, "instruct")}
    assert found_pairs == {"d1": ["d4"], "d2": [], "d3": []}
    rejects = {(row["id"], row["reason"], row["source"], row["line"]) for row in read_part(found.folder, "rejects").to_pylist()}
    assert rejects == {(f"q1 {item}", pairs.ANSWERS, "made", 1) for item in ("d1", "copy", "d3")} | {("q3 d1", pairs.ALONE, "made", 1)}
    rows = found.outcome.rows
    assert (rows.read, rows.written, rows.rejected) == (8, 4, 4) and found.outcome.metrics["hard_negatives"] == 1
    assert found.outcome.metrics[f"rejected {pairs.ANSWERS}"] == 3


def test_a_repeated_judgement_is_merged(tmp_path):
    corpus = small(tmp_path / "in", [query(1)], [("q1", "d1"), ("q1", "d1"), ("q1", "d2", 0), ("q1", "d2", 0)])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    rows = found.outcome.rows
    assert (rows.read, rows.written, rows.merged) == (4, 2, 2)
    assert [[item.id for item in pair.negatives] for pair in read(found.folder, "instruct")] == [["d2"]]


def test_pairs_know_the_source_that_their_query_came_from(tmp_path):
    corpus = small(tmp_path / "in", [query(1, source="coco/train/a.jsonl"), query(2, source="webqa")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    assert PairStore(found.folder / "instruct").entries.table["source"].to_pylist() == ["coco", "webqa"]


def test_kin_of_what_is_in_the_store_are_masked_there(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2)])
    kin = [{"item_id": "d1", "kin_id": "d2", "why": "same picture"}, {"item_id": "d1", "kin_id": "d3", "why": "not in the store"}]
    write_corpus(tmp_path / "more", kin=kin)
    (tmp_path / "more/kin").rename(corpus / "kin")
    store = PairStore(made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus).folder / "instruct")
    assert store.relevant([0, 1]).shape == (2, 1) and store.relevant([0, 1], kin=True).shape == (2, 2)


def test_kin_are_masked_among_captions_too(tmp_path):
    corpus = write_corpus(
        tmp_path / "in",
        corpus=[{"id": f"d{n}", "text": f"A red star {n}.", "images": [b"seen %d" % n]} for n in (1, 2, 3)],
        queries=[query(1)],
        qrels=rows_of([("q1", "d3")]),
        kin=[{"item_id": "d1", "kin_id": "d2", "why": "same text"}],
    )
    store = PairStore(made(tmp_path / "out", pairs.work, PairsConfig(adapt_captions=True), curate=corpus).folder / "adapt")
    assert len(store) == 3
    assert store.relevant([0, 1, 2]).shape == (3, 1) and store.relevant([0, 1, 2], kin=True).shape == (3, 2)


def test_passages_are_training_pairs_in_addition_to_the_curated_ones(tmp_path):
    """A passage may answer a curated query, and a curated candidate a query of the passages."""
    corpus = small(tmp_path / "in", [query(1), query(2, "validation")])
    written = write_corpus(
        tmp_path / "more",
        corpus=[{"id": "w1", "text": "written"}],
        queries=[query(7, source="written")],
        qrels=rows_of([("q7", "w1"), ("q7", "d3"), ("q1", "w1"), ("q7", "d1", 0)]),
    )
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus, passages=written)
    found_pairs = {(pair.query.id, pair.positive.id): [item.id for item in pair.negatives] for pair in read(found.folder, "instruct")}
    assert found_pairs == {("q1", "d1"): [], ("q1", "w1"): [], ("q7", "w1"): ["d1"], ("q7", "d3"): ["d1"]}
    assert set(evaluation(found.folder)) == {"q2"} and found.outcome.rows.read == 6
    other = made(tmp_path / "none", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    assert {(pair.query.id, pair.positive.id) for pair in read(other.folder, "instruct")} == {("q1", "d1")}


@pytest.mark.parametrize(
    ("part", "rows", "why"),
    [
        ("queries", [query(7, "test")], "'q7' in .* is of the split 'test', and passages are for training only"),
        ("queries", [query(1)], "'q1' in .* is there twice"),
        ("qrels", [{"query_id": "q9", "item_id": "d1"}], "name the query 'q9', which is not in queries/"),
        ("qrels", [{"query_id": "q1", "item_id": "d9"}], "name the candidate 'd9', which is not in corpus/"),
    ],
)
def test_passages_that_do_not_join_are_refused(tmp_path, part, rows, why):
    corpus, written = small(tmp_path / "in", [query(1), query(2)]), write_corpus(tmp_path / "more", **{part: rows})
    with pytest.raises(Refused, match=why):
        made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus, passages=written)


def test_prompts_of_the_source_take_precedence_over_the_default_wordings(tmp_path):
    corpus = small(tmp_path / "in", [query(1, source="coco/a"), query(2, "validation", source="web/b")])
    prompts = [{"task": "t->t", "wording": "Coco's words.", "source": "coco"}]
    write_corpus(tmp_path / "more", prompts=prompts)
    (tmp_path / "more/prompts").rename(corpus / "prompts")
    config = PairsConfig(adapt_tasks=(), without_instruction=0.0)
    found = made(tmp_path / "out", pairs.work, config, curate=corpus)
    assert [pair.query.instruction for pair in read(found.folder, "instruct")] == ["Coco's words."]
    assert evaluation(found.folder)["q2"].instruction in INSTRUCTIONS["t->t"]


def mixed(tmp_path, *entries, **config):
    """A corpus of ten pairs of coco, t->t, and six of web, t->i, and what the entries make of it."""
    asked = [query(n, source="coco/x" if n < 10 else "web/x", task="t->t" if n < 10 else "t->i") for n in range(16)]
    candidates = [{"id": f"d{n}", "text": f"document {n}"} for n in range(16)]
    judged = rows_of([(f"q{n}", f"d{n}") for n in range(16)])
    corpus = write_corpus(tmp_path / "in", corpus=candidates, queries=asked, qrels=judged)
    return made(tmp_path / "out", pairs.work, PairsConfig(mixture=entries, adapt_tasks=("t->t",), **config), curate=corpus)


def test_weights_repeat_pairs_in_an_epoch_and_items_are_written_once(tmp_path):
    found = mixed(tmp_path, "*=2", "web:*=0.5")
    store = PairStore(found.folder / "instruct")
    times = {n: [pair.query.id for pair in store.pairs(range(len(store)))].count(f"q{n}") for n in range(16)}
    assert [times[n] for n in range(10)] == [2] * 10 and sorted(times[n] for n in range(10, 16)) == [0] * 3 + [1] * 3
    assert len(store.items.table) == 2 * 10 + 2 * 3
    assert len(PairStore(found.folder / "adapt")) == 20


def test_the_mixture_table_has_the_counts_before_and_after(tmp_path):
    found = mixed(tmp_path, "coco:t->t=0.3", "web=3")
    assert found.outcome.tables["mixture"] == [
        {"stage": "adapt", "source": "coco", "task": "t->t", "before": 10, "after": 3},
        {"stage": "instruct", "source": "coco", "task": "t->t", "before": 10, "after": 3},
        {"stage": "instruct", "source": "web", "task": "t->i", "before": 6, "after": 18},
    ]
    metrics = found.outcome.metrics
    assert (metrics["instruct_pairs"], metrics["instruct_pairs t->i"], metrics["instruct_pairs_before t->i"]) == (21, 18, 6)
    assert found.outcome.rows.read == found.outcome.rows.written == 16


def test_an_answer_with_weight_0_is_still_a_known_answer(tmp_path):
    asked = [query(1, source="coco"), query(2, source="web")]
    judged = rows_of([("q1", "d1"), ("q1", "d2"), ("q1", "d3"), ("q2", "d1"), ("q2", "d2"), ("q2", "d3")])
    candidates = [{"id": f"d{n}", "text": f"document {n}"} for n in (1, 2, 3)]
    corpus = write_corpus(tmp_path / "in", corpus=candidates, queries=asked, qrels=judged)
    found = made(tmp_path / "out", pairs.work, PairsConfig(mixture=("coco=0.34",), adapt_tasks=()), curate=corpus)
    store = PairStore(found.folder / "instruct")
    assert len(store) == 4 and {len(set(row)) for row in store.relevant(range(4)).tolist()} == {3}


def test_a_mixture_that_leaves_a_stage_no_pair_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"for the stage adapt: pairs\.mixture leaves none of 10; raise a weight"):
        mixed(tmp_path, "coco=0")


def test_no_more_than_a_few_items_are_held_at_a_time(tmp_path):
    """A corpus of pictures passes through in a part of its size."""
    picture = bytes(200_000)
    candidates = [{"id": f"d{n}", "images": [n.to_bytes(4, "big") + picture]} for n in range(300)]
    judged = rows_of([(f"q{n}", f"d{n}") for n in range(300)])
    corpus = write_corpus(tmp_path / "in", corpus=[], queries=[query(n, task="t->i") for n in range(300)], qrels=judged)
    with PartWriter(corpus, "corpus", rows_per_file=30) as writer:
        for row in candidates:
            writer.write([{"text": "", "video": [], "instruction": "", "source": "made", "line": 1, **row}])
    most = []
    stage_context = context(tmp_path / "out", report=lambda progress: most.append(pa.total_allocated_bytes()))
    before = pa.total_allocated_bytes()
    pairs.work(stage_context, PairsConfig(adapt_tasks=()), curate=corpus)
    assert max(most) - before < 30_000_000 < (stage_context.folder / "instruct/items.arrow").stat().st_size


def test_an_item_of_many_pairs_is_written_once(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2)], [("q1", "d1"), ("q1", "d2"), ("q2", "d1")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=()), curate=corpus)
    store = PairStore(found.folder / "instruct")
    assert len(store) == 3 and len(set(store.keys("query"))) == len(set(store.keys("positive"))) == 2


def test_tasks_that_no_pair_has_are_named_in_a_notice(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, "validation", "t->i")])
    config = PairsConfig(adapt_tasks=("t->t", "t->i", "i->t"), instruct_tasks=("t->t",))
    found = made(tmp_path / "out", pairs.work, config, curate=corpus)
    assert [pair.query.id for pair in read(found.folder, "adapt")] == ["q1"]
    detail = "tasks of pairs.adapt_tasks that no pair has: t->i, i->t"
    assert found.outcome.tables["notices"] == [{"stage": "adapt", "detail": detail}]


@pytest.mark.parametrize("stage", ["adapt", "instruct"])
def test_tasks_of_which_no_pair_has_any_are_refused_with_those_there_are(tmp_path, stage):
    corpus = small(
        tmp_path / "in", [query(1), query(2, task="it->t"), query(3, "validation", "t->i")], [("q1", "d1"), ("q2", "d2"), ("q3", "d3")]
    )
    config = PairsConfig(**{"adapt_tasks": (), f"{stage}_tasks": ("t->i", "x->y")})
    with pytest.raises(Refused, match=rf"no pair to train on has a task of pairs\.{stage}_tasks=t->i,x->y; name some of it->t, t->t$"):
        made(tmp_path / "out", pairs.work, config, curate=corpus)


def test_without_adaptation_there_is_no_store_for_it(tmp_path):
    corpus = small(tmp_path / "in", [query(1), query(2, "validation")])
    found = made(tmp_path / "out", pairs.work, PairsConfig(adapt_tasks=None), curate=corpus)
    assert not (found.folder / "adapt").exists() and len(read(found.folder, "instruct")) == 1
    assert "adapt_pairs" not in found.outcome.metrics and found.outcome.tables["notices"] == []


def test_a_corpus_without_a_training_pair_is_refused(tmp_path):
    corpus = small(tmp_path / "in", [query(1, "validation"), query(2, "test")])
    with pytest.raises(Refused, match="no pair is left to train on"):
        made(tmp_path / "out", pairs.work, PairsConfig(), curate=corpus)
