"""A corpus that its run cannot use is refused before anything is trained on it, with what would give what is missing."""

import json

import pytest

from mirepoix.components.pairs.corpus_check import CorpusCounts, corpus_problems, rejected_shares, work
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from tests.components.fixtures import context, write_corpus

ALL = CorpusCheckConfig({"pairs": PairsConfig(adapt_tasks=())})
SEARCH = CorpusCheckConfig({"pairs": PairsConfig(adapt_tasks=None, instruct_tasks=None)}, untrained=True)


def corpus(folder, answered=(), unanswered=(), **parts):
    """A curated folder with a query of each split named, those of `answered` with an answer; each of the task t->t."""
    named = [(split, True) for split in answered] + [(split, False) for split in unanswered]
    queries = [{"id": f"q{n}", "split": split, "task": "t->t"} for n, (split, _) in enumerate(named)]
    qrels = [{"query_id": f"q{n}", "item_id": "d", "relevance": int(has)} for n, (_, has) in enumerate(named)]
    return write_corpus(folder, corpus=[{"id": "d", "text": "a text"}], queries=queries, qrels=qrels, **parts)


def rejected(part, reason, count=1):
    return [{"part": part, "id": f"{part} {reason} {n}", "reason": reason} for n in range(count)]


def test_a_corpus_with_pairs_and_with_queries_to_measure_by_has_no_problem(tmp_path):
    assert corpus_problems(corpus(tmp_path / "c", answered=["train", "test"]), ALL) == []


def test_without_a_training_pair_the_splits_that_there_are_and_what_curation_rejected_are_told(tmp_path):
    folder = corpus(
        tmp_path / "c", ["test", "test"], ["train"], rejects=rejected("queries", "empty side", 3) + rejected("qrels", "bad row")
    )
    (line,) = corpus_problems(folder, ALL)
    assert line == (
        "no pair is left to train on: no judgement above 0 is of a query of the split train (of test there are 2, of train there are 1); "
        "curation rejected 4 queries and judgements (empty side 3, bad row 1); bring a source to train on, or call a split train, as "
        "sources.splits=dev=train does; `mirepoix run search` searches a corpus without a training"
    )


def test_queries_with_answers_as_texts_can_be_measured_and_are_no_pairs(tmp_path):
    asked = [
        {"id": f"{split}-{n}", "split": split, "task": "it->t", "answers": ["a star"] * n} for split in ("train", "test") for n in (0, 1)
    ]
    folder = write_corpus(tmp_path / "c", corpus=[{"id": "d", "text": "a text"}], queries=asked)
    counts = CorpusCounts.of(folder)
    assert counts.answered == {("train", "it->t"): 1, ("test", "it->t"): 1} and counts.queries == {"train": 2, "test": 2}
    assert corpus_problems(folder, SEARCH) == []
    (line,) = corpus_problems(folder, ALL)
    assert line.startswith("no pair is left to train on: no judgement above 0 is of a query of the split train (of test there are 2")


def test_queries_that_are_kept_without_an_answer_are_no_problem_beside_others(tmp_path):
    folder = corpus(tmp_path / "c", answered=["train", "test"], unanswered=["test", "validation"])
    assert corpus_problems(folder, ALL) == [] and CorpusCounts.of(folder).splits(trained=True) == ["test"]


def test_triples_are_pairs_to_come_where_passages_are_made_and_else_the_setting_is_named(tmp_path):
    triples = [{"id": "t", "text": "what?", "split": "train", "answer": "that", "evidence": []}]
    folder = corpus(tmp_path / "c", ["test"], triples=triples)
    (line,) = corpus_problems(folder, ALL)
    assert line.endswith("of the 1 triples of train passages can be made: set passages.kind to vid2r or written")
    assert corpus_problems(folder, CorpusCheckConfig(ALL.pairs, passages=True)) == []


def test_a_training_whose_tasks_no_pair_has_is_told_with_those_that_there_are_for_every_arm(tmp_path):
    folder = corpus(tmp_path / "c", ["train", "test"])
    arms = {"pairs": PairsConfig(adapt_tasks=("it->t",)), "mire:pairs": PairsConfig(adapt_tasks=None, instruct_tasks=("t->i",))}
    assert corpus_problems(folder, CorpusCheckConfig(arms)) == [
        "no pair to train on has a task of pairs.adapt_tasks=it->t; name some of t->t",
        "no pair to train on has a task of pairs.instruct_tasks=t->i; name some of t->t",
    ]


def test_captions_to_adapt_on_are_those_of_pictures_that_are_not_held_out(tmp_path):
    adapting = CorpusCheckConfig({"pairs": PairsConfig(adapt_captions=True, adapt_tasks=None)})
    folder = corpus(tmp_path / "c", ["train", "test"])
    (line,) = corpus_problems(folder, adapting)
    assert line.startswith("pairs.adapt_captions is on, and no picture or clip that is not held out has a text beside it; ")
    pictured = {"id": "p", "text": "a caption", "images": [b"x"]}
    for name, held, expected in (("held", [{"item_id": "p"}], 1), ("free", [], 0)):
        there = write_corpus(
            tmp_path / name,
            corpus=[{"id": "d", "text": "a text"}, pictured],
            queries=[{"id": "q", "split": split, "task": "t->t"} for split in ("train",)] + [{"id": "r", "split": "test", "task": "t->t"}],
            qrels=[{"query_id": "q", "item_id": "d"}, {"query_id": "r", "item_id": "d"}],
            held=held,
        )
        assert len(corpus_problems(there, adapting)) == expected, name


