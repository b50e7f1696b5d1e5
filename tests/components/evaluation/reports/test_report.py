"""The report is one file with all results, loads nothing from elsewhere, and escapes names."""

import copy
import json
import re
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from mirepoix.components.evaluation.evaluate_config import MEASURES
from mirepoix.components.evaluation.reports.corpus import corpus_sections
from mirepoix.components.evaluation.reports.report import render
from mirepoix.components.evaluation.reports.wording import helped, verdict
from tests.components.evaluation.reports.pages import EVIL, Elements, open_page, rows

TASKS = {"t->t": 0.25, "it->t": 0.75}


def entry(system, pool, split, gain):
    figures = {"average": 0.5 * gain, "low": 0.4 * gain, "high": 0.6 * gain, "tasks": {task: value * gain for task, value in TASKS.items()}}
    counts = dict.fromkeys(TASKS, 12)
    figures |= {"datasets": {"world": figures["tasks"]}}
    place = {"system": system, "pool": pool, "split": split, "queries": counts, "datasets": {"world": counts}}
    return place | dict.fromkeys(MEASURES, figures) | {"curve": {"R": {"1": 0.1 * gain, "10": gain}}}


RESULTS = [
    entry(system, pool, split, gain)
    for system, gain in (("trained", 1.0), ("untrained", 0.2))
    for pool in ("universal", "target")
    for split in ("validation", "test_combination")
]
REJECTS = [
    {"reason": "damaged", "part": "corpus", "count": 1034},
    {"reason": "exact duplicate", "part": "corpus", "count": 14},
    {"reason": "judged twice", "part": "qrels", "count": 1},
]
EXAMPLES = [
    *({"reason": "damaged", "part": "corpus", "place": f"in/{name}.png", "id": name, "detail": ""} for name in "abc"),
    {"reason": "exact duplicate", "part": "corpus", "place": "in/copy.png", "id": "copy", "detail": "first"},
]
COLUMN = "the column Größe is not read; the rows are read without it"
READ = [
    {"source": "in", "part": "corpus", "what": "equal to an earlier row", "count": 1},
    {"source": "in", "part": "corpus", "what": "read", "count": 1235},
]
MIXTURE = [{"stage": "adapt", "source": "in", "task": "t->i", "before": 30, "after": 60}]
STAGES = [
    {
        "name": "sources",
        "status": "done",
        "seconds": 1.25,
        "digest": "a" * 64,
        "rows": {"read": 1235, "written": 1234, "rejected": 0, "merged": 1},
        "tables": {"sources": READ, "notices": [{"source": "in/shop.csv", "detail": COLUMN}]},
    },
    {
        "name": "curate",
        "status": "skipped",
        "seconds": 0.0,
        "digest": "b" * 64,
        "rows": {"read": 1234, "written": 185, "rejected": 1034, "merged": 15},
        "tables": {"rejects": REJECTS, "examples": EXAMPLES, "empty": []},
    },
    {"name": "pairs", "status": "done", "seconds": 0.1, "digest": "c" * 64, "rows": {}, "tables": {"mixture": MIXTURE}},
    {"name": "deploy", "status": "not run", "seconds": 0.0, "digest": "", "rows": {}},
]
HEADLINE = {
    "split": "test_combination",
    "measure": "R@5",
    "called": "R@5",
    "pool": "universal",
    "mean": "tasks",
    "below": {},
    "trained": {"average": 0.5, "low": 0.45, "high": 0.55},
    "untrained": {"average": 0.1, "low": 0.05, "high": 0.15},
}
REPORT = {
    "recipe": "quickstart",
    "run": "2025-01-02 03:04:05",
    "created": "2025-01-02 03:14:15",
    "data": {"digest": "b" * 64, "rows": {"read": 1234, "written": 185, "rejected": 1034}},
    "releases": [{"arm": "", "version": "f7c0", "target": "/s/artefacts/release/9", "serve": "mirepoix serve /s/runs/q --open"}],
    "commands": {"rows": "mirepoix validate q.yaml --copies --out rows.csv", "untrained": "mirepoix run q.yaml adapt=null"},
    "settings": {"seed": 0, "train": {"learning_rate": 0.001, "note": "<b>bold</b>"}},
    "stages": STAGES,
    "headline": HEADLINE,
    "results": RESULTS,
}


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
    page = Elements(render(REPORT))
    assert not re.search(r"(https?:)?//", render(REPORT))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.names)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]


