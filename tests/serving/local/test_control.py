"""The control socket of a server: only its user may ask, each step is said, and a server that is gone does no harm."""

import os
import socket
import threading

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.local import control as module
from mirepoix.serving.local.control import Control, ask, socket_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr(module, "TEMPORARY", tmp_path)
    monkeypatch.setattr(module, "RUNTIME", tmp_path / "u")
    return folder


def test_what_is_asked_is_done_and_each_step_is_said():
    def answer(request, say):
        say("the first step")
        say("the second")
        return {"served": request["release"]}

    lines = []
    with Control(8123, answer):
        assert ask(8123, {"release": "/a"}, lines.append) == {"served": "/a"}
        assert socket_of(8123).parent.stat().st_mode & 0o077 == 0
    assert lines == ["the first step", "the second"]


def test_a_refusal_and_a_failure_are_one_line_for_who_asked_and_the_server_goes_on():
    def answer(request, say):
        if request["release"] == "bad":
            raise Refused("the release is damaged; publish it again")
        raise RuntimeError("broken\nwith a trace")

    with Control(8123, answer):
        with pytest.raises(Refused, match=r"^the release is damaged; publish it again$"):
            ask(8123, {"release": "bad"}, print)
        with pytest.raises(Refused, match=r"^RuntimeError: broken$"):
            ask(8123, {"release": "x"}, print)


def test_asking_a_port_without_a_server_returns_none_and_the_socket_of_a_killed_one_is_replaced():
    assert ask(8123, {}, print) is None
    control = Control(8123, lambda *_: {"from": "the killed one"})
    control.__enter__()
    control._server.shutdown()
    control._server.server_close()  # as when its process is killed: the file stays
    assert socket_of(8123).exists() and ask(8123, {}, print) is None
    with Control(8123, lambda *_: {"from": "the next"}):
        assert ask(8123, {}, print) == {"from": "the next"}
    assert not socket_of(8123).exists()


def test_a_server_that_is_killed_before_it_answers_is_one_line(home):
    (home / "mirepoix").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_of(8123)))
        listener.listen()

        def reset() -> None:
            listener.accept()[0].close()  # with what was sent unread, which resets the connection

        threading.Thread(target=reset).start()
        with pytest.raises(Refused, match=r"^the server at port 8123 ended before it answered; see what it printed$"):
            ask(8123, {"release": "/a" * 100}, print)


def test_who_asked_may_leave_before_it_is_done():
    asked, go, done = threading.Event(), threading.Event(), threading.Event()

    def answer(request, say):
        asked.set()
        assert go.wait(10)
        say("nobody listens")
        done.set()
        return {}

    with Control(8123, answer) as control:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control.path))
            connection.sendall(b'{"release": "/a"}\n')
            assert asked.wait(10)
        go.set()
        assert done.wait(10), "the work is not given up"


def test_a_folder_that_others_may_enter_is_refused(home):
    (home / "mirepoix").mkdir(mode=0o755)
    with pytest.raises(Refused, match="chmod 700"), Control(8123, lambda *_: {}):
        pass
    assert ask(8123, {}, print) is None, "who listens there may be anybody"
    (home / "mirepoix").chmod(0o700)
    with Control(8123, lambda *_: {}):
        pass


@pytest.mark.parametrize(
    ("started", "asked"),
    [("", "{home}/r"), ("{home}/r", ""), ("{home}/r", "{home}/other"), ("relative", "{home}/gone"), ("{home}/gone", "{home}/r")],
)
def test_a_server_is_found_from_another_environment_of_its_user(tmp_path, monkeypatch, started, asked):
    """As a service of systemd, which has no XDG_RUNTIME_DIR, from a login shell."""
    (tmp_path / "other").mkdir()
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / str(os.getuid())).symlink_to(tmp_path / "r")  # the folder of the login, where the variable is not passed on
    monkeypatch.setenv("XDG_RUNTIME_DIR", started.format(home=tmp_path))
    with Control(8123, lambda *_: {"from": "the server"}):
        monkeypatch.setenv("XDG_RUNTIME_DIR", asked.format(home=tmp_path))
        assert ask(8123, {}, print) == {"from": "the server"}


def test_a_request_that_is_meant_for_another_server_is_as_if_there_were_none():
    with Control(8123, lambda *_: None):
        assert ask(8123, {}, print) is None


def test_a_path_that_is_too_long_for_a_socket_is_not_taken(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setenv("XDG_CACHE_HOME", str(deep))
    assert len(bytes(socket_of(65535))) <= 107
