"""The command `mlflow`: the tracking page of MLflow on the store in which the runs of a storage are tracked."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from mirepoix.models.errors import Refused
from mirepoix.workflows.runner.tracking import EXPERIMENT, QUIET, tracking_uri

START_SECONDS = 120.0
REMOTE = ("http://", "https://", "databricks")


def mlflow_command(storage: str, host: str, port: int) -> int:
    """Starts the page, prints the address of the table of runs, and stops it at Ctrl-C or SIGTERM."""
    command = server_command(storage, host, port)
    _refuse_taken(host, port)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"starting the tracking page of {storage} (about 15 seconds)", flush=True)
    server = subprocess.Popen(
        command, env=_environment(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    said = _LastLines(server)
    try:
        _await(server, url, said)
        print(f"its runs are at {runs_page(url)}  (Ctrl-C or kill {os.getpid()} stops it)", flush=True)
        return server.wait()
    except (KeyboardInterrupt, SystemExit):  # the command line makes an exit of SIGTERM
        print("\nstopped")
        return 0
    finally:
        _stop(server)


def runs_page(url: str) -> str:
    """The address of the table of runs; the page itself where the server does not say which experiment they are of.

    By itself MLflow opens an experiment on an overview of traces of language models, of which there are none.
    """
    try:
        with urllib.request.urlopen(f"{url}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}", timeout=10) as reply:
            number = json.load(reply)["experiment"]["experiment_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return url
    return f"{url}/#/experiments/{number}/runs?workflowType=machine_learning"


def server_command(storage: str, host: str, port: int) -> list[str]:
    """The command that starts MLflow's server; refused where a server is given already, and where nothing was tracked yet."""
    uri = tracking_uri(storage)
    if uri.startswith(REMOTE):
        raise Refused(f"runs are tracked at MLFLOW_TRACKING_URI, {uri}, which has a page of its own: open it, or unset the variable")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise Refused(f"no run was tracked in {uri.removeprefix('sqlite:///')} yet; give --storage the folder or URI that runs were given")
    return [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", uri, "--host", host, "--port", str(port)]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The user's environment; what it leaves open is set so that MLflow sends no telemetry."""
    return {**QUIET, **given}


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refused(f"port {port} is in use; stop what listens there, or give another --port") from None
            raise Refused(f"the page cannot listen on {host}:{port} ({error.strerror}); give another --host or --port") from None


class _LastLines:
    """Reads what a server writes as long as it runs, and keeps the last lines of it."""

    def __init__(self, server: subprocess.Popen[bytes]):
        self.lines: deque[bytes] = deque(maxlen=20)
        assert server.stderr is not None
        self._thread = threading.Thread(target=lambda: self.lines.extend(server.stderr or ()), name="mlflow", daemon=True)
        self._thread.start()

    def last(self) -> str:
        """The last line that is not blank, of a server that has ended."""
        self._thread.join(5)
        lines = [text for line in self.lines if (text := line.decode(errors="replace").strip())]
        return lines[-1] if lines else ""


def _await(server: subprocess.Popen[bytes], url: str, said: _LastLines) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise Refused(f"MLflow's server did not start: {said.last() or f'exit status {server.returncode}'}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise Refused(f"MLflow's server did not answer at {url} within {START_SECONDS:.0f} seconds; look at what else the machine does")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers, which are a process group of their own."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, end)
        except ProcessLookupError:
            return
        try:
            server.wait(5)
            return
        except subprocess.TimeoutExpired:
            continue
