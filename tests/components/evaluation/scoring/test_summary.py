"""Averages are over what the config says, a board has its own rows and means, and an encoder below a floor is marked."""

import numpy as np
import pyarrow as pa
import pytest

from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig, not_reached
from mirepoix.components.evaluation.scoring.summary import Summary, board_table, headline


def rows(system, values, pool="universal", split="test", **more):
    """Rows of a system from (dataset, task, value) of each query; the value is of every measure."""
    found = []
    for number, (dataset, task, value) in enumerate(values):
        place = {"system": system, "pool": pool, "split": split, "task": task, "dataset": dataset, "query": f"q{number}"}
        found.append(place | dict.fromkeys(("R@5", "Success@1", "Success@5", "Success@10", "R@1", "R@2"), value) | more)
    return found


VALUES = [("a", "t->i", 1.0), ("a", "t->i", 0.0), ("a", "i->t", 0.0), ("b", "t->i", 1.0), ("b", "t->i", 1.0), ("b", "t->i", 0.0)]


def summary(table, **settings):
    config = EvaluateConfig(**{"split": "test", "measures": ("R@5", "Success@1"), "draws": 50, "floors": (), **settings})
    return Summary(pa.Table.from_pylist(table), config, 0)


@pytest.mark.parametrize(
    ("mean", "average"),
    [
        # By task: t->i has 3 of 5, i->t none; by data set and task: 1/2, 0 and 2/3; by query: 3 of 6.
        ("tasks", (3 / 5 + 0) / 2),
        ("datasets", (1 / 2 + 0 + 2 / 3) / 3),
        ("queries", 3 / 6),
    ],
)
def test_the_average_is_over_tasks_data_sets_or_queries(mean, average):
    (entry,) = summary(rows("encoder", VALUES), mean=mean).results()
    figures = entry["R@5"]
    assert figures["average"] == pytest.approx(average, abs=1e-6) and figures["low"] <= figures["average"] <= figures["high"]
    assert figures["tasks"] == {"i->t": 0.0, "t->i": 0.6}
    assert figures["datasets"] == {"a": {"i->t": 0.0, "t->i": 0.5}, "b": {"t->i": 0.666667}}
    assert entry["queries"] == {"i->t": 1, "t->i": 5} and entry["datasets"] == {"a": {"i->t": 1, "t->i": 2}, "b": {"t->i": 3}}
    assert entry["curve"]["R"] == {"1": figures["average"], "2": figures["average"], "5": figures["average"]}


def test_every_system_pool_and_split_has_its_entry():
    table = rows("encoder", VALUES) + rows("encoder", VALUES, pool="target") + rows("bm25", VALUES, split="validation")
    assert [(entry["system"], entry["pool"], entry["split"]) for entry in summary(table).results()] == [
        ("bm25", "universal", "validation"),
        ("encoder", "target", "test"),
        ("encoder", "universal", "test"),
    ]


def test_a_measure_that_some_query_cannot_have_is_not_in_the_results():
    table = rows("encoder", VALUES)
    table[3]["R@5"] = None
    (entry,) = summary(table).results()
    assert "R@5" not in entry and "Success@1" in entry and "5" not in entry["curve"]["R"]


def test_the_headline_has_every_system_and_names_the_floors_that_an_encoder_is_below():
    table = [
        row
        for system, value in (("trained", 0.3), ("untrained", 0.2), ("bm25", 0.4), ("pixels", 0.25), ("chance", 0.1))
        for row in rows(system, [("a", "t->i", value)])
    ]
    of = summary(table)
    head = headline(of.results(), of.config)
    assert {name: head[name] for name in ("split", "measure", "called", "pool", "mean")} == {
        "split": "test",
        "measure": "R@5",
        "called": "R@5",
        "pool": "universal",
        "mean": "tasks",
    }
    assert head["trained"]["average"] == 0.3 and head["chance"]["average"] == 0.1
    assert head["below"] == {"trained": ["bm25"], "untrained": ["bm25", "pixels"]}


def test_a_trained_encoder_is_below_the_untrained_one_too_and_equal_is_not_below():
    assert not_reached({"trained": 0.1, "untrained": 0.2, "bm25": 0.1}) == {"trained": ["untrained"]}
    assert not_reached({"encoder": 0.1, "untrained": 0.2}) == {}


# M-BEIR: VisualNews t->i has hit@5 and Fashion200K t->i hit@10; the values differ by measure, so that a wrong one shows.
MBEIR = EvaluateConfig(board="mbeir", measure="main", mean="datasets", split="test", floors=())


