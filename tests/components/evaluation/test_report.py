"""The report is one file with all results, loads nothing from elsewhere, and escapes names."""

import copy
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from mirepoix.components.evaluation.metrics import MEASURES
from mirepoix.components.evaluation.report import render

TASKS = {"t->t": 0.25, "it->t": 0.75}
EVIL = "<script>document.title='taken'</script>&\"'"


def entry(system, pool, split, gain):
    figures = {"average": 0.5 * gain, "low": 0.4 * gain, "high": 0.6 * gain, "tasks": {task: value * gain for task, value in TASKS.items()}}
    return {"system": system, "pool": pool, "split": split, "queries": dict.fromkeys(TASKS, 12)} | dict.fromkeys(MEASURES, figures)


RESULTS = [
    entry(system, pool, split, gain)
    for system, gain in (("trained", 1.0), ("untrained", 0.2))
    for pool in ("universal", "target")
    for split in ("validation", "test_combination")
]
REJECTS = [{"reason": "damaged", "part": "corpus", "count": 1034}]
STAGES = [
    {"name": "sources", "status": "done", "seconds": 1.25, "digest": "a" * 64, "rows": {"read": 1234, "written": 1234}},
    {
        "name": "curate",
        "status": "skipped",
        "seconds": 0.0,
        "digest": "b" * 64,
        "rows": {"read": 1234, "written": 1200},
        "tables": {"rejects": REJECTS, "empty": []},
    },
    {"name": "deploy", "status": "not run", "seconds": 0.0, "digest": "", "rows": {}},
]
HEADLINE = {
    "split": "test_combination",
    "measure": "recall@5",
    "pool": "universal",
    "trained": {"average": 0.5, "low": 0.45, "high": 0.55},
    "untrained": {"average": 0.1, "low": 0.05, "high": 0.15},
}
REPORT = {
    "recipe": "quickstart",
    "run": "2025-01-02 03:04:05",
    "created": "2025-01-02 03:14:15",
    "data": {"digest": "b" * 64, "rows": {"read": 1234, "written": 1200, "rejected": 34}},
    "settings": {"seed": 0, "train": {"learning_rate": 0.001, "note": "<b>bold</b>"}},
    "stages": STAGES,
    "headline": HEADLINE,
    "results": RESULTS,
}


