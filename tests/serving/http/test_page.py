"""The search page in a real browser, over the real server: what a visitor types, drops and reads."""

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from mirepoix.models.item import Modality
from mirepoix.serving.engine.current import About
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import open_keys
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.in_process.searcher import SearchResult
from tests.serving.fixtures import OneRelease, corpus, drawing

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[1], {type: arguments[2]}));
for (const kind of ["dragenter", "dragover", "drop"])
  document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
"""


KINDS = {"t": "text", "i": "picture", "it": "picture with text"}
LONG_ID = "a_folder/with.a-name/black_large_square.png.image"


class Documents(OneRelease):
    """A backend with as many documents as `counts` says, of which every search finds one of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.about = About("tiny", "abc", (2,), {}, self.counts)
        self.asked: list[tuple[str, Modality | None]] = []  # the text and the modality of the query, and the target

    async def encode(self, items, role, truncate) -> list[Encoded]:
        self.query = items[0]
        return [Encoded(np.zeros((1, 2), np.float32), 1)]

    async def search(self, rows_TD, k: int, target: Modality | None) -> list[SearchResult]:
        self.asked.append((self.query.modality.letters, target and target.letters))
        kinds = [kind for kind in self.counts if target is None or kind == target.letters]
        return [SearchResult(LONG_ID, 0.12345, kind, "words" if "t" in kind else "", "i" in kind, None) for kind in kinds]

    async def thumbnail(self, id: str) -> bytes:
        return drawing("disc", 0.3, 24)


class Page:
    """The page as a visitor sees it."""

    def __init__(self, browser: webdriver.Chrome, url: str):
        self.browser = browser
        self.open(url)

    def open(self, url: str) -> None:
        self.browser.get(url)
        self.wait(lambda: self.by_id("release").text)

    @property
    def choices(self) -> list[str]:
        return [label.text for label in self.browser.find_elements(By.CSS_SELECTOR, "#find label") if label.is_displayed()]

    @property
    def chosen(self) -> str:
        return self.browser.execute_script("return document.querySelector('input[name=target]:checked').parentElement.textContent.trim()")

    def found(self, kind: str, cards: int = 10) -> None:
        """Waits for results, all of the kind."""
        self.wait(lambda: self.by_id("go").is_enabled() and [self.part(card, ".kind") for card in self.cards] == [kind] * cards)

    def by_id(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def wait(self, true) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: true())

    def drop(self, data: bytes, name: str = "query.png", kind: str = "image/png") -> None:
        self.browser.execute_script(DROP, base64.b64encode(data).decode(), name, kind)

    def target(self, letters: str) -> None:
        self.browser.execute_script(f"document.querySelector('input[name=target][value=\"{letters}\"]').click()")

    def search(self, text: str = "", wait_for: str = "error") -> None:
        """Searches, and waits for results or for a line of that id."""
        self.by_id("text").clear()
        self.by_id("text").send_keys(text, Keys.ENTER)
        self.wait(lambda: self.by_id("go").is_enabled() and (self.cards or self.by_id(wait_for).is_displayed()))

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


