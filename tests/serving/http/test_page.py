"""The search page in a real browser, over the real server: what a visitor types, drops and reads."""

import base64
import re
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.serving.fixtures import corpus, drawing

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[1], {type: arguments[2]}));
for (const kind of ["dragenter", "dragover", "drop"])
  document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
"""


KINDS = {"t": "text", "i": "picture", "it": "picture and text"}


class Page:
    """The page as a visitor sees it."""

    def __init__(self, browser: webdriver.Chrome, url: str):
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.by_id("release").text)

    def by_id(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def wait(self, true) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: true())

    def drop(self, data: bytes, name: str = "query.png", kind: str = "image/png") -> None:
        self.browser.execute_script(DROP, base64.b64encode(data).decode(), name, kind)

    def target(self, letters: str) -> None:
        self.browser.execute_script(f"document.querySelector('input[name=target][value=\"{letters}\"]').click()")

    def search(self, text: str = "") -> None:
        self.by_id("text").clear()
        self.by_id("text").send_keys(text, Keys.ENTER)
        self.wait(lambda: self.by_id("go").is_enabled() and (self.cards or self.by_id("error").is_displayed()))

    @property
    def cards(self) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, "#results .card")

    def part(self, card: WebElement, name: str) -> str:
        found = card.find_elements(By.CSS_SELECTOR, name)
        return found[0].text if found else ""

    def widths(self) -> list[int]:
        return self.browser.execute_script("return [...document.querySelectorAll('#results img')].map((image) => image.naturalWidth)")


@pytest.fixture
def page(browser, served) -> Page:
    return Page(browser, served)


def test_a_typed_query_shows_ranked_cards_with_latency_and_release(page, release_folder):
    assert re.fullmatch(r"tiny, release [0-9a-f]{12}", page.by_id("release").text)
    page.search("a disc")
    assert len(page.cards) == 10
    scores = [float(page.part(card, ".score")) for card in page.cards]
    assert scores == sorted(scores, reverse=True)
    assert [page.part(card, ".rank") for card in page.cards] == [f"#{n}" for n in range(1, 11)]
    assert re.fullmatch(r"10 results in [\d.]+ ms \(\d+ ms round trip\)", page.by_id("status").text)


def test_a_dropped_picture_is_previewed_searched_with_and_removed(page):
    page.drop(drawing("square", 0.35), "my square.png")
    page.wait(lambda: page.browser.execute_script("return document.getElementById('preview').naturalWidth") == 96)
    assert page.by_id("filename").text == "my square.png" and not page.by_id("choose").is_displayed()
    page.target("i")
    page.search()
    assert len(page.cards) == 10
    page.wait(lambda: all(width > 0 for width in page.widths()))
    assert len(page.widths()) == 10 and {page.part(card, ".kind") for card in page.cards} == {"picture"}
    page.by_id("remove").click()
    assert page.by_id("choose").is_displayed() and not page.by_id("chosen").is_displayed()


def test_a_chosen_file_and_text_search_together(page, tmp_path: Path):
    item = corpus()[47]
    (tmp_path / "query.png").write_bytes(item.images[0])
    page.by_id("file").send_keys(str(tmp_path / "query.png"))
    page.wait(lambda: page.by_id("chosen").is_displayed())
    page.target("it")
    page.search(item.text)
    assert {page.part(card, ".kind") for card in page.cards} == {"picture and text"}
    page.wait(lambda: all(width > 0 for width in page.widths()))


def test_the_number_of_results_and_their_kind_are_the_visitors_choice(page):
    page.target("t")
    page.browser.execute_script("document.getElementById('k').value = '5'")
    page.search("square")
    assert len(page.cards) == 5 and {page.part(card, ".kind") for card in page.cards} == {"text"} and page.widths() == []


def test_markup_in_a_document_is_shown_as_letters(page):
    odd = corpus()[-1]
    page.browser.execute_script("document.getElementById('k').value = '50'")
    page.target("it")
    page.search(odd.text)
    (card,) = [card for card in page.cards if page.part(card, ".id") == odd.id]
    assert (page.part(card, ".text"), page.part(card, ".source")) == (odd.text, "a/<b>.gif")
    page.wait(lambda: all(width > 0 for width in page.widths()))
    assert page.browser.title == "Mirepoix search"


def test_below_a_result_is_where_it_was_read_from_and_nothing_where_that_is_not_known(page):
    page.browser.execute_script("document.getElementById('k').value = '20'")
    sources = {}
    for target in ("i", "t", "it"):
        page.target(target)
        page.search("disc")
        page.wait(lambda target=target: {page.part(card, ".kind") for card in page.cards} == {KINDS[target]})
        sources |= {page.part(card, ".id"): page.part(card, ".source") for card in page.cards}
    assert (sources["picture-04"], sources["text-03"]) == ("emoji/Travel & Places/04.png", "shop/produkte.csv:5")
    assert sources["both/00"] == "" and len(sources) == 60
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#results .source")) == 1, "of both, the odd one alone has a source"


def test_an_empty_search_shows_what_to_do_without_a_request(page):
    page.search()
    assert page.by_id("error").text == "Type something, or choose a picture."


def test_a_refusal_of_the_server_is_shown_in_its_words_until_the_next_search(page):
    page.drop(drawing("disc", 0.1)[:200])
    page.search()
    assert page.by_id("error").text == "the picture is truncated or damaged" and page.cards == []
    page.by_id("remove").click()
    page.search("disc")
    assert not page.by_id("error").is_displayed() and page.cards


def test_what_is_no_picture_is_not_taken(page):
    page.drop(b"plain words", "notes.txt", "text/plain")
    assert "no picture" in page.by_id("error").text and page.by_id("choose").is_displayed()


def test_the_keyboard_reaches_everything(page):
    focus = []
    for _ in range(5):
        focus.append(page.browser.execute_script("return document.activeElement.id || document.activeElement.name"))
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
    assert focus == ["text", "go", "file", "target", "k"]


def test_the_browser_has_nothing_to_complain_of(page, browser):
    page.search("disc")
    page.wait(lambda: all(width > 0 for width in page.widths()))
    assert [entry["message"] for entry in browser.get_log("browser") if "status of 400" not in entry["message"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_is_wider_than_the_window_in_either_scheme(page, browser, tmp_path, scheme, width):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    )
    page.drop(drawing("disc", 0.6))
    page.target("i")
    page.browser.execute_script("document.getElementById('k').value = '20'")
    page.search("disc")
    page.wait(lambda: len(page.widths()) == 20 and all(shown > 0 for shown in page.widths()))
    sources = browser.find_elements(By.CSS_SELECTOR, "#results .source")
    assert max(len(source.text) for source in sources) == 162, "a name without a blank, wider than a card"
    assert browser.execute_script("return [...document.querySelectorAll('.source')].every((it) => it.scrollWidth <= it.clientWidth + 1)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 384) == (scheme == "light")
    browser.save_screenshot(str(tmp_path / f"{scheme}-{width}.png"))
