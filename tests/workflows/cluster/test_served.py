"""Which servers a storage has a record of, and where they are named: a port in use, a search that nothing answers, an addition."""

import json
import os
import socket
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.heartbeat import served_mark
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.cluster.served import ServedRelease, served_releases, server_at, servers_of
from mirepoix.workflows.commands import serve as command
from mirepoix.workflows.commands.serve_request import ServeRequest
from mirepoix.workflows.storage import bases_of
from tests.workflows.upkeep.storages import make_result, make_run, target

URL = "http://127.0.0.1:8123"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A storage with a release and two that were made of it, one after the other."""
    home = str(tmp_path / "storage")
    monkeypatch.setenv("MIREPOIX_STORAGE", home)
    for number, name in enumerate("abc"):
        make_result(home, name, "release")
        bases = [target(home, other, "release") for other in reversed("abc"[:number])]
        make_run(home, number, {name: "release"}, recipe="add" if number else "search", bases=bases)
    return home


def test_a_server_is_told_once_by_its_replicas_and_its_command_which_is_what_stops_it(storage):
    release = target(storage, "a", "release")
    with served_mark(release, URL):
        assert served_releases([storage, None, storage]) == [ServedRelease(URL, release, True, None)]
        with served_mark(release, URL, command=True) as mark:
            assert served_releases([storage]) == [ServedRelease(URL, release, True, os.getpid())]
            assert server_at(8123, [storage]).name == release, "a release that cannot be read is named by its folder"
            assert server_at(8124, [storage]) is None
            record = json.loads(Path(mark.target).read_text()) | {"machine": "elsewhere"}
            Path(mark.target).write_text(json.dumps(record))
            assert served_releases([storage]) == [ServedRelease(URL, release, True, None)], "no process of this machine"
    assert served_releases([storage]) == []


def test_a_server_elsewhere_has_no_port_of_this_machine(storage):
    with served_mark(target(storage, "a", "release"), URL) as mark:
        Path(mark.target).write_text(json.dumps(json.loads(Path(mark.target).read_text()) | {"machine": "elsewhere"}))
        assert len(served_releases([storage])) == 1 and server_at(8123, [storage]) is None


def test_the_servers_of_a_release_and_of_those_that_it_was_made_of(storage):
    chain = bases_of(target(storage, "c", "release"))
    assert chain == [target(storage, name, "release") for name in "cba"]
    with served_mark(chain[-1], URL):
        assert [server.url for server in servers_of(chain)] == [URL]
        assert servers_of(chain[:2]) == []


def test_a_port_that_a_server_of_the_storage_has_is_refused_with_its_release_and_its_process(storage):
    release = target(storage, "a", "release")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"^port {port} is in use; stop what listens there, or give another --port$"):
            command._refuse_taken(ServeConfig(port=port), [storage])
        with (
            served_mark(release, f"http://127.0.0.1:{port}", command=True),
            pytest.raises(Refused, match=f"port {port} is in use: {release} is served there, at .*; stop it .kill {os.getpid()}.") as said,
        ):
            command._refuse_taken(ServeConfig(port=port), [storage])
        assert "it did not answer at its control socket: swap it as the user" in str(said.value)
        with served_mark(release, f"http://127.0.0.1:{port}"), pytest.raises(Refused, match=r"; stop it, or give another --port$"):
            command._refuse_taken(ServeConfig(port=port), [storage])  # an endpoint of `deploy` has no control socket


def test_a_search_that_nothing_answers_names_the_server_of_the_storage_unless_an_address_was_given(storage, capsys, monkeypatch):
    from mirepoix.serving.http import client

    def nothing(url, *_):
        raise client.NoAnswer(f"nothing answers at {url}; start the server first, or give its --url")

    monkeypatch.setattr(client, "search_endpoint", nothing)
    with served_mark(target(storage, "a", "release"), URL):
        assert main(["search", "stars"]) == 2
        assert capsys.readouterr().err == (
            f"mirepoix: nothing answers at http://127.0.0.1:8000; a release of {storage} is served elsewhere: give --url {URL} "
            f"({target(storage, 'a', 'release')})\n"
        )
        assert main(["search", "stars", "--url", "http://127.0.0.1:9"]) == 2
        assert capsys.readouterr().err == "mirepoix: nothing answers at http://127.0.0.1:9; start the server first, or give its --url\n"
    assert main(["search", "stars"]) == 2
    assert capsys.readouterr().err == "mirepoix: nothing answers at http://127.0.0.1:8000; start the server first, or give its --url\n"


def test_the_command_serve_is_recorded_with_what_it_serves_now_while_it_waits(storage):
    first, second = (target(storage, name, "release") for name in "ab")
    served = command._Served(ServeRequest(first, storage), first, URL, lambda *_: {"name": "b", "version": "2", "pause_s": 0.0})
    assert served_releases([storage]) == [ServedRelease(URL, first, True, os.getpid())]
    assert served.answer({"release": second}, print)["url"] == URL
    assert served_releases([storage]) == [ServedRelease(URL, second, True, os.getpid())]
    served.close()
    assert served_releases([storage]) == []
    outside = command._Served(ServeRequest("/no storage/release", storage), "/no storage/release", URL, lambda *_: {})
    assert served_releases([storage]) == []
    outside.close()
