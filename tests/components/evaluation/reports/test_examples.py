"""Examples: cards of queries with what was found for them, right answers marked, beside the best floor."""

import base64
import copy
from pathlib import Path
from typing import Any

import pytest

from mirepoix.components.evaluation.reports.examples import example_section
from mirepoix.components.evaluation.reports.report import render
from tests.components.curation.corpora import png
from tests.components.evaluation.reports.pages import EVIL, WIDTHS, Elements, overflow, section, show
from tests.components.evaluation.reports.test_report import REPORT

PICTURE = f"data:image/png;base64,{base64.b64encode(png('red', side=112)).decode()}"


def item(id: str, text: str = "", picture: str = "", **more: Any) -> dict[str, Any]:
    return {"id": id, "text": text, "picture": picture, **more}


CARD = {
    "query": item("q", "which one?", PICTURE),
    "task": "it->i",
    "dataset": "world",
    "value": 1.0,
    "beside": 0.25,
    "answers": [item("right", "the answer", PICTURE)],
    "found": [item("right", "the answer", PICTURE, relevant=True), item("wrong", "another", relevant=False)],
    "found_beside": [item("wrong", "another", relevant=False)],
}
GALLERY = {
    "system": "trained",
    "beside": "bm25",
    "measure": "R@5",
    "pool": "target",
    "split": "test",
    "wins": [CARD],
    "losses": [CARD | {"value": 0.0, "beside": 1.0, "found": []}],
}


def test_a_card_has_the_query_the_answers_and_both_rankings_in_this_order():
    text = Elements(section(example_section({**GALLERY, "losses": []}))).text
    assert text == (
        "Examples by R@5; right answers are green trained: better than BM25 it->i · world · trained 1.000, BM25 0.250 which one? "
        "answer ✓ the answer found by trained ✓ the answer another found by BM25 another"
    )


def test_wins_come_before_losses_and_a_ranking_of_nothing_says_so():
    text = Elements(section(example_section(GALLERY))).text
    assert text.index("trained: better than BM25") < text.index("trained: worse than BM25, or without an answer")
    assert "trained 0.000, BM25 1.000" in text and "found by trained nothing found by BM25" in text


def test_what_is_right_is_marked_and_nothing_else():
    page = section(example_section({**GALLERY, "losses": []}))
    assert page.count('class="item right') == 2 and page.count("✓") == 2, "the answer, and where it was found"
    assert page.count("<img ") == 3 and page.count(f'src="{PICTURE}"') == 3


def test_without_a_floor_there_is_one_ranking():
    alone = {**GALLERY, "system": "encoder", "beside": "", "losses": [CARD | {"value": 0.0}]}
    text = Elements(section(example_section(alone))).text
    assert "encoder: with an answer" in text and "encoder: without an answer" in text
    assert "BM25" not in text and "0.250" not in text and "better" not in text


def test_a_gallery_without_a_card_is_no_section():
    assert section(example_section({**GALLERY, "wins": [], "losses": []})) == ""


def test_the_section_of_an_arm_names_it_and_a_page_has_one_for_each():
    page = render(REPORT, {"unite": GALLERY, EVIL: {**GALLERY, "losses": []}})
    found = Elements(page)
    assert "Examples (unite) by R@5" in found.text and f"Examples ({EVIL}) by R@5" in found.text
    assert "Examples by R@5" in Elements(render(REPORT, {"": GALLERY})).text and "Examples" not in render(REPORT)
    assert page.index("Over depth") < page.index("Examples") < page.index("What was read")


def test_markup_in_any_text_name_or_id_is_letters():
    def changed(value: Any) -> Any:
        match value:
            case dict():
                return {name: changed(each) for name, each in value.items()}
            case list():
                return [changed(each) for each in value]
            case str() if not value.startswith("data:"):
                return EVIL
        return value

    evil = {**copy.deepcopy(GALLERY), "wins": changed([CARD]), "losses": changed([CARD]), "measure": EVIL}
    found = Elements(section(example_section(evil, EVIL)))
    assert "script" not in found.names and not [name for name, _ in found.attributes if name.startswith("on")]
    assert [value for name, value in found.attributes if name == "title"] == [EVIL] * 10
    assert found.text.count(EVIL) >= 16


LONG = "Donaudampfschifffahrtsgesellschaft" * 7


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window_whatever_is_shown(browser, tmp_path: Path, width: int):
    crowded = [item(f"item-{n}-{'x' * 80}", LONG, PICTURE if n % 2 else "", relevant=n == 1) for n in range(4)]
    card = CARD | {
        "query": item("q", LONG, PICTURE),
        "answers": crowded[:2],
        "found": crowded,
        "found_beside": crowded,
        "dataset": "d" * 60,
    }
    show(browser, tmp_path / "page.html", example_section({**GALLERY, "wins": [card] * 3, "losses": [CARD]}), width)
    assert overflow(browser) == []
    lefts = browser.execute_script("return [...document.querySelectorAll('.card')].map(e => e.getBoundingClientRect().left)")
    assert len(lefts) == 4 and len({*lefts}) == (2 if width > 1000 else 1), "two beside each other where there is room"
    loaded = browser.execute_script("return [...document.images].map(e => e.complete && e.naturalWidth)")
    assert set(loaded) == {112} and browser.get_log("browser") == []