def test_without_a_held_out_query_with_an_answer_there_is_nothing_to_measure_by(tmp_path):
    (line,) = corpus_problems(corpus(tmp_path / "c", ["train", "train"], ["test"]), ALL)
    assert line == (
        "no held-out query is left to measure by: all 2 queries with an answer are of the split train; curate.held_out=0.1 holds out a "
        "tenth of the training queries, and sources.splits=OLD=NEW renames a split"
    )
    assert corpus_problems(tmp_path / "c", CorpusCheckConfig(ALL.pairs, evaluated=False)) == [], "nothing is evaluated"


def test_a_corpus_without_a_query_is_told_both_that_it_cannot_be_trained_on_and_not_measured_by(tmp_path):
    first, second = corpus_problems(corpus(tmp_path / "c"), ALL)
    assert "(there is no query)" in first and "measure by: no query is left; curate.held_out=0.1" in second


@pytest.mark.parametrize(
    ("asked", "split", "there", "problem"),
    [
        (ALL, "validation", ["train", "test"], "evaluate.split is 'validation', and the corpus has answered queries of test; give one"),
        (ALL, "train", ["train", "test"], "evaluate.split is 'train', and the corpus has answered queries of test; give one"),
        (ALL, "test", ["train", "test"], None),
        (SEARCH, "train", ["train"], None),
        (SEARCH, "dev", ["train", "test"], "evaluate.split is 'dev', and the corpus has answered queries of test, train; give one"),
        (SEARCH, "dev", [], None),
        (SEARCH, None, [], None),
    ],
)
def test_a_split_of_the_headline_that_no_query_is_of_is_told_with_those_that_there_are(tmp_path, asked, split, there, problem):
    asked = CorpusCheckConfig(asked.pairs, untrained=asked.untrained, split=split)
    found = corpus_problems(corpus(tmp_path / "c", there), asked)
    assert [line.partition(" of these")[0] for line in found] == ([problem] if problem else [])


LEAKAGE = [
    {"setting": "curate.leakage=all", "training": 0, "held_out": 660},
    {"setting": "curate.leakage=queries", "training": 5940, "held_out": 660},
    {"setting": "curate.leakage=off", "training": 5945, "held_out": 660},
    {"setting": "sources.splits=test=train with curate.held_out=0.1", "training": 5940, "held_out": 665},
]


def test_where_everything_leaks_it_is_said_what_each_setting_would_leave(tmp_path):
    (line,) = corpus_problems(corpus(tmp_path / "c", ["test"]), ALL, LEAKAGE)
    assert line == (
        "no pair is left to train on: all 5,945 training queries leak, for they or their answers are near-equal to held-out queries or to "
        "answers of these (curate.leakage=all); curate.leakage=queries would leave 5,940 to train on and 660 to measure by; "
        "curate.leakage=off would leave 5,945 to train on and 660 to measure by; sources.splits=test=train with curate.held_out=0.1 would "
        "leave 5,940 to train on and 665 to measure by; a score on what was trained on says little: hold out whole groups"
    )
    (line,) = corpus_problems(tmp_path / "c", ALL, [{**LEAKAGE[0], "training": 3}, *LEAKAGE[1:]])
    assert "leak" not in line, "some are left, so something else is wrong"


def test_the_stage_refuses_with_all_problems_and_reads_the_table_of_curation(tmp_path):
    publish(corpus(tmp_path / "draft"), tmp_path / "empty", {})
    with pytest.raises(Refused, match=r"^\(1\) no pair is left .* training\. \(2\) no held-out query is left .* renames a split\.$"):
        work(context(tmp_path / "a"), ALL, tmp_path / "empty")
    publish(corpus(tmp_path / "draft2", ["test"]), tmp_path / "leaking", {"tables": {"leakage": LEAKAGE}})
    with pytest.raises(Refused, match="all 5,945 training queries leak"):
        work(context(tmp_path / "b"), ALL, tmp_path / "leaking")


def test_the_stage_writes_down_what_it_counted(tmp_path):
    stage = context(tmp_path)
    outcome = work(stage, ALL, corpus(tmp_path / "c", ["train", "train", "test"], ["test"]))
    assert json.loads((stage.folder / "counts.json").read_text()) == {"answered test t->t": 1, "answered train t->t": 2}
    assert (outcome.rows.read, outcome.tables["warnings"]) == (4, [])


def test_a_large_share_of_rejected_queries_or_judgements_is_told_though_it_stops_nothing(tmp_path):
    lost = rejected("queries", "no answer is left", 2) + rejected("qrels", "judged twice", 9) + rejected("corpus", "damaged", 9)
    folder = corpus(tmp_path / "c", ["train", "test", "test"], rejects=lost)
    assert rejected_shares(folder, CorpusCounts.of(folder)) == [
        "curation rejected 2 of 5 queries (no answer is left 2); mirepoix validate names each"
    ]