def test_it_shows_the_headline_with_its_interval():
    text = " ".join(Elements(render(REPORT)).words)
    for words in (
        "quickstart",
        "R@5 on the queries of test_combination, among all candidates, averaged",
        "0.500",
        "0.100",
        "0.450 to 0.550",
        "0.050 to 0.150",
    ):
        assert words in text


def test_queries_without_an_answer_are_counted_below_the_headline_and_in_a_comparison():
    said = "3 queries have no answer in the corpus, and count as zero."
    assert said in Elements(render(REPORT | {"unanswered": 3})).words
    arm = {"headline": HEADLINE, "results": RESULTS, "facts": {}, "failure": "", "unanswered": 3}
    alone = {name: value for name, value in REPORT.items() if name not in ("headline", "results")}
    assert Elements(render(alone | {"arms": {"one": arm, "two": arm}})).words.count(said) == 1
    assert "no answer" not in render(REPORT)


def test_it_has_every_task_of_every_split_and_pool():
    words = Elements(render(REPORT)).words
    for title in (
        "R@5 on the queries of test_combination, among all candidates ",
        "R@5 on the queries of validation, among all candidates ",
        "R@5 on the queries of validation, among the candidates of the modality that is asked for ",
    ):
        assert title in words
    held = render(REPORT | {"results": [{**each, "split": each["split"].replace("validation", "held_out")} for each in RESULTS]})
    assert "<h2>R@5 on the held-out queries, among all candidates <span class=soft>(universal pool)</span></h2>" in held
    for task in TASKS:
        assert words.count(task) == 4
    assert words.count("average") == 4


def test_the_headlines_pool_comes_first():
    words = Elements(render(REPORT)).words
    pools = [word for word in words if word.endswith(" pool)")]
    assert pools == ["(universal pool)", "(target pool)"] * 2, "first those of the headline's split, then those of the other"


def test_it_has_every_stage_with_what_became_of_its_rows():
    words = Elements(render(REPORT)).words
    for words_of_a_stage in (
        ("sources", "done", "1.2", "1,235 → 1,234", "1 merged", "a" * 12),
        ("curate", "skipped", "1,234 → 185", "15 merged, 1,034 rejected"),
        ("deploy", "not run"),
    ):
        assert set(words_of_a_stage) <= set(words)


def test_the_settings_can_be_read_back():
    (settings,) = [word for word in Elements(render(REPORT)).words if word.startswith("{")]
    assert json.loads(settings) == REPORT["settings"]


def test_a_run_that_measured_nothing_has_a_page_too():
    bare = {name: value for name, value in REPORT.items() if name not in ("headline", "results")}
    words = Elements(render(bare | {"data": {"digest": "", "rows": {}}})).words
    assert "curate" in words and "R@5" not in " ".join(words)


def test_markup_in_a_name_is_shown_as_letters():
    page = Elements(render(evil()))
    assert not {"script", "b"} & set(page.names)
    assert EVIL in page.words and any(EVIL in word for word in page.words if "among all" in word)


