"""The search page is opened where there is a display, and its address is printed where there is none."""

import webbrowser

from mirepoix.workflows.cluster.serve import open_page

URL = "http://127.0.0.1:8000"


def test_the_page_is_opened_in_the_browser_of_the_display(monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert open_page(URL, {"DISPLAY": ":0"}, "linux") == f"{URL} is opened in the browser"
    assert open_page(URL, {"WAYLAND_DISPLAY": "wayland-0"}, "linux") == f"{URL} is opened in the browser"
    assert open_page(URL, {}, "darwin") == f"{URL} is opened in the browser"
    assert opened == [URL] * 3


def test_without_a_display_no_browser_is_started_and_the_address_is_said(monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda url: 1 / 0)
    assert open_page(URL, {"DISPLAY": ""}, "linux") == f"there is no display here to open a browser on; open {URL} in one"


def test_without_a_browser_the_address_is_said(monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert open_page(URL, {"DISPLAY": ":0"}, "linux") == f"no browser was found; open {URL} in one"

    def fails(url: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", fails)
    assert open_page(URL, {"DISPLAY": ":0"}, "linux") == f"no browser was found; open {URL} in one"
