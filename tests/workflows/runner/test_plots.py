"""Bars show what is counted, in an order and under names that a reader finds again in the table."""

import re
from xml.etree import ElementTree

from mirepoix.workflows.runner.plots import MOST, bars, count_tables

ROWS = [{"reason": "damaged", "part": "corpus", "count": 3}, {"reason": "<b>&", "part": "queries", "count": 12}]


def test_bars_are_as_long_as_their_counts_and_the_longest_is_first():
    found = ElementTree.fromstring(bars("curate: rejects", ROWS))
    texts = [node.text for node in found if node.tag.endswith("text")]
    assert texts == ["curate: rejects", "<b>& · queries", "12", "damaged · corpus", "3"]
    widths = [float(node.attrib["width"]) for node in found if node.tag.endswith("rect")][1:]
    assert widths[1] == round(widths[0] / 4, 1)


def test_the_count_before_is_a_bar_behind_and_in_the_label():
    mixture = [{"task": "t->i", "before": 40, "after": 10}, {"task": "t->t", "before": 10, "after": 20}]
    assert (
        count_tables(mixture[0]) == ("after", "before") and count_tables(ROWS[0]) == ("count", None) and count_tables({"before": 1}) is None
    )
    found = ElementTree.fromstring(bars("mixture", mixture, "after", "before"))
    assert [node.text for node in found if node.tag.endswith("text")] == ["mixture", "t->t", "10 → 20", "t->i", "40 → 10"]
    widths = [float(node.attrib["width"]) for node in found if node.tag.endswith("rect")][1:]
    assert [round(width / widths[2], 3) for width in widths] == [0.25, 0.5, 1, 0.25]


def test_of_many_rows_the_largest_are_drawn_under_their_count():
    rows = [{"name": f"n{number}", "count": number} for number in range(MOST + 5)]
    drawn = bars("all", rows)
    assert len(re.findall("<rect", drawn)) == MOST + 1
    assert f"the {MOST} largest of {MOST + 5}" in drawn and "n0<" not in drawn


def test_zero_counts_and_empty_tables_are_drawn_too():
    assert "<svg" in bars("none", [{"name": "a", "count": 0}]) and "<svg" in bars("empty", [])
