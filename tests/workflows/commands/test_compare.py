"""`compare` tests whether results differ, query by query, and says on what."""

import json

import pytest

from mirepoix.workflows.__main__ import main
from tests.workflows.commands.stored_runs import BEFORE, stored, two_runs


@pytest.fixture
def storage(tmp_path):
    return two_runs(tmp_path / "storage")


def test_before_and_after_a_training_are_compared_by_every_measure_of_the_result(storage, capsys):
    assert main(["compare", "first-1:untrained", "first-1", "--storage", str(storage), "--draws", "2000"]) == 0
    head, columns, recall, rank, foot = capsys.readouterr().out.splitlines()
    assert head == "first-1:untrained and others on test, target pool; means over tasks, 2,000 draws"
    assert columns.split() == ["measure", "with", "queries", "first", "other", "difference", "95", "%", "interval", "p", "corrected"]
    # t->i rises from 0 to 1, i->t stays at a half: by tasks 0.25 and 0.75.
    assert recall.split()[:6] == ["R@5", "first-1", "12", "0.2500", "0.7500", "+0.5000"] and recall.endswith("*")
    assert rank.split()[:2] == ["RR@10", "first-1"], "R@1 is of the curves alone"
    assert "the family of 2 tests" in foot


def test_runs_are_compared_and_measures_tasks_and_pools_may_be_chosen(storage, capsys):
    words = ["compare", "second-2", str(storage / "runs" / "first-1"), "--storage", str(storage), "--measures", "recall@5", "--by", "task"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["of"], row["system"], row["difference"]) for row in found["compared"]] == [("i->t", "first-1", 0), ("t->i", "first-1", 1)]
    assert found["compared"][1]["p_corrected"] == pytest.approx(2 * found["compared"][1]["p"])


def test_other_data_is_named(storage, capsys):
    stored(storage, "third-3", {"encoder": BEFORE}, data="f" * 64)
    assert main(["compare", "second-2", "third-3", "--storage", str(storage), "--draws", "200"]) == 0
    assert "third-3 has other data than second-2 (digests ffffffffffff and dddddddddddd): candidates may differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["first-1"], "one result is given; give two or more"),
        (["first-1", "first-1"], "first-1 is the same result as first-1; give two results that differ"),
        (["first", "first-1:trained"], "first-1:trained is the same result as first-1; give two results that differ"),
        (["first-1:pixels", "first-1"], "first-1:pixels has no values of system 'pixels'; it has bm25, trained, untrained"),
        (["first-1", "second-2", "--pool", "universal"], "first-1 has no values of pool 'universal'; it has target"),
        (["first-1", "second-2", "--measures", "R@7"], "--measures has R@7, which not all results have; they share R@5, RR@10"),
        (["first-1", "second-2", "--measures", "F@7"], "--measures has 'F@7'; give one of nDCG@k"),
        (["first-1", "second-2", "--draws", "5"], "--draws is 5; give 100 or more"),
        (["first-1", "none"], "there is no run 'none'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(storage, capsys, words, why):
    assert main(["compare", *words, "--storage", str(storage)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and why in said.err


def test_a_run_that_was_asked_other_queries_is_refused(storage, capsys):
    stored(storage, "fourth-4", {"encoder": BEFORE}, queries=[f"other{n}" for n in range(12)])
    assert main(["compare", "second-2", "fourth-4", "--storage", str(storage)]) == 2
    assert "second-2 and fourth-4 were not asked the same queries (fourth-4 was not asked" in capsys.readouterr().err