def with_width(browser: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(autouse=True)
def _window(browser) -> Iterator[None]:
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def listening(backend: Documents, api_key: str | None = None) -> Iterator[str]:
    """A server of the API over a backend in this process; its address."""
    server = uvicorn.Server(uvicorn.Config(build_app(backend, Limits(), open_keys("", api_key)), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture(scope="module")
def backend() -> Documents:
    return Documents()


@pytest.fixture(scope="module")
def stub(backend) -> Iterator[str]:
    """The address of a server of the same API in this process; a test says what documents it has."""
    with listening(backend) as url:
        yield url


@pytest.fixture
def page_of(browser, backend, stub):
    """Opens the page of a release with so many documents of each kind."""

    def open_page(counts: dict[str, int], query: str = "") -> Page:
        backend.counts.clear()
        backend.counts.update(counts)
        backend.asked.clear()
        return Page(browser, stub + query)

    return open_page


def test_a_typed_query_shows_ranked_cards_with_latency_and_release(page, release_folder):
    assert re.fullmatch(r"tiny, release [0-9a-f]{12}", page.by_id("release").text)
    assert page.browser.execute_script("return document.getElementById('release').closest('footer') !== null")
    page.search("a disc")
    assert len(page.cards) == 10
    scores = [float(page.part(card, ".score")) for card in page.cards]
    assert scores == sorted(scores, reverse=True)
    assert [page.part(card, ".rank") for card in page.cards] == [f"#{n}" for n in range(1, 11)]
    assert all(re.fullmatch(r"-?\d\.\d{3}", page.part(card, ".score")) for card in page.cards)
    assert re.fullmatch(r"20 pictures searched in (\d\.\d\d|less than 0\.01) s", page.by_id("status").text)


def test_the_page_begins_with_what_there_is_to_search_and_a_hint_until_the_first_search(page):
    assert page.by_id("amount").text == "20 texts, 20 pictures and 20 pictures with text to search"
    assert page.by_id("start").text.endswith("or choose a picture to find what is like it.") and page.cards == []
    page.search("disc")
    assert not page.by_id("start").is_displayed()


def test_one_kind_of_documents_leaves_nothing_to_choose(page_of, backend):
    page = page_of({"i": 1897})
    assert page.choices == [] and page.by_id("amount").text == "1,897 pictures to search"
    page.search("disc")
    assert backend.asked == [("t", None)]
    assert page.by_id("status").text.startswith("1,897 pictures searched in ") and page.browser.current_url.endswith("/?q=disc")
    assert [page.part(card, ".kind") for card in page.cards] == [""], "the only kind is not said of each"


@pytest.mark.parametrize(
    ("counts", "choices"),
    [
        ({"t": 1600, "i": 400, "it": 500}, ["Pictures with text (500)", "Anything (2,500)", "Texts (1,600)", "Pictures (400)"]),
        ({"t": 3, "i": 1897}, ["Pictures (1,897)", "Anything (1,900)", "Texts (3)"]),
        ({"i": 2, "it": 3}, ["Anything (5)", "Pictures with text (3)", "Pictures (2)"]),
    ],
)
def test_the_choices_are_the_kinds_that_are_there_and_beside_texts_pictures_are_chosen(page_of, counts, choices):
    page = page_of(counts)
    assert (page.choices, page.chosen) == (choices, choices[0])


def test_a_warning_of_the_reply_is_shown_above_the_results_until_the_next_search(page_of, backend):
    page = page_of({"i": 1897, "t": 3})
    page.target("t")
    del backend.counts["t"]
    page.search("disc", wait_for="warnings")
    assert page.by_id("warnings").text == "the release has no texts; it has 1,897 pictures"
    assert page.by_id("status").text.startswith("Nothing found.") and page.cards == []
    page.target("i")
    page.found("picture", 1)
    assert not page.by_id("warnings").is_displayed()


def test_another_choice_searches_again_only_after_a_search(page):
    page.by_id("text").send_keys("disc")
    page.target("t")
    assert page.cards == [] and "?" not in page.browser.current_url
    page.search("disc")
    page.found("text")
    page.target("it")
    page.found("picture with text")
    page.browser.execute_script("const k = document.getElementById('k'); k.value = '5'; k.dispatchEvent(new Event('change'))")
    page.found("picture with text", 5)


def test_a_search_is_in_the_address_and_back_and_reload_show_it(page, served):
    page.search("red disc")
    assert page.browser.current_url == f"{served}/?q=red+disc&find=pictures"
    page.target("t")
    page.found("text")
    assert page.browser.current_url == f"{served}/?q=red+disc&find=texts"
    page.browser.back()
    page.found("picture")
    assert page.chosen == "Pictures (20)"
    page.browser.back()
    page.wait(lambda: page.by_id("start").is_displayed())
    assert page.cards == [] and page.by_id("text").get_property("value") == ""
    page.browser.forward()
    page.found("picture")
    page.open(f"{served}/?q=disc&find=pictures-with-text&k=5")
    page.found("picture with text", 5)
    assert page.by_id("text").get_property("value") == "disc"


def test_an_address_without_a_choice_or_with_an_odd_one_is_completed_without_a_step_back(page, served):
    for odd in ("q=disc", "q=disc&find=t&k=7000"):
        page.open(f"{served}/?{odd}")
        page.found("picture")
        assert page.browser.current_url == f"{served}/?q=disc&find=pictures"
    page.browser.back()
    page.found("picture")
    assert page.browser.current_url == f"{served}/?q=disc&find=pictures", "that of the first of the two"
    page.browser.back()
    page.wait(lambda: page.browser.current_url == f"{served}/")


def test_more_like_this_searches_with_the_picture_of_a_result_by_keyboard_too(page, served):
    page.search("disc")
    page.wait(lambda: all(width > 0 for width in page.widths()))
    first = page.cards[3]
    wanted, size = page.part(first, ".id"), page.widths()[3]
    button = first.find_element(By.CSS_SELECTOR, ".more")
    assert (button.text, button.accessible_name) == ("More like this", f"More like this: {wanted}")
    button.send_keys(Keys.ENTER)
    page.wait(lambda: page.by_id("chosen").is_displayed() and page.by_id("go").is_enabled() and len(page.cards) == 10)
    assert page.by_id("text").get_property("value") == "" and page.browser.current_url == f"{served}/?find=pictures"
    name = {"picture-19": f"{'a_name_that_is_long' * 8}.png"}.get(wanted, f"{wanted[-2:]}.png")
    assert page.by_id("filename").text == name
    page.wait(lambda: page.browser.execute_script("return document.getElementById('preview').naturalWidth") == size)
    assert page.browser.execute_script("return document.activeElement.id") == "status", "the keyboard goes on at the results"
    page.browser.back()
    page.found("picture")
    page.wait(lambda: page.by_id("text").get_property("value") == "disc" and page.part(page.cards[3], ".id") == wanted)
    assert not page.by_id("chosen").is_displayed()
    page.browser.forward()
    page.wait(lambda: page.by_id("chosen").is_displayed() and page.by_id("filename").text == name)


def test_a_click_on_the_picture_of_a_result_searches_for_more_like_it(page_of, backend):
    page = page_of({"it": 3, "t": 2})
    page.search("disc")
    page.wait(lambda: all(width > 0 for width in page.widths()))
    page.cards[0].find_element(By.TAG_NAME, "img").click()
    page.wait(lambda: backend.asked == [("t", "it"), ("i", "it")])
    page.target("")
    page.wait(lambda: len(page.cards) == 2)
    assert [len(card.find_elements(By.CSS_SELECTOR, ".more")) for card in page.cards] == [1, 0], "texts have none"


def test_with_a_key_the_choices_come_with_the_first_search_that_has_it(browser):
    backend = Documents()
    backend.counts.update({"i": 5, "t": 2})
    with listening(backend, "secret") as url:
        page = Page(browser, f"{url}/?q=disc")
        assert page.choices == [] and backend.asked == [] and browser.switch_to.active_element == page.by_id("key")
        page.by_id("key").send_keys("secret", Keys.ENTER)
        page.found("picture", 1)
        assert (page.choices, page.chosen) == (["Pictures (5)", "Anything (7)", "Texts (2)"], "Pictures (5)")
        assert backend.asked == [("t", "i")]


@pytest.mark.parametrize("width", [1200, 390])
def test_a_small_picture_stands_in_the_middle_at_its_own_size_and_an_id_breaks_at_a_separator(page_of, browser, width):
    with_width(browser, width)
    page = page_of({"i": 3, "it": 2, "t": 1})
    page.target("")
    page.search("disc")
    page.wait(lambda: page.widths() == [24, 24])
    boxes = browser.execute_script("""return [...document.querySelectorAll("#results .picture")].map((box) => {
      const inner = box.querySelector("img").getBoundingClientRect(), outer = box.getBoundingClientRect();
      return [inner.width, inner.height, inner.x + inner.width / 2 - outer.x - outer.width / 2, outer.height > 90]; })""")
    assert [[*box[:2], abs(box[2]) < 1, box[3]] for box in boxes] == [[24, 24, True, True]] * 2
    lines = browser.execute_script("""
      const lines = [], range = document.createRange();
      for (const node of document.querySelector("#results .id").childNodes)
        if (node.nodeType === 3) for (let n = 0; n < node.length; n++) {
          range.setStart(node, n); range.setEnd(node, n + 1);
          const top = range.getBoundingClientRect().top;
          if (!lines.length || lines.at(-1).top !== top) lines.push({top, text: ""});
          lines.at(-1).text += node.data[n];
        }
      return lines.map((line) => line.text)""")
    assert "".join(lines) == LONG_ID and len(lines) > 1 and all(line[-1] in "/_.-" for line in lines[:-1])
    assert page.part(page.cards[0], ".id") == LONG_ID
    tops = browser.execute_script("return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().top)")
    assert tops[0] == tops[1] and (tops[1] == tops[2]) == (width == 1200), "two columns on a telephone"


def test_the_placeholder_fits_on_a_telephone(page, browser):
    with_width(browser, 390)
    shown, room = browser.execute_script("""
      const input = document.getElementById("text"), style = getComputedStyle(input);
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = style.font;
      const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
      return [pen.measureText(input.placeholder).width, input.clientWidth - padding]""")
    assert 0 < shown < room


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
    assert {page.part(card, ".kind") for card in page.cards} == {"picture with text"}
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
    assert focus == ["text", "go", "file", "k", "target"]


def test_the_browser_has_nothing_to_complain_of(page, browser):
    page.search("disc")
    page.wait(lambda: all(width > 0 for width in page.widths()))
    assert [entry["message"] for entry in browser.get_log("browser") if "status of 400" not in entry["message"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_is_wider_than_the_window_in_either_scheme(page, browser, tmp_path, scheme, width):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    with_width(browser, width)
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
