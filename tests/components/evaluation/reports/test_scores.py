"""The headline, the tables by task and data set, and the tables of boards; a score below a floor says so."""

import copy
import re
from collections.abc import Iterable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from mirepoix.components.evaluation.boards.answers import OKVQA, WEBQA
from mirepoix.components.evaluation.boards.board import Board
from mirepoix.components.evaluation.boards.mbeir import MBEIR
from mirepoix.components.evaluation.boards.mmeb import MMEB_V2
from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.boards.vidore import VIDORE
from mirepoix.components.evaluation.reports.scores import ScoreRow, board_section, headline_section, score_table, task_sections
from tests.components.evaluation.board_results import boarded
from tests.components.evaluation.reports.pages import EVIL, WIDTHS, Elements, overflow, rows, section, show

VALUES = {"chance": 0.05, "pixels": 0.1, "bm25": 0.4, "untrained": 0.2, "trained": 0.3}


def headline(values: Mapping[str, float], below: Mapping[str, list[str]], **more: Any) -> dict[str, Any]:
    head = {"split": "test", "measure": "R@5", "called": "R@5", "pool": "universal", "mean": "tasks", "below": below, **more}
    return head | {system: {"average": value, "low": value / 2, "high": value * 2} for system, value in values.items()}


def test_the_headline_has_encoders_first_and_large_and_says_what_they_are_below():
    page = section(headline_section(headline(VALUES, {"trained": ["bm25"], "untrained": ["bm25", "chance"]})))
    figures = re.findall(r"<div(?: class=(floor))?><div class=figure>([\d.]+)</div><div class=soft>(.*?)</div></div>", page)
    assert [(value, floor) for floor, value, _ in figures] == [
        ("0.300", ""),
        ("0.200", ""),
        ("0.400", "floor"),
        ("0.100", "floor"),
        ("0.050", "floor"),
    ]
    captions = [Elements(caption).text for _, _, caption in figures]
    assert captions == [
        "trained, 95 % interval 0.150 to 0.600 below BM25",
        "untrained, 95 % interval 0.100 to 0.400 below BM25 and chance",
        "BM25, 95 % interval 0.200 to 0.800",
        "nearest pixels, 95 % interval 0.050 to 0.200",
        "chance",
    ]
    assert page.startswith("<p>R@5 on the queries of test, among all candidates, averaged over the tasks</p>")


@pytest.mark.parametrize(
    ("pool", "mean", "said"),
    [
        ("dataset", "datasets", "among the candidates of the query&#x27;s data set, averaged over the data sets"),
        ("listed", "queries", "among the candidates that are listed for the query, averaged over the queries"),
        ("board", "tasks", "among the candidates that the board has for each data set, averaged over the tasks"),
    ],
)
def test_the_headline_names_its_pool_and_its_mean(pool, mean, said):
    assert f"<p>R@5 on the queries of test, {said}</p>" in section(headline_section(headline(VALUES, {}, pool=pool, mean=mean)))


def test_a_score_below_a_floor_is_marked_in_the_column_of_the_released_encoder():
    page = score_table("task", [ScoreRow("t->i", 12, VALUES, below=["bm25", "untrained"]), ScoreRow("i->t", 1200, {"trained": 0.9})])
    assert rows(page) == [
        ["task", "queries", "chance", "nearest pixels", "BM25", "untrained", "trained", ""],
        ["t->i", "12", "0.050", "0.100", "0.400", "0.200", "0.300 below BM25 and untrained", ""],
        ["i->t", "1,200", "–", "–", "–", "–", "0.900", ""],
    ]
    assert page.count("class=under") == 1
    assert re.findall(r"<i( class=base)? style=\"width:([\d.]+%)\"", page) == [("", "30.0%"), (" class=base", "20.0%"), ("", "90.0%")]


