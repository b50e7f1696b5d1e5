"""A real Ray head for tests of jobs: its own ports, folder and token, disturbed by nothing and leaving nothing."""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Head:
    """A head that is up."""

    address: str  # of its dashboard, http://HOST:PORT
    gcs: str  # HOST:PORT, as RAY_ADDRESS takes it
    folder: Path
    token: Path | None
    env: dict[str, str]  # the environment of a process that may talk to it


def processes_of(folder: Path | str) -> dict[int, str]:
    """The processes of a Ray session by what they name of its folder: in their command line, their environment, or their open files."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            files = list(_open_files(entry))
            if (command.startswith("ray::") or "/ray/" in command) and any(str(folder) in text for text in (command, environment, *files)):
                found[int(entry.name)] = command
    return found


def _open_files(process: Path) -> Iterator[str]:
    """The open files of a process by its folder in /proc; one that is closed meanwhile is left out."""
    for each in (process / "fd").iterdir():
        with suppress(OSError):
            yield os.readlink(each)


def wait_until_gone(folder: Path | str, seconds: float) -> float:
    """Seconds until no process of a Ray session is left; fails after too many."""
    start = time.monotonic()
    while left := processes_of(folder):
        assert time.monotonic() - start < seconds, left
        time.sleep(0.2)
    return time.monotonic() - start


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


def plain_environment() -> dict[str, str]:
    """This process's environment without a trace of any Ray cluster, and with this Python's folder first; the niceness of workers stays."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == "RAY_worker_niceness"}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def head(token: bool | Path = True, num_cpus: int = 4, variables: dict[str, str] | None = None) -> Iterator[Head]:
    """A Ray head with a job server, `ray start --head` in a process of its own; its token is new, or the one in a file.

    A process has one token for all its Ray clients, so a test process that uses another cluster too gives that cluster's token file.
    """
    folder = Path(tempfile.mkdtemp(prefix="mx-head-", dir="/tmp"))
    env = plain_environment() | {"RAY_AUTH_MODE": "disabled"} | (variables or {})
    path = token if isinstance(token, Path) else folder / "token" if token else None
    if path == folder / "token":
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    if path:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    gcs, dashboard, agent, agent_grpc, environments, metrics, client = free_ports(7)
    options = {
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "runtime-env-agent-port": environments,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": folder / "ray",
        "num-cpus": num_cpus,
        "object-store-memory": 200_000_000,
    }
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "start", "--head", "--block", "--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=folder, env=env, stdout=log, stderr=log, preexec_fn=_end_with_parent)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        headers = {"Authorization": f"Bearer {path.read_text()}"} if path else {}
        _wait_for_agent(address, headers, process, folder / "log")
        host = socket.gethostbyname(socket.gethostname())
        yield Head(address, f"{host}:{gcs}", folder, path, env)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in processes_of(folder):
            _end(pid)
        wait_until_gone(folder, 20)
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    """In a child before it becomes something else: ask Linux for SIGTERM when the test process dies, however it dies."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait_for_agent(address: str, headers: dict[str, str], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/api/jobs/", headers=headers, timeout=5).status_code == 200:
                return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