def test_a_browser_shows_it_without_complaint(browser, tmp_path: Path):
    (tmp_path / "report.html").write_text(render(evil()), encoding="utf-8")
    browser.get(f"file://{tmp_path}/report.html")
    assert browser.title == f"{EVIL}: {EVIL}"
    assert len(browser.find_elements(By.CSS_SELECTOR, ".figure")) == 2
    assert {row.text for row in browser.find_elements(By.CSS_SELECTOR, "td:first-child")} >= {EVIL, "average", "curate", "deploy"}
    settings = next(each for each in browser.find_elements(By.TAG_NAME, "summary") if each.text == "every field of the run")
    settings.click()
    assert json.loads(browser.find_element(By.TAG_NAME, "pre").text) == evil()["settings"]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [line["message"] for line in browser.get_log("browser")] == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(browser, tmp_path: Path, width: int):
    page = tmp_path / "report.html"
    page.write_text(render(REPORT))
    open_page(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_rows_that_were_left_out_are_counted_over_both_stages_and_their_first_files_are_named():
    page = "".join(corpus_sections(REPORT))
    assert (
        "<p>1,235 rows: 16 merged (1 while files were read, 15 in curation), 1,034 rejected (1,034 in curation), 185 kept. "
        "Merged rows are copies: their content stays, once.</p>"
    ) in page
    found = rows(page)
    at = found.index(["reason", "rows of", "rows", "read from"])
    assert found[at + 1 : at + 5] == [
        ["rejected: damaged", "candidates", "1,034", "in/a.png, in/b.png, in/c.png and 1,031 more"],
        ["merged: exact duplicate", "candidates", "14", "in/copy.png and 13 more"],
        ["merged: equal to an earlier row", "candidates", "1", ""],
        ["merged: judged twice", "judgements", "1", ""],
    ]
    assert "Each row is written into a file by <code>mirepoix validate q.yaml --copies --out rows.csv</code>" in page
    assert ["training", "source", "task", "before", "after"] in found
    assert ["in", "candidates", "1,235"] in found and ["in/shop.csv", COLUMN] in found


def test_headings_are_in_the_words_of_a_reader():
    headings = [re.sub("<[^>]*>", "", heading) for heading in re.findall("<h2>(.*?)</h2>", render(REPORT))]
    assert headings == [
        "R@5 on the queries of test_combination, among all candidates (universal pool)",
        "R@5 on the queries of test_combination, among the candidates of the modality that is asked for (target pool)",
        "R@5 on the queries of validation, among all candidates (universal pool)",
        "R@5 on the queries of validation, among the candidates of the modality that is asked for (target pool)",
        "Over depth the queries of test_combination, among all candidates",
        "What was read",
        "What was left out, and why",
        "Notices",
        "Training pairs by source and task, before and after weighting",
        "Stages",
        "Settings",
    ]
    arm = copy.deepcopy(REPORT)
    arm["stages"][2]["name"] = "unite:pairs"
    arm["stages"][2]["tables"]["other"] = [{"count": 1}]
    assert "before and after weighting (unite)</h2>" in render(arm) and "<h2>other of the stage pairs (unite)</h2>" in render(arm)


def test_the_digest_of_the_corpus_is_at_the_end_and_closed():
    page = render(REPORT)
    assert page.index("<h2>Settings</h2>") < page.index("<details><summary>digest of the curated corpus") < page.index("b" * 64)
    assert page.count("b" * 64) == 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            (0.1, 0.05, 0.15),
            (0.5, 0.45, 0.55),
            "the training helped: R@5 0.100 before, 0.500 after, and the 95 % intervals do not overlap",
        ),
        (
            (0.1354, 0.0949, 0.1892),
            (0.1771, 0.1198, 0.2257),
            "the training may have helped: R@5 0.135 before, 0.177 after; the 95 % intervals overlap, so this is not settled",
        ),
        ((0.008, 0.0, 0.02), (0.0, 0.0, 0.0), "the training did not help: R@5 0.008 before, 0.000 after; the 95 % intervals overlap"),
        ((0.1, 0.0, 0.2), (0.1, 0.0, 0.2), "the training did not help: R@5 0.100 before, 0.100 after; the 95 % intervals overlap"),
        (
            (0.5, 0.45, 0.55),
            (0.1, 0.05, 0.15),
            "the training did harm: R@5 0.500 before, 0.100 after, and the 95 % intervals do not overlap",
        ),
    ],
)
def test_the_verdict_says_whether_the_training_helped_and_whether_the_intervals_overlap(before, after, said):
    figures = {
        system: dict(zip(("average", "low", "high"), values, strict=True))
        for system, values in {"untrained": before, "trained": after}.items()
    }
    headline = HEADLINE | figures
    assert verdict(headline) == said and len(said) <= 119
    assert helped(headline) is (after[0] > before[0])
    page = render(REPORT | {"headline": headline})
    assert f"<p class=verdict>T{said[1:]}.</p>" in page and page.index("class=verdict") < page.index("class=headline")


