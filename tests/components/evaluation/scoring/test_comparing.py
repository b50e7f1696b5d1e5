"""Systems are compared query by query, over the means of their results, and all tests are one family."""

import pyarrow as pa
import pytest

from mirepoix.components.evaluation.scoring.comparing import compare
from mirepoix.models.errors import Refused


def rows(values, measure="R@5"):
    """Values of queries, by task in the order of their names."""
    found = []
    for place, (task, value) in enumerate(values):
        found.append({"query": f"q{place:03}", "task": task, "dataset": "a", measure: value})
    return pa.Table.from_pylist(found[::-1])  # in another order, since queries are joined by their names


FIRST = [("t->i", 0.0)] * 20 + [("i->t", 0.5)] * 10
BETTER = [("t->i", 1.0)] * 20 + [("i->t", 0.5)] * 10


def test_differences_are_of_the_means_that_the_result_has():
    (over_tasks,) = compare({"one": rows(FIRST), "two": rows(BETTER)}, ["R@5"], "tasks", draws=500)
    assert (over_tasks.first, over_tasks.other, over_tasks.difference) == pytest.approx((0.25, 0.75, 0.5))
    assert over_tasks.low <= 0.5 <= over_tasks.high and over_tasks.queries == 30 and over_tasks.p < 0.01
    (over_queries,) = compare({"one": rows(FIRST), "two": rows(BETTER)}, ["R@5"], "queries", draws=500)
    assert over_queries.difference == pytest.approx(20 / 30)


def test_of_the_boards_measure_queries_that_no_row_of_it_has_are_left_out_and_of_any_other_none():
    one, two = [("t->i", 0.0)] * 3, [("t->i", 1.0)] * 2 + [("t->i", None)]
    assert compare({"one": rows(one), "two": rows(two)}, ["R@5"], "tasks", draws=200) == []
    (found,) = compare({"one": rows(one, "main"), "two": rows(two, "main")}, ["main"], "tasks", draws=200)
    assert (found.queries, found.first, found.other) == (2, 0, 1)


def test_equal_systems_do_not_differ():
    (same,) = compare({"one": rows(FIRST), "two": rows(FIRST)}, ["R@5"], "tasks", draws=200)
    assert (same.difference, same.low, same.high, same.p, same.p_corrected) == (0, 0, 0, 1, 1)


def test_all_tests_are_one_family_that_is_corrected_by_holm():
    few = [("t->i", 1.0)] * 4 + FIRST[4:]
    found = compare({"one": rows(FIRST), "two": rows(BETTER), "three": rows(few)}, ["R@5"], "tasks", draws=2000)
    assert [each.system for each in found] == ["two", "three"]
    p = [each.p for each in found]
    # Of four changed queries all swap the same way in two of sixteen draws.
    assert p[1] == pytest.approx(1 / 8, abs=0.03)
    assert [each.p_corrected for each in found] == pytest.approx([2 * p[0], p[1]])


def test_tasks_are_compared_apart_where_that_is_asked_for():
    found = compare({"one": rows(FIRST), "two": rows(BETTER)}, ["R@5"], "tasks", by="task", draws=200)
    assert [(each.of, each.difference, each.queries) for each in found] == [("i->t", 0.0, 10), ("t->i", 1.0, 20)]


def test_a_measure_that_some_query_does_not_have_is_left_out():
    assert compare({"one": rows(FIRST), "two": rows([("t->i", None), *BETTER[1:]])}, ["R@5"], "tasks", draws=200) == []


def test_systems_that_were_asked_other_queries_are_refused():
    with pytest.raises(Refused, match=r"one and two were not asked the same queries \(two was not asked 'q029'; 29 are in both\)"):
        compare({"one": rows(FIRST), "two": rows(FIRST[:-1])}, ["R@5"], "tasks")