def mbeir_rows(system, gain, pool="dataset"):
    table = rows(system, [("visualnews", "t->i", 1.0), ("visualnews", "t->i", 0.0), ("fashion200k", "t->i", 1.0)], pool=pool)
    for row, five, ten in zip(table, (gain, 0.0, 0.125), (1.0, 1.0, gain), strict=True):
        row |= {f"Success@{depth}": 0.0 for depth in (1, 20, 50)}
        row |= {"Success@5": five, "Success@10": ten, "main": ten if row["dataset"] == "fashion200k" else five}
    return table


def test_a_board_takes_its_own_measure_of_each_data_set_and_averages_its_rows():
    table = mbeir_rows("encoder", 0.5) + mbeir_rows("bm25", 1.0)
    results = Summary(pa.Table.from_pylist(table), MBEIR, 0).results()
    board = board_table(results, MBEIR)
    (local,) = board["tables"]
    found = {row["label"]: row for row in local["rows"]}
    # VisualNews: hit@5 of two queries, 0.5 and 0; Fashion200K: hit@10 of one, 0.5.
    assert found["VisualNews t->i"]["values"] == {"encoder": 0.25, "bm25": 0.5} and found["VisualNews t->i"]["called"] == "R@5"
    assert found["Fashion200K t->i"]["values"] == {"encoder": 0.5, "bm25": 1.0} and found["Fashion200K t->i"]["called"] == "R@10"
    assert found["VisualNews t->i"]["queries"] == 2 and found["VisualNews t->i"]["below"] == {"encoder": ["bm25"]}
    assert found["CIRR it->i"]["values"] == {} and len(found) == 16
    means = {mean["system"]: mean for mean in local["means"]}
    assert means["encoder"] == {"name": "Average", "system": "encoder", "value": 0.375, "rows": 2, "of": 16}
    head = headline(results, MBEIR)
    assert head["encoder"]["average"] == 0.375 and head["called"] == "R@5 or R@10" and head["pool"] == "dataset"


def test_means_of_groups_are_over_the_data_sets_of_the_group():
    config = EvaluateConfig(board="mmeb", measure="main", mean="datasets", split="test", floors=())
    values = [("ImageNet-1K", "i->t", 1.0), ("Place365", "i->t", 0.5), ("OK-VQA", "it->t", 0.0), ("elsewhere", "i->t", 1.0)]
    table = rows("encoder", values, pool="listed")
    for row in table:
        row["main"] = None if row["dataset"] == "elsewhere" else row["Success@1"]
    results = Summary(pa.Table.from_pylist(table), config, 0).results()
    (listed,) = board_table(results, config)["tables"]
    means = {mean["name"]: (mean["value"], mean["rows"], mean["of"]) for mean in listed["means"]}
    assert means == {
        "Classification": (0.75, 2, 10),
        "VQA": (0.0, 1, 10),
        "IND": (0.5, 2, 20),
        "OOD": (0.5, 1, 16),
        "Overall": (0.5, 3, 36),
    }
    assert headline(results, config)["encoder"]["average"] == 0.5, "a data set that the board has not does not count"


def test_a_board_of_several_measures_prints_them_under_its_own_names():
    config = EvaluateConfig(board="webqa", measure="main", split="test", floors=())
    table = rows("encoder", [("webqa", "t->t", 1.0), ("webqa", "t->it", 0.0)])
    for row in table:
        row |= {name: row["R@5"] / (place + 1) for place, name in enumerate(BOARDS["webqa"].measures)} | {"main": row["R@5"]}
    results = Summary(pa.Table.from_pylist(table), config, 0).results()
    ((row,),) = [table["rows"] for table in board_table(results, config)["tables"]]
    expected = {"MRR@10": 1 / 2, "NDCG@10": 1 / 4, "MRR@20": 1 / 6, "NDCG@20": 1 / 8, "Rec@20": 1 / 10, "Rec@100": 1 / 12}
    assert {column["name"]: column["values"]["encoder"] for column in row["columns"]} == pytest.approx(expected, abs=1e-6)
    assert [column["name"] for column in row["columns"]] == [*expected]


def test_intervals_are_of_the_same_averages():
    random = np.random.default_rng(0)
    values = [("a", "t->i", float(value)) for value in random.integers(0, 2, 100)]
    (entry,) = summary(rows("encoder", values), draws=1000).results()
    width = entry["R@5"]["high"] - entry["R@5"]["low"]
    assert width == pytest.approx(2 * 1.96 * 0.5 / 100**0.5, rel=0.15)