class Text(HTMLParser):
    """The text and the attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words.append(data)


def evil():
    """A report in which every name that a user can choose contains markup."""
    report = copy.deepcopy(REPORT)
    report |= {"recipe": EVIL, "run": EVIL}
    report["stages"][0]["name"] = report["stages"][0]["status"] = report["headline"]["split"] = EVIL
    report["settings"]["name"] = report["data"]["digest"] = EVIL
    for each in report["results"]:
        each["split"] = EVIL if each["split"] == "validation" else each["split"]
        each["queries"] = {EVIL: 12}
        for measure in MEASURES:
            each[measure] = {**each[measure], "tasks": {EVIL: 0.5}}
    return report


def test_the_page_loads_nothing_from_elsewhere():
    page = Text(render(REPORT))
    assert not re.search(r"(https?:)?//", render(REPORT))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]


def test_it_shows_the_headline_with_its_interval():
    text = " ".join(Text(render(REPORT)).words)
    for words in ("quickstart", "recall@5 on test_combination", "the universal pool", "0.500", "0.100", "0.450 to 0.550", "0.050 to 0.150"):
        assert words in text


def test_it_has_every_task_of_every_split_and_pool():
    words = Text(render(REPORT)).words
    for title in ("test_combination · universal pool", "validation · universal pool", "validation · target pool"):
        assert title in words
    for task in TASKS:
        assert words.count(task) == 4
    assert words.count("average") == 4


def test_the_headlines_pool_comes_first():
    words = Text(render(REPORT)).words
    pools = [word.split(" · ")[1] for word in words if " · " in word and word.endswith("pool")]
    assert pools == ["universal pool", "universal pool", "target pool", "target pool"]


def test_it_has_every_stage_with_what_became_of_its_rows():
    words = Text(render(REPORT)).words
    for words_of_a_stage in (
        ("sources", "done", "1.2", "1,234 → 1,234", "a" * 12),
        ("curate", "skipped", "1,234 → 1,200"),
        ("deploy", "not run"),
    ):
        assert set(words_of_a_stage) <= set(words)


def test_the_settings_can_be_read_back():
    (settings,) = [word for word in Text(render(REPORT)).words if word.startswith("{")]
    assert json.loads(settings) == REPORT["settings"]


def test_a_run_that_measured_nothing_has_a_page_too():
    bare = {name: value for name, value in REPORT.items() if name not in ("headline", "results")}
    words = Text(render(bare | {"data": {"digest": "", "rows": {}}})).words
    assert "curate" in words and "recall@5" not in " ".join(words)


def test_markup_in_a_name_is_shown_as_letters():
    page = Text(render(evil()))
    assert not {"script", "b"} & set(page.tags)
    assert EVIL in page.words and any(EVIL in word for word in page.words if "pool" in word)


def test_a_browser_shows_it_without_complaint(browser, tmp_path: Path):
    (tmp_path / "report.html").write_text(render(evil()), encoding="utf-8")
    browser.get(f"file://{tmp_path}/report.html")
    assert browser.title == f"{EVIL}: {EVIL}"
    assert len(browser.find_elements(By.CSS_SELECTOR, ".figure")) == 2
    assert {row.text for row in browser.find_elements(By.CSS_SELECTOR, "td:first-child")} >= {EVIL, "average", "curate", "deploy"}
    browser.find_element(By.TAG_NAME, "summary").click()
    assert json.loads(browser.find_element(By.TAG_NAME, "pre").text) == evil()["settings"]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [line["message"] for line in browser.get_log("browser")] == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(browser, tmp_path: Path, width: int):
    page = tmp_path / "report.html"
    page.write_text(render(REPORT))
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_what_a_stage_counted_is_in_a_table():
    page = Text(render(REPORT))
    words = " ".join(page.words)
    assert "curate: rejects" in words and "damaged" in words and "1,034" in words
    assert "curate: empty" not in words


def compared():
    """Two arms that were measured, and one that failed."""
    arms = {name: {"headline": HEADLINE, "results": copy.deepcopy(RESULTS), "failure": ""} for name in ("unite", "mire")}
    for each in arms["mire"]["results"]:
        each |= {measure: {"average": 0.25, "low": 0.2, "high": 0.3, "tasks": {"t->t": 0.4, "it->t": 0.1}} for measure in MEASURES}
    arms["unite"]["facts"] = {"parameters": 1234567, "training_seconds": 75.4, "width": 128, "rows_per_item": 1.0}
    arms["mire"]["facts"] = {"parameters": 89, "training_seconds": 1075.4, "width": 64, "rows_per_item": 21.25}
    arms["jfe"] = {"facts": {"parameters": 10}, "failure": "jfe:adapt failed: the loss is nan"}
    return {name: value for name, value in REPORT.items() if name not in ("headline", "results")} | {"arms": arms}


def rows(page):
    """The cells of every row of a page's tables."""
    lines = [row.split("</table>")[0] for row in page.split("<tr>")[1:]]
    return [[unescape(re.sub("<[^>]*>", " ", cell)).strip() for cell in re.split("<t[dh][^>]*>", line)[1:]] for line in lines]


def test_a_comparison_is_one_table_with_a_column_for_each_arm():
    page = render(compared())
    assert "<h2>recall@5 on test_combination</h2>" in page and "<h2>recall@5 on validation</h2>" in page
    assert page.index("on test_combination</h2>") < page.index("on validation</h2>"), "the headline's split comes first"
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


def untrained():
    """A report of a run without a training."""
    report = copy.deepcopy(REPORT)
    report["results"] = [{**each, "system": "encoder"} for each in RESULTS if each["system"] == "trained"]
    report["headline"] = {**{name: HEADLINE[name] for name in ("split", "measure", "pool")}, "encoder": HEADLINE["trained"]}
    return report


def test_a_run_without_a_training_has_one_column_and_speaks_of_none():
    page = render(untrained())
    assert rows(page)[:4] == [
        ["task", "queries", "encoder", "recall@5"],
        ["t->t", "12", "0.250", ""],
        ["it->t", "12", "0.750", ""],
        ["average", "24", "0.500", ""],
    ]
    assert "encoder, 95 % interval 0.450 to 0.550" in page and "trained" not in page and "bar><i class=base" not in page


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


def test_a_run_that_had_nothing_to_measure_by_says_so():
    bare = {name: value for name, value in REPORT.items() if name != "headline"} | {"results": [], "unmeasured": "no score: <x> of CLIP"}
    assert "<p>No score: &lt;x&gt; of CLIP.</p>" in render(bare)


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
    page = Text(render(report))
    assert "script" not in page.tags and EVIL in page.words
