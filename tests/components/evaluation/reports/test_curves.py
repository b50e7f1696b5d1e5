"""Curves over depth: a line for each system, from its first depth to its last."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from mirepoix.components.evaluation.reports.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curve_section
from mirepoix.components.evaluation.scoring.measuring import LADDER
from tests.components.evaluation.reports.pages import EVIL, WIDTHS, Elements, overflow, section, show

FULL = {"1": 0.0, "10": 0.5, "100": 1.0}


def report(curves: dict[str, dict[str, dict[str, float]]], split: str = "test") -> dict:
    """A report whose systems have these curves in the headline's split and pool, and others elsewhere."""
    other = {"R": {"1": 0.9, "10": 0.9}, "Success": {"1": 0.9, "10": 0.9}}
    places = [("universal", split), ("target", split), ("universal", "elsewhere")]
    results = [
        {"system": system, "pool": pool, "split": of, "curve": curve if place == 0 else other}
        for system, curve in curves.items()
        for place, (pool, of) in enumerate(places)
    ]
    return {"headline": {"pool": "universal", "split": split}, "results": results}


def lines(page: str) -> list[tuple[list[tuple[float, float]], str]]:
    """The points of each line, and its title."""
    found = re.findall(r'<polyline points="([^"]*)"[^>]*><title>([^<]*)</title>', page)
    return [([tuple(map(float, point.split(","))) for point in points.split()], title) for points, title in found]


def test_depth_is_drawn_by_its_logarithm_and_shares_from_the_bottom_up():
    page = section(curve_section(report({"encoder": {"R": FULL}})))
    ((points, title),) = lines(page)
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert points == [
        (LEFT, HEIGHT - BOTTOM),
        (pytest.approx(middle, abs=0.1), pytest.approx((HEIGHT - BOTTOM + TOP) / 2, abs=0.1)),
        (WIDTH - RIGHT, TOP),
    ]
    assert title == "encoder: 0.000 at 1, 0.500 at 10, 1.000 at 100"
    assert "R@k: share of the answers among the first k" in page and "Success@k" not in page


def test_every_system_has_a_line_and_a_key_in_the_order_of_tables_and_chance_is_dashed():
    curves = {system: {"R": FULL, "Success": FULL} for system in ("trained", "chance", "untrained", "bm25", "pixels")}
    page = section(curve_section(report(curves)))
    names = ["chance", "nearest pixels", "BM25", "untrained", "trained"]
    assert [title.partition(":")[0] for _, title in lines(page)] == names * 2, "the hit rate, and recall"
    assert re.findall(r"</i>([^<]+)</span>", page) == names
    assert page.count('stroke-dasharray="4 4"') == 2 and page.count("border-top-style:dashed") == 1
    assert len(set(re.findall(r'stroke="([^"]+)"', page))) == len(names), "no two have one colour"


def test_depths_are_in_the_order_of_numbers_however_json_sorted_them():
    page = section(curve_section(report({"encoder": {"R": {"1": 0.1, "100": 0.9, "20": 0.5, "5": 0.3}}})))
    ((points, title),) = lines(page)
    assert title.endswith("0.100 at 1, 0.300 at 5, 0.500 at 20, 0.900 at 100") and points == sorted(points)


def test_a_curve_of_one_depth_and_a_run_without_curves_are_not_drawn():
    assert section(curve_section(report({"encoder": {"R": {"1": 0.1}}}))) == ""
    assert section(curve_section(report({"encoder": {}}))) == ""
    assert section(curve_section(report({}))) == ""


def test_a_system_without_the_curve_is_left_out_of_its_figure():
    """Recall is not known where answers are strings, of whichever system."""
    page = section(curve_section(report({"encoder": {"Success": FULL}, "chance": {"Success": FULL}})))
    assert page.count("<figure>") == 1 and "Success@k: share of queries with an answer among the first k" in page


def test_numbers_on_the_axis_do_not_touch_each_other():
    depths = {str(depth): 0.5 for depth in LADDER}
    page = section(curve_section(report({"encoder": {"R": depths}})))
    ticks = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">', page)]
    assert ticks == sorted(ticks) and all(after - before >= 22 for before, after in pairwise(ticks))
    assert len(ticks) >= 6


def test_the_heading_names_split_and_pool_and_markup_in_a_split_is_letters():
    page = section(curve_section(report({"encoder": {"R": FULL}}, split=EVIL)))
    found = Elements(page)
    assert "script" not in found.names and f"the queries of {EVIL}, among all candidates" in found.text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_draws_both_figures_within_the_window(browser, tmp_path: Path, width: int):
    curves = {system: {"R": FULL, "Success": FULL} for system in ("trained", "chance", "untrained", "bm25", "pixels")}
    show(browser, tmp_path / "page.html", curve_section(report(curves)), width)
    assert overflow(browser) == []
    boxes = browser.execute_script("return [...document.querySelectorAll('polyline')].map(e => e.getBoundingClientRect().width)")
    assert len(boxes) == 10 and min(boxes) > 200
    tops = browser.execute_script("return [...document.querySelectorAll('figure')].map(e => e.getBoundingClientRect().top)")
    assert (tops[0] == tops[1]) == (width > 1000), "beside each other where there is room"
