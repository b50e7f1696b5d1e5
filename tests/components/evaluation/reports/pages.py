"""Sections of reports as pages: in a browser, and as the texts of their elements."""

import re
from collections.abc import Iterable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mirepoix.components.evaluation.reports.style import STYLE

EVIL = "<script>document.title='taken'</script>&\"'"
WIDTHS = (1280, 390)


class Elements(HTMLParser):
    """The names and attributes of a page's elements, and its text, of which that of SVG titles is a part."""

    def __init__(self, page: str):
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def section(parts: Iterable[str]) -> str:
    """The HTML of a section."""
    return "\n".join(parts)


def rows(page: str) -> list[list[str]]:
    """The cells of every row of a page's tables."""
    lines = [row.split("</table>")[0] for row in re.split("<tr[^>]*>", page)[1:]]
    return [[" ".join(unescape(re.sub("<[^>]*>", " ", cell)).split()) for cell in re.split("<t[dh][^>]*>", line)[1:]] for line in lines]


def open_page(browser: Any, file: Path, width: int) -> None:
    """Opens a page in a window of that width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


def show(browser: Any, file: Path, parts: Iterable[str], width: int) -> None:
    """Opens a section in a window of that width, in the style of reports."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>page</title><style>{STYLE}</style>'
    file.write_text(f"<!doctype html><html lang=en><head>{head}</head><body>{section(parts)}</body></html>", encoding="utf-8")
    open_page(browser, file, width)


def overflow(browser: Any) -> list[str]:
    """What reaches beyond the window, or scrolls sideways in it."""
    return browser.execute_script(
        "const wide = [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5"
        " || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'));"
        "return [...(document.documentElement.scrollWidth > innerWidth ? ['page'] : []), ...wide.map(e => e.outerHTML.slice(0, 90))]"
    )
