"""A server says that it starts, serves and stopped; its page is opened where there is a display, else its address is printed."""

import os
import signal
import threading
import webbrowser
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.local import control
from mirepoix.serving.local import server as server_module
from mirepoix.serving.local.control import Control
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.arguments import parsed
from mirepoix.workflows.commands import serve as command
from mirepoix.workflows.commands.serve import open_page, serve
from mirepoix.workflows.commands.serve_request import ServeRequest, requested

URL = "http://127.0.0.1:8000"


def isolated(monkeypatch, home):
    """Control sockets are below this folder alone: no server of the developer's is asked."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr(control, "TEMPORARY", home)
    monkeypatch.setattr(control, "RUNTIME", home / "user")


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


def test_traces_to_no_address_are_refused_before_a_port_is_opened():
    with pytest.raises(Refused, match="traces is 'collector'; give the address of an OTLP collector"):
        server_module.LocalServer(ServeConfig(port=0, traces="collector"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_says_what_it_starts_and_ends_with_the_line_stopped_on_either_signal(monkeypatch, ctrl_c, tmp_path, capsys, number):
    did = []
    release = f"{tmp_path}/artefacts/release/d6f2141438d96255"
    monkeypatch.setattr(ServeRequest, "release", release)

    class Server:
        url = URL

        def __init__(self, config, key):
            did.append(config.port)

        def start(self, target):
            did.append(target)

        def stop(self):
            did.append("stop")

    isolated(monkeypatch, tmp_path)
    monkeypatch.setattr(command, "listening", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(command, "peek", lambda release: (SimpleNamespace(name="tiny", version="20737bf0ae9f"), {}))
    monkeypatch.setattr(server_module, "LocalServer", Server)
    monkeypatch.setattr(command, "_waited", lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr(command, "Control", lambda *_: nullcontext())

    def ends(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, ends)
    try:
        assert serve(ServeRequest(release, str(tmp_path))) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert did == [8000, release, "stop"]
    assert capsys.readouterr().out.splitlines() == [
        f"starting the server of tiny 20737bf0ae9f, {release}",
        f"tiny 20737bf0ae9f is served at {URL}  (Ctrl-C or kill {os.getpid()} stops it)",
        "",
        "stopping",
        "stopped",
    ]


def test_files_of_keys_and_tokens_are_of_the_folder_that_the_command_was_given_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = requested(parsed(["serve", "./release", "--keys", "keys.json", "--tiktoken", "cl100k_base.tiktoken"])).config
    assert (config.keys, config.limits.tiktoken) == (str(tmp_path / "keys.json"), str(tmp_path / "cl100k_base.tiktoken"))
    assert requested(parsed(["serve", "./release"])).config.keys == ""


def test_a_server_rolls_back_to_the_releases_before_one_after_the_other(tmp_path, capsys):
    def swap(target, pause, say):
        if target == "/bad":
            raise Refused("the release is damaged")
        return {"name": "tiny", "version": target, "pause_s": 0.0}

    served = command._Served(ServeRequest("/a", str(tmp_path)), "/a", URL, swap)
    with pytest.raises(Refused, match="has served no other release before"):
        served.answer({"rollback": True}, print)
    for release in ("/b", "/b", "/c"):
        served.answer({"release": release}, print)
    with pytest.raises(Refused, match="damaged"):
        served.answer({"release": "/bad"}, print)
    assert [served.answer({"rollback": True}, print)["version"] for _ in range(2)] == ["/b", "/a"]
    with pytest.raises(Refused, match="has served no other release before"):
        served.answer({"rollback": True}, print)
    served.close()


def test_where_the_release_before_is_damaged_a_rollback_names_the_one_before_that(tmp_path):
    damaged = []

    def swap(target, pause, say):
        if target in damaged:
            raise Refused("the release is damaged")
        return {"name": "tiny", "version": target, "pause_s": 0.0}

    served = command._Served(ServeRequest("/a", str(tmp_path)), "/a", URL, swap)
    for release in ("/b", "/c"):
        served.answer({"release": release}, print)
    damaged.append("/b")
    with pytest.raises(Refused, match=r"^the release is damaged; before it /a was served \(mirepoix serve /a\)$"):
        served.answer({"rollback": True}, print)
    served.close()


def test_an_alias_is_followed_also_after_a_release_that_failed_in_a_way_that_nobody_thought_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "FOLLOW_SECONDS", 0.01)
    named, over = iter(["/a", "/broken", "/broken", "/b"]), threading.Event()

    def swap(target, pause, say):
        if target == "/broken":
            raise ValueError("no such array")
        over.set()
        return {"name": "tiny", "version": "2", "pause_s": 0.0}

    monkeypatch.setattr(ServeRequest, "release", property(lambda _: next(named)))
    served = command._Served(ServeRequest("@champion", str(tmp_path)), "/a", URL, swap)
    served.follow(over)
    served.close()
    said = "the release that @champion names is not served, and the one before goes on: no such array"
    assert served.release == "/b" and capsys.readouterr().err == f"mirepoix: {said}\n"


def test_a_release_that_is_made_anew_where_an_alias_names_it_is_served_and_one_that_cannot_be_read_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "FOLLOW_SECONDS", 0.01)
    versions, over, swapped = iter(["1", "1", None, "1", "2", "2"]), threading.Event(), []

    def published_version(target):
        version = next(versions, "3")
        if version == "3":
            over.set()
        return version

    def swap(target, pause, say):
        swapped.append(target)
        return {"name": "tiny", "version": "2", "pause_s": 0.0}

    monkeypatch.setattr(command, "published_version", published_version)
    monkeypatch.setattr(ServeRequest, "release", property(lambda _: "/a"))
    served = command._Served(ServeRequest("@champion", str(tmp_path)), "/a", URL, swap)
    served.follow(over)
    served.close()
    assert swapped == ["/a", "/a"]


def test_settings_that_are_given_to_a_server_that_runs_are_said_to_change_nothing(tmp_path):
    request = ServeRequest("/a", str(tmp_path), ServeConfig(encoders=2))
    served = command._Served(request, "/a", URL, lambda *_: {"name": "tiny", "version": "2", "pause_s": 0.0})
    for config, names in ((ServeConfig(), None), (ServeConfig(encoders=2, port=1), None), (ServeConfig(encoders=3), "encoders")):
        lines: list[str] = []
        served.answer({"release": "/b", "settings": command._plain(config)}, lines.append)
        assert lines == ([f"the running server keeps its own {names}; settings change only with a restart"] * bool(names))
    served.close()


@pytest.mark.parametrize(("own", "asked"), [(None, None), ("A:6379", None), ("A:6379", "A:6379")])
@pytest.mark.parametrize("back", [False, True])
def test_a_server_is_swapped_by_a_command_without_an_address_or_with_its_own(tmp_path, own, asked, back):
    swapped = []
    request = ServeRequest("/a", str(tmp_path), address=own)
    served = command._Served(request, "/a", URL, lambda target, *_: swapped.append(target) or {"name": "t", "version": "2", "pause_s": 0.0})
    served.answer({"release": "/b"}, print)
    order = {"rollback": True} if back else {"release": "/c"}
    assert served.answer(order | {"address": asked}, print) is not None
    assert swapped == ["/b", "/a" if back else "/c"]
    served.close()


@pytest.mark.parametrize("own", [None, "A:6379"])
def test_a_command_for_a_cluster_swaps_no_server_of_this_machine_and_none_of_another_cluster(tmp_path, monkeypatch, own):
    isolated(monkeypatch, tmp_path)
    served = command._Served(ServeRequest("/a", str(tmp_path), address=own), "/a", URL, lambda *_: pytest.fail("it was swapped"))
    started = []
    monkeypatch.setattr(command, "peek", lambda release: (SimpleNamespace(name="tiny", version="20737bf0ae9f"), {}))
    monkeypatch.setattr(command, "_on_ray", lambda request, release: started.append(request.address))
    monkeypatch.setattr(ServeRequest, "release", "/b")
    with Control(8000, served.answer):
        assert serve(ServeRequest("/b", str(tmp_path), address="B:6379")) == 0
        with pytest.raises(Refused, match="no server of yours listens at port 8000, on the cluster at B:6379; give"):
            serve(ServeRequest("latest", str(tmp_path), address="B:6379", rollback=True))
    assert started == ["B:6379"] and served.release == "/a"
    served.close()


def test_a_swap_from_another_machine_is_made_with_the_pause_that_was_given_and_says_so(tmp_path, monkeypatch, capsys):
    from mirepoix.serving.ray_serve import app
    from mirepoix.workflows.cluster import ray_cluster

    def start(target, config, pause=False, say=lambda line: None):
        say(f"{target} with a pause: {pause}")
        return app.Server(URL, "tiny", "2", 1.25)

    monkeypatch.setattr(app, "start", start)
    monkeypatch.setattr(app.Server, "stop", lambda self: None)
    monkeypatch.setattr(ray_cluster, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(command, "_until_stopped", lambda *_: None)
    command._on_ray(ServeRequest("/b", str(tmp_path), address="A:6379", pause=True), "/b")
    assert capsys.readouterr().out.splitlines() == ["/b with a pause: True", "requests waited 1.2 seconds"]


@pytest.mark.parametrize(("given", "once"), [("@champion", True), ("/b", False)])
def test_an_alias_that_is_given_to_a_server_that_runs_is_said_to_be_served_this_once(tmp_path, monkeypatch, capsys, given, once):
    isolated(monkeypatch, tmp_path)
    done = {"name": "tiny", "version": "2", "pause_s": 1.25}
    served = command._Served(ServeRequest("/a", str(tmp_path)), "/a", URL, lambda *_: done)
    monkeypatch.setattr(ServeRequest, "release", "/b")
    with Control(8000, served.answer):
        assert serve(ServeRequest(given, str(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"tiny 2 is served at {URL}, by the server that was there (pid {os.getpid()}); requests waited 1.2 seconds" in lines
    assert ("this swap was made once; a server that was started with @champion follows it" in lines) == once
    served.close()


def test_a_rollback_without_a_server_is_refused(monkeypatch, tmp_path):
    isolated(monkeypatch, tmp_path)
    with pytest.raises(Refused, match="no server of yours listens at port 8000; give"):
        serve(ServeRequest("latest", str(tmp_path), rollback=True))
