"""The tracking page on the storage in use."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.upkeep import mlflow_page
from tests.workflows.recipes.small_quickstart import ROOT, environment


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    return str(tmp_path)


def test_the_page_is_on_the_store_in_which_runs_are_tracked(storage):
    command = mlflow_page.server_command(storage, "127.0.0.1", 5001)
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{storage}/mlflow.db"
    assert command[-4:] == ["--host", "127.0.0.1", "--port", "5001"]


@pytest.mark.parametrize("uri", ["http://tracking:5000", "https://tracking", "databricks"])
def test_a_server_that_tracks_the_runs_has_its_own_page(storage, monkeypatch, capsys, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["mlflow", "--storage", storage]) == 2
    assert f"MLFLOW_TRACKING_URI, {uri}" in capsys.readouterr().err


def test_a_storage_in_which_nothing_was_tracked_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["mlflow", "--storage", str(tmp_path)]) == 2
    assert f"no run was tracked in {tmp_path}/mlflow.db" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_a_port_in_use_is_refused(storage, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["mlflow", "--storage", storage, "--port", str(port)]) == 2
    assert f"port {port} is in use" in capsys.readouterr().err


STUB = """
import http.server, os, sys
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        named = self.path == "/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=mirepoix"
        self.send_response(200 if named else 404)
        self.end_headers()
        self.wfile.write(b'{"experiment": {"experiment_id": "7"}}' if named else b"")

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
PAGE = """
import signal, sys
from mirepoix.workflows.__main__ import _terminated
from mirepoix.workflows.upkeep import mlflow_page
signal.signal(signal.SIGTERM, _terminated)
mlflow_page.server_command = lambda storage, host, port: [sys.executable, "-c", sys.argv[1], str(port)]
sys.exit(mlflow_page.mlflow_command("here", "127.0.0.1", int(sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_url_is_printed_once_the_page_answers_and_either_signal_ends_the_server(tmp_path, ctrl_c, number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", PAGE, STUB, str(port)]
    page = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert page.stdout.readline() == "starting the tracking page of here (about 15 seconds)\n"
    runs = f"http://127.0.0.1:{port}/#/experiments/7/runs?workflowType=machine_learning"
    assert page.stdout.readline() == f"its runs are at {runs}  (Ctrl-C or kill {page.pid} stops it)\n"
    os.kill(page.pid, number)
    assert page.communicate(timeout=30)[0] == "\nstopped\n" and page.returncode == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)


def test_the_page_itself_is_said_where_the_server_knows_no_experiment():
    assert mlflow_page.runs_page("http://127.0.0.1:9") == "http://127.0.0.1:9"


def test_of_what_the_server_writes_the_last_lines_are_kept():
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(5000)]; print(file=sys.stderr)"
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    said = mlflow_page._LastLines(server)
    server.wait(30)  # it would not end if its pipe were full
    assert said.last() == "line 4999" and len(said.lines) == 20
    server.stderr.close()


def test_a_server_that_ends_at_once_is_told_with_its_last_line(storage, monkeypatch):
    monkeypatch.setattr(mlflow_page, "server_command", lambda *_: [sys.executable, "-c", "raise SystemExit('the database is newer')"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Refused, match="did not start: the database is newer"):
        mlflow_page.mlflow_command(storage, "127.0.0.1", port)
