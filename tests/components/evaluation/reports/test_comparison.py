"""A comparison is a table with a column for each arm: tasks, averages, floors, sizes and times."""

import copy
import re

from mirepoix.components.evaluation.evaluate_config import MEASURES
from mirepoix.components.evaluation.reports.comparison import facts
from mirepoix.components.evaluation.reports.report import render
from tests.components.evaluation.reports.pages import EVIL, Elements, rows
from tests.components.evaluation.reports.test_report import HEADLINE, REPORT, RESULTS, entry, untrained


def compared():
    """Two arms that were measured, and one that failed."""
    arms = {name: {"headline": HEADLINE, "results": copy.deepcopy(RESULTS), "failure": ""} for name in ("unite", "mire")}
    for each in arms["mire"]["results"]:
        each |= {measure: {"average": 0.25, "low": 0.2, "high": 0.3, "tasks": {"t->t": 0.4, "it->t": 0.1}} for measure in MEASURES}
    arms["unite"]["facts"] = {"parameters": 1234567, "training_seconds": 75.4, "width": 128, "rows_per_item": 1.0}
    arms["mire"]["facts"] = {"parameters": 89, "training_seconds": 1075.4, "width": 64, "rows_per_item": 21.25}
    arms["jfe"] = {"facts": {"parameters": 10}, "failure": "jfe:adapt failed: the loss is nan"}
    return {name: value for name, value in REPORT.items() if name not in ("headline", "results")} | {"arms": arms}


def test_a_comparison_is_one_table_with_a_column_for_each_arm():
    page = render(compared())
    assert "<h2>R@5 on the queries of test_combination</h2>" in page and "<h2>R@5 on the queries of validation</h2>" in page
    assert page.index("of test_combination</h2>") < page.index("of validation</h2>"), "the headline's split comes first"
    found = rows(page)
    assert found[0] == ["task", "queries", "unite", "mire", "jfe"]
    assert found[1] == ["universal pool"], "the headline's pool comes first"
    assert found[2:4] == [["t->t", "12", "0.250", "0.400", "–"], ["it->t", "12", "0.750", "0.100", "–"]]
    assert found[4] == ["average", "24", "0.500 0.400 to 0.600", "0.250 0.200 to 0.300", "–"]
    assert found[5] == ["average, untrained", "", "0.100", "0.250", "–"]
    assert found[6] == ["target pool"]
    assert found[12:15] == [
        ["parameters", "", "1,234,567", "89", "10"],
        ["rows x width", "", "1 x 128", "21.2 x 64", "–"],
        ["training", "", "75 s", "1,075 s", "–"],
    ]


def test_a_comparison_has_lines_for_floors_and_says_which_arm_is_below_one():
    report = compared()
    for name, below in (("unite", {}), ("mire", {"trained": ["bm25"]})):
        arm = report["arms"][name]
        arm["results"] += [entry("bm25", pool, "test_combination", 0.8) for pool in ("universal", "target")]
        arm["headline"] = HEADLINE | {"bm25": {"average": 0.8}, "below": below}
    page = render(report)
    assert rows(page)[5:7] == [["average, BM25", "", "0.400", "0.400", "–"], ["average, untrained", "", "0.100", "0.250", "–"]]
    assert "<p><b>mire</b>: the training helped: R@5 0.100 before, 0.500 after" in page
    assert "; the model is below BM25 (0.800), which needs no encoder.</p>" in page and page.count("which needs no encoder") == 1
    assert "<p class=soft>Universal pool: among all candidates; target pool: among the candidates of the modality" in page
    assert "Scores are averaged over the tasks, with 95 % intervals." in page


def test_a_task_without_a_value_and_a_split_without_the_measure_do_not_stop_a_comparison():
    """As where a board has no row for the task, or recall is not known."""
    report = compared()
    for arm in (report["arms"][name] for name in ("unite", "mire")):
        for each in arm["results"]:
            each["R@5"] = each["R@5"] | {"tasks": {"t->t": 0.5}}
            if each["split"] == "validation":
                del each["R@5"]
    found = rows(render(report))
    assert found[2:4] == [["t->t", "12", "0.500", "0.500", "–"], ["it->t", "12", "–", "–", "–"]]
    assert [row[0] for row in found].count("task") == 1, "the other split has no table"


def test_an_arm_without_a_training_stands_beside_those_with_one():
    report = compared()
    report["arms"]["mire"] |= {name: untrained()[name] for name in ("headline", "results")}
    report["arms"]["mire"]["results"].append(entry("encoder", "universal", "train", 1.0))
    report["arms"]["jfe"] = {"facts": {}, "failure": "", "unmeasured": "no score was computed: the corpus has no queries"}
    found = rows(render(report))
    assert found[4:6] == [
        ["average", "24", "0.500 0.400 to 0.600", "0.500 0.400 to 0.600", "–"],
        ["average, untrained", "", "0.100", "–", "–"],
    ]
    train = [number for number, row in enumerate(found) if row[0] == "task"][1]
    assert found[train + 1 : train + 5] == [
        ["universal pool"],
        ["t->t", "12", "–", "0.250", "–"],
        ["it->t", "12", "–", "0.750", "–"],
        ["average", "24", "–", "0.500 0.400 to 0.600", "–"],
    ], "a split that only one arm was measured on"
    assert "<b>jfe</b> is not in the table: no score was computed: the corpus has no queries" in render(report)


def test_the_best_of_a_row_is_marked():
    assert re.findall(r"<td class=best>(\d\.\d+)", render(compared())) == ["0.400", "0.750", "0.500"] * 4


def test_an_arm_that_failed_is_named_with_its_reason():
    assert "<b>jfe</b> is not in the table: jfe:adapt failed: the loss is nan" in render(compared())


def test_a_comparison_of_which_nothing_was_measured_has_a_page_too():
    report = compared()
    report["arms"] = {"jfe": report["arms"]["jfe"]}
    page = render(report)
    assert "jfe:adapt failed" in page and ["parameters", "", "10"] in rows(page)


def test_markup_in_the_name_or_failure_of_an_arm_is_shown_as_letters():
    report = compared()
    report["arms"] = {EVIL: report["arms"]["unite"], "jfe": report["arms"]["jfe"] | {"failure": EVIL}}
    page = Elements(render(report))
    assert "script" not in page.names and EVIL in page.words


def test_sizes_and_times_are_of_the_arms_that_have_them():
    arms = {"one": {"facts": {"parameters": 1200}}, "two": {"facts": {"width": 64, "rows_per_item": 2.0}}, "three": {"facts": {}}}
    assert facts(arms) == {"parameters": {"one": "1,200"}, "rows x width": {"two": "2 x 64"}}
