"""Every query is measured once in every pool, with values worked by hand: local and union pools, lists with ties, answers, grades."""

import itertools
import math

import numpy as np
import pytest

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.scoring import measuring
from mirepoix.components.evaluation.scoring.measuring import Measuring
from mirepoix.models.errors import Refused
from tests.components.evaluation.scoring.ranked import ByTable, judged, measured


def config(**more):
    return EvaluateConfig(**{"measures": ("Success@1", "RR@10", "R@2"), "measure": "RR@10", **more})


LOCAL = {
    "corpus": [{"id": id} for id in ("1:1", "1:2", "2:1", "2:2", "3:1")],
    "queries": [
        {"id": "1:q", "dataset": "one", "pool": "one_task1"},
        {"id": "2:q", "dataset": "two", "pool": "two_task1"},
    ],
    "qrels": [{"query_id": "1:q", "item_id": "1:2"}, {"query_id": "2:q", "item_id": "2:1"}],
    "pools": [
        *({"pool": "one_task1", "item_id": id} for id in ("1:1", "1:2")),
        *({"pool": "two_task1", "item_id": id} for id in ("2:1", "2:2")),
    ],
}
SCORES = {
    "1:q": {"3:1": 0.95, "2:1": 0.9, "1:1": 0.8, "1:2": 0.7, "2:2": 0.1},
    "2:q": {"3:1": 0.95, "1:1": 0.9, "2:1": 0.8, "2:2": 0.7, "1:2": 0.1},
}


def test_in_the_pool_of_its_data_set_a_query_meets_no_candidate_of_another(tmp_path):
    found = measured(tmp_path, config(pools=("dataset", "universal")), SCORES, **LOCAL)
    # Of all the answer of 1:q is the fourth, after 3:1, 2:1 and 1:1; of its own two candidates the second.
    assert found["universal", "1:q"]["RR@10"] == 1 / 4 and found["dataset", "1:q"]["RR@10"] == 1 / 2
    # Of all the answer of 2:q is the third; of its own it is the first.
    assert found["universal", "2:q"]["RR@10"] == pytest.approx(1 / 3) and found["dataset", "2:q"]["Success@1"] == 1
    assert found["dataset", "1:q"]["dataset"] == "one"
    runs = (tmp_path / "runs" / "table-dataset.trec").read_text().splitlines()
    assert [line.split()[:4] for line in runs] == [
        ["1:q", "Q0", "1:1", "1"],
        ["1:q", "Q0", "1:2", "2"],
        ["2:q", "Q0", "2:1", "1"],
        ["2:q", "Q0", "2:2", "2"],
    ]


def test_a_pool_called_union_is_what_the_universal_pool_holds(tmp_path):
    union = [{"pool": "union", "item_id": id} for id in ("1:1", "1:2", "2:1", "2:2")]
    found = measured(tmp_path, config(pools=("universal",)), SCORES, **LOCAL | {"pools": [*LOCAL["pools"], *union]})
    assert found["universal", "1:q"]["RR@10"] == pytest.approx(1 / 3) and found["universal", "2:q"]["RR@10"] == 1 / 2


def test_a_query_of_a_pool_without_members_is_refused(tmp_path):
    queries = [{"id": "q", "dataset": "three", "pool": "three_task1"}]
    with pytest.raises(
        Refused, match="queries are of the pool 'three_task1', of which the corpus has no candidate; it has the pools one_task1"
    ):
        measured(tmp_path, config(pools=("dataset",)), {}, **LOCAL | {"queries": queries, "qrels": []})


LISTED = {
    "corpus": [{"id": id} for id in ("a", "b", "c", "d", "e")],
    "queries": [{"id": "q1"}, {"id": "q2"}, {"id": "q3"}, {"id": "q4"}],
    "qrels": [
        *({"query_id": "q1", "item_id": id, "relevance": int(id == "a")} for id in "abc"),
        *({"query_id": "q2", "item_id": id, "relevance": int(id == "b")} for id in "bcd"),
        *({"query_id": "q3", "item_id": id, "relevance": int(id == "c")} for id in "cde"),
        *({"query_id": "q4", "item_id": id, "relevance": int(id == "gone")} for id in ("gone", "d", "e")),
    ],
}
TIED = {
    "q1": {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.1, "e": 0.1},  # all of the list are equal: the answer is last
    "q2": {"a": 0.9, "b": 0.5, "c": 0.4, "d": 0.3, "e": 0.9},  # what is better is not in the list
    "q3": {"a": 0.9, "b": 0.9, "c": 0.7, "d": 0.7, "e": 0.2},  # one other is equal
    "q4": {"a": 0.9, "b": 0.9, "c": 0.7, "d": 0.7, "e": 0.2},  # the answer is not in the corpus
}