def entry(system: str, pool: str, split: str, tasks: Mapping[str, float], datasets: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """An entry of results with two queries of each data set and task."""
    figures = {"average": sum(tasks.values()) / len(tasks), "low": 0.0, "high": 1.0, "tasks": tasks, "datasets": datasets}
    counts = {name: dict.fromkeys(of, 2) for name, of in datasets.items()}
    queries = {task: sum(of.get(task, 0) for of in counts.values()) for task in tasks}
    return {"system": system, "pool": pool, "split": split, "queries": queries, "datasets": counts, "R@5": figures, "curve": {}}


def report(split: str = "test", task: str = "t->i", names: Iterable[str] = ("coco", "flickr")) -> dict[str, Any]:
    """A report in which the encoder is below BM25 by the one task and above it by the other."""
    one, other = names
    found = {"encoder": (0.2, 0.9), "bm25": (0.5, 0.1)}
    results = [
        entry(system, pool, of, {task: low, "i->t": high}, {one: {task: low, "i->t": high}, other: {task: low}})
        for system, (low, high) in found.items()
        for pool in ("target", "universal")
        for of in ("dev", split)
    ]
    head = headline({"encoder": 0.55, "bm25": 0.3}, {}, split=split)
    return {"headline": head, "results": results}


def test_a_table_by_task_and_one_by_data_set_are_of_every_pool_and_marked_row_by_row():
    page = section(task_sections(report()))
    table = rows(page)
    assert table[:4] == [
        ["task", "queries", "BM25", "encoder", ""],
        ["t->i", "4", "0.500", "0.200 below BM25", ""],
        ["i->t", "2", "0.100", "0.900", ""],
        ["average", "6", "0.300", "0.550", ""],
    ]
    assert table[4:8] == [
        ["data set and task", "queries", "BM25", "encoder", ""],
        ["coco t->i", "2", "0.500", "0.200 below BM25", ""],
        ["coco i->t", "2", "0.100", "0.900", ""],
        ["flickr t->i", "2", "0.500", "0.200 below BM25", ""],
    ]
    pools = re.findall(r"\((\w+) pool\)", page)
    assert pools == ["universal", "target"] * 2, "the headline's first, first of its split"
    assert page.count("<details>") == 1 and "R@5 on the queries of dev" in page.partition("<details>")[2]


def test_one_data_set_has_no_table_of_its_own():
    alone = report()
    for each in alone["results"]:
        each["datasets"] = {"coco": each["datasets"]["coco"]}
    assert "data set and task" not in section(task_sections(alone))


def test_a_split_or_pool_without_the_headlines_measure_has_no_table():
    partial = report()
    for each in partial["results"]:
        if each["split"] == "dev" or each["pool"] == "target":
            del each["R@5"]
    page = section(task_sections(partial))
    assert page.count("<h2>") == 1 and "dev" not in page


MEASURED = {
    ("visualnews", "t->i"): {"encoder": {"Success@5": 0.5}, "bm25": {"Success@5": 0.75}},
    ("fashioniq", "it->i"): {"encoder": {"Success@10": 0.25}, "bm25": {"Success@10": 0.125}},
}


def test_a_board_has_its_rows_with_their_own_measures_and_names_those_that_were_not_measured():
    page = section(board_section(boarded("mbeir", MEASURED)["board"]))
    assert rows(page) == [
        ["data set", "queries", "BM25", "encoder", ""],
        ["VisualNews t->i R@5", "2", "0.750", "0.500 below BM25", ""],
        ["FashionIQ it->i R@10", "2", "0.125", "0.250", ""],
        ["Average mean of 2, of 16", "", "0.438", "0.375 below BM25", ""],
    ]
    (missing,) = re.findall(r"Not measured: ([^<]*)</p>", page)
    labels = [row.label for row in MBEIR.rows]
    assert unescape(missing).split(", ") == [label for label in labels if label not in ("VisualNews t->i", "FashionIQ it->i")]
    assert f'<a href="{MBEIR.source}">' in page and page.count("<tr class=mean>") == 1


def test_a_board_that_was_measured_whole_lacks_nothing():
    values = {(row.dataset, row.task): {"encoder": {row.measure: 0.5}} for row in MBEIR.rows}
    page = section(board_section(boarded("mbeir", values)["board"]))
    assert "Not measured" not in page and rows(page)[-1] == ["Average mean of 16", "", "0.500", ""]


def test_a_board_that_prints_several_measures_has_a_column_for_each_in_its_own_words():
    """Of MRR@5 BM25 has more, which is the measure of the row."""
    own = {"RR@5": 0.25, "P@5": 0.4, "Success@5": 1.0}
    values = {("OKVQA-GS", "it->t"): {"encoder": own, "bm25": {"RR@5": 0.5, "P@5": 0.125, "Success@5": 0.5}}}
    page = section(board_section(boarded("okvqa", values)["board"]))
    assert rows(page) == [
        ["Google Search, 2 queries", "MRR@5", "P@5", "PRRecall@5"],
        ["encoder below BM25", "0.2500", "0.4000", "1.0000"],
        ["BM25", "0.5000", "0.1250", "0.5000"],
    ]


def full(board: Board, systems: Iterable[str] = ("trained", "untrained", "bm25", "pixels", "chance")) -> dict[str, Any]:
    """The tables of a board of which every row was measured."""
    rising = {system: dict.fromkeys(board.measures, 0.2 + place / 10) for place, system in enumerate(systems)}
    values = {(row.dataset, row.task or "it->it"): rising for row in board.rows}
    return boarded(board.name, values)["board"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_has_a_page_with_all_its_rows_and_means(board):
    found = rows(section(board_section(full(board))))
    labels = {row[0] for row in found}
    assert all(any(label.startswith(row.label) for label in labels) for row in board.rows)
    if not board.columns:
        means = [*board.means, board.overall]
        assert [row[0].partition(" mean of ")[0] for row in found[-len(means) :]] == means
    assert all("below BM25 and nearest pixels and chance and untrained" in " ".join(row) for row in found if "0.200" in row[-2])


def test_a_board_that_leaves_something_out_says_what():
    assert "Telecom and Nuclear" in section(board_section(full(VIDORE)))


def test_markup_in_the_names_of_splits_tasks_and_data_sets_is_letters():
    page = section(task_sections(report(split=EVIL, task=EVIL, names=(EVIL, f"{EVIL}2"))))
    page += section(headline_section(headline(VALUES, {}, split=EVIL, called=EVIL)))
    evil = full(MBEIR)
    for table in evil["tables"]:
        for place, row in enumerate(table["rows"]):
            row |= {"label": EVIL, "called": EVIL} if place else {"label": EVIL, "values": {}}
        table["means"] = [mean | {"name": EVIL} for mean in table["means"]]
    page += section(board_section(evil | {"title": EVIL, "source": EVIL, "note": EVIL}))
    several = copy.deepcopy(full(OKVQA))
    for row in several["tables"][0]["rows"]:
        row |= {"label": EVIL, "columns": [{"name": EVIL, "values": row["values"]}]}
    page += section(board_section(several))
    found = Elements(page)
    assert "script" not in found.names and not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count(EVIL) > 50 and ("href", EVIL) in found.attributes and ("data-of", EVIL) in found.attributes


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("board", [MBEIR, MMEB_V2, WEBQA], ids=lambda board: board.name)
def test_no_table_of_a_board_is_wider_than_the_window(browser, tmp_path: Path, board: Board, width: int):
    show(browser, tmp_path / "page.html", board_section(full(board)), width)
    assert overflow(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_headline_and_tables_with_all_floors_fit_the_window(browser, tmp_path: Path, width: int):
    wide = report(task="itv->itv", names=("a_data_set_with_a_name_of_some_length", "another"))
    for each in [*wide["results"]]:
        names = ("pixels", "chance", "untrained", "trained") if each["system"] == "encoder" else ()
        wide["results"] += [{**each, "system": system} for system in names]
    wide["results"] = [each for each in wide["results"] if each["system"] != "encoder"]
    below = {"trained": ["bm25", "pixels", "chance", "untrained"]}
    parts = [*headline_section(headline(VALUES, below)), *task_sections(wide)]
    show(browser, tmp_path / "page.html", parts, width)
    assert overflow(browser) == []
    if width < 600:  # each score under the name of its system
        names = browser.execute_script(
            "return [...document.querySelector('.scores tr:nth-child(2)').cells].map(e => getComputedStyle(e, '::before').content)"
        )
        assert names[1:7] == [f'"{name}"' for name in ("queries", "chance", "nearest pixels", "BM25", "untrained", "trained")]