def test_the_release_is_on_top_with_the_commands_to_serve_it_and_to_have_the_untrained_model():
    page = render(REPORT)
    top = page[: page.index("<h2>")]
    for words in (
        "<strong>f7c0</strong>",
        "/s/artefacts/release/9",
        "mirepoix serve /s/runs/q --open",
        "mirepoix run q.yaml adapt=null",
    ):
        assert words in top


def test_a_report_of_an_earlier_version_has_a_page_without_commands():
    old = {name: value for name, value in REPORT.items() if name not in ("releases", "commands")}
    assert "<dl>" not in render(old) and "Each row" not in render(old)


def test_at_the_width_of_a_laptop_no_table_scrolls_sideways(browser, tmp_path: Path):
    wordy = copy.deepcopy(REPORT)
    wordy["stages"][0]["tables"]["notices"] = [{"source": f"shop/{'deep/' * 20}a.csv", "detail": "many words " * 40}]
    wordy["stages"][1]["tables"]["examples"] = [{**each, "place": f"in/{'deep/' * 20}{each['id']}.png"} for each in EXAMPLES]
    (tmp_path / "report.html").write_text(render(wordy))
    open_page(browser, tmp_path / "report.html", 1280)
    widths = browser.execute_script("return [...document.querySelectorAll('.wide')].map(each => [each.scrollWidth, each.clientWidth])")
    assert len(widths) == 9 and all(inner <= outer for inner, outer in widths)


@pytest.mark.parametrize("report", ["REPORT", "untrained"])
def test_at_the_width_of_a_telephone_the_bars_of_results_are_in_sight(browser, tmp_path: Path, report):
    (tmp_path / "report.html").write_text(render(REPORT if report == "REPORT" else untrained()))
    open_page(browser, tmp_path / "report.html", 390)
    places = browser.execute_script(
        "return [...document.querySelectorAll('.scores')].map(each => [each.getBoundingClientRect().right, "
        "...[...each.querySelectorAll('.bar')].map(bar => bar.getBoundingClientRect()).flatMap(bar => [bar.right, bar.left + 200])])"
    )
    scrolled = browser.execute_script("return [...document.querySelectorAll('.scores')].filter(e => e.scrollWidth > e.clientWidth).length")
    assert scrolled == 0
    assert len(places) == 4 and all(0 < place <= 390 for each in places for place in each), places


def untrained():
    """A report of a run without a training."""
    report = copy.deepcopy({**REPORT, "commands": {}})
    report["stages"][2]["tables"] = {}
    report["results"] = [{**each, "system": "encoder"} for each in RESULTS if each["system"] == "trained"]
    report["headline"] = {name: value for name, value in HEADLINE.items() if name not in ("trained", "untrained")}
    report["headline"]["encoder"] = HEADLINE["trained"]
    return report


def test_a_run_without_a_training_has_one_column_and_speaks_of_none():
    page = render(untrained())
    assert rows(page)[:4] == [
        ["task", "queries", "encoder", ""],
        ["t->t", "12", "0.250", ""],
        ["it->t", "12", "0.750", ""],
        ["average", "24", "0.500", ""],
    ]
    assert "encoder, 95 % interval 0.450 to 0.550" in page and "trained" not in page and "bar><i class=base" not in page


def test_a_run_that_had_nothing_to_measure_by_says_so():
    bare = {name: value for name, value in REPORT.items() if name != "headline"} | {"results": [], "unmeasured": "no score: <x> of CLIP"}
    assert "<p>No score: &lt;x&gt; of CLIP.</p>" in render(bare)