def test_of_its_own_list_a_tie_counts_against_the_query_and_no_other_candidate_is_there(tmp_path):
    found = measured(tmp_path, config(pools=("listed", "universal")), TIED, **LISTED)
    values = {query: (found["listed", query]["Success@1"], found["listed", query]["RR@10"]) for query in ("q1", "q2", "q3", "q4")}
    assert values == {"q1": (0, pytest.approx(1 / 3)), "q2": (1, 1), "q3": (0, 1 / 2), "q4": (0, 0)}
    # Among all candidates ties are in the order of ids, as everywhere: a is before b and c.
    assert found["universal", "q1"]["Success@1"] == 1
    run = [line.split() for line in (tmp_path / "runs" / "table-listed.trec").read_text().splitlines()]
    assert [(line[0], line[2]) for line in run[:6]] == [("q1", "b"), ("q1", "c"), ("q1", "a"), ("q2", "b"), ("q2", "c"), ("q2", "d")]


def test_equal_vectors_find_nothing_of_a_list_where_the_answer_is_the_first(tmp_path):
    found = measured(tmp_path, config(pools=("listed",)), {query: dict.fromkeys("abcde", 1.0) for query in ("q1", "q2", "q3")}, **LISTED)
    assert all(row["Success@1"] == 0 for row in found.values())


def test_a_board_says_for_each_data_set_which_candidates_are_searched(tmp_path):
    parts = {
        "corpus": [{"id": id} for id in ("a", "b", "c")],
        "queries": [
            {"id": "listed", "dataset": "SmthSmthV2", "pool": "smth"},
            {"id": "whole", "dataset": "K700", "pool": "k700"},
            {"id": "other", "dataset": "unknown", "pool": "k700"},
        ],
        "qrels": [
            *({"query_id": "listed", "item_id": id, "relevance": int(id == "a")} for id in "ab"),
            *({"query_id": query, "item_id": "a"} for query in ("whole", "other")),
        ],
        "pools": [{"pool": pool, "item_id": id} for pool in ("smth", "k700") for id in "abc"],
    }
    table = {query: {"a": 0.5, "b": 0.4, "c": 0.9} for query in ("listed", "whole", "other")}
    found = measured(tmp_path, EvaluateConfig(board="mmeb_v2", measure="main"), table, **parts)
    assert {query: row["main"] for (_, query), row in found.items()} == {"listed": 1, "whole": 0}, "the board has no other data set"


PASSAGES = {
    "corpus": [{"id": "p1", "text": "Artists paint."}, {"id": "p2", "text": "An ART of war."}, {"id": "p3", "text": "Nothing"}],
    "queries": [
        {"id": "q1", "answers": ["art"], "task": "it->t"},
        {"id": "q2", "answers": ["none of them", "noth"], "task": "it->t"},
        {"id": "q3", "answers": ["zzz"], "task": "it->t"},
    ],
}
ORDER = {query: {"p1": 0.9, "p2": 0.8, "p3": 0.7} for query in ("q1", "q2", "q3")}


def test_a_passage_with_an_answer_is_relevant_as_any_string_or_as_whole_words(tmp_path):
    five = {"measures": ("RR@5", "P@5", "Success@5", "R@5"), "measure": "RR@5", "pools": ("universal",)}
    found = measured(tmp_path / "any", EvaluateConfig(**five), ORDER, **PASSAGES)
    # "art" is in Artists and in ART, "noth" in Nothing.
    assert [found["universal", query]["RR@5"] for query in ("q1", "q2", "q3")] == pytest.approx([1, 1 / 3, 0])
    assert [found["universal", query]["P@5"] for query in ("q1", "q2", "q3")] == pytest.approx([2 / 5, 1 / 5, 0])
    whole = measured(tmp_path / "whole", EvaluateConfig(board="okvqa", **five), ORDER, **PASSAGES)
    # As a word "art" is in the second alone, and "noth" is in none.
    assert [whole["universal", query]["RR@5"] for query in ("q1", "q2", "q3")] == pytest.approx([1 / 2, 0, 0])
    assert {row["R@5"] for row in whole.values()} == {None}, "how many passages have an answer is not known"


GRADED = {
    "corpus": [{"id": id} for id in ("a", "b", "c", "d")],
    "queries": [{"id": "q"}, {"id": "none"}],
    "qrels": [{"query_id": "q", "item_id": id, "relevance": grade} for id, grade in (("a", 1), ("b", 3), ("d", 2), ("c", 0), ("gone", 2))],
}


def test_grades_count_with_linear_or_exponential_gain_and_lost_answers_are_not_found(tmp_path):
    names = ("nDCG@2", "nDCG(dcg='exp-log2')@2", "R@3", "AP@3")
    table = {"q": {"a": 0.9, "c": 0.8, "b": 0.7, "d": 0.1}, "none": {"a": 0.9}}
    found = measured(tmp_path, EvaluateConfig(measures=names, measure="nDCG@2", pools=("universal",)), table, **GRADED)
    row, log3 = found["universal", "q"], math.log2(3)
    # Grades of the ranking: 1, 0, 3; the best two of all are 3 and 2, and four items are relevant, one of which is gone.
    assert row["nDCG@2"] == pytest.approx(1 / (3 + 2 / log3))
    assert row["nDCG(dcg='exp-log2')@2"] == pytest.approx(1 / (7 + 3 / log3))
    assert row["R@3"] == 2 / 4 and row["AP@3"] == pytest.approx((1 + 2 / 3) / 4)
    assert {found["universal", "none"][name] for name in names} == {0.0}, "a query without an answer counts as zero"


def test_a_candidate_with_the_id_of_the_query_is_left_out_where_it_is_asked_for(tmp_path):
    parts = {"corpus": [{"id": id} for id in "abc"], "queries": [{"id": "a"}], "qrels": [{"query_id": "a", "item_id": "b"}]}
    table = {"a": {"a": 1.0, "b": 0.9, "c": 0.8}}
    for ignore, expected in ((False, 1 / 2), (True, 1)):
        of = config(measures=("RR@2",), measure="RR@2", pools=("universal",), ignore_same_id=ignore)
        assert measured(tmp_path / str(ignore), of, table, **parts)["universal", "a"]["RR@2"] == expected


@pytest.mark.parametrize("ranked", [1, 12, 1 << 21])
def test_the_size_of_parts_decides_nothing(tmp_path, monkeypatch, ranked):
    monkeypatch.setattr(measuring, "RANKED", ranked)
    found = measured(tmp_path, config(pools=("listed", "universal", "target")), TIED, **LISTED)
    assert sorted(found) == [(pool, query) for pool in ("listed", "target", "universal") for query in ("q1", "q2", "q3", "q4")]
    assert found["listed", "q3"]["RR@10"] == 1 / 2 and found["target", "q2"]["RR@10"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("headline", ["RR@2", "main"])
def test_the_measures_of_a_boards_rows_are_computed_whichever_others_are_named(headline, tmp_path):
    config = EvaluateConfig(board="vidore", measures=("RR@2",), measure=headline)
    parts = {"corpus": [{"id": id} for id in "abc"], "queries": [{"id": "q", "dataset": "DocVQA"}]}
    found = measured(tmp_path, config, {"q": {"a": 3, "b": 2, "c": 1}}, **parts, qrels=[{"query_id": "q", "item_id": "c"}])
    assert found["dataset", "q"]["RR@2"] == 0 and found["dataset", "q"]["main"] == pytest.approx(1 / math.log2(4))


def test_curves_go_as_deep_as_the_deepest_measure(tmp_path):
    found = measured(tmp_path, config(measures=("RR@7",), measure="RR@7", pools=("universal",)), SCORES, **LOCAL)
    assert {f"R@{depth}" for depth in (1, 2, 3, 5, 7)} <= found["universal", "1:q"].keys() and "R@10" not in found["universal", "1:q"]
    assert [found["universal", "1:q"][f"R@{depth}"] for depth in (1, 2, 3, 5, 7)] == [0, 0, 0, 1, 1]


def test_chance_is_the_mean_over_all_orders_in_each_pool(tmp_path):
    of = config(pools=("dataset", "universal", "target"))
    found = judged(tmp_path, of, **LOCAL)
    chance = {(row["pool"], row["query"]): row for row in Measuring(found, of, tmp_path, 0).by_chance().to_pylist()}
    pools = {
        "dataset": ["1:1", "1:2"],
        "universal": [row["id"] for row in LOCAL["corpus"]],
        "target": [row["id"] for row in LOCAL["corpus"]],
    }
    for pool, ids in pools.items():
        orders = [order.index("1:2") + 1 for order in itertools.permutations(ids)]
        row = chance[pool, "1:q"]
        assert row["RR@10"] == pytest.approx(np.mean([1 / rank for rank in orders]))
        assert row["Success@1"] == pytest.approx(np.mean([rank == 1 for rank in orders]))
        assert row["R@2"] == pytest.approx(np.mean([rank <= 2 for rank in orders]))


def test_chance_by_answers_is_drawn_and_the_same_for_the_same_seed(tmp_path):
    of = EvaluateConfig(measures=("RR@1",), measure="RR@1", pools=("universal",))
    found = judged(tmp_path, of, **PASSAGES)
    first, again, other = (Measuring(found, of, tmp_path, seed).by_chance()["RR@1"].to_pylist() for seed in (0, 0, 5))
    assert first == again and set(first) <= {0.0, 1.0} and len(other) == 3


def test_progress_is_told_by_queries(tmp_path):
    of, steps = config(pools=("listed", "universal")), []
    found = judged(tmp_path, of, **LISTED)
    Measuring(found, of, tmp_path, 0).measure("table", ByTable(found, TIED), steps.append)
    assert sum(steps) == 2 * 4
