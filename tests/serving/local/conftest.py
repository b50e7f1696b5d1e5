"""Servers on this machine whose encoders take as long as a test wants."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mirepoix.serving.engine import fork_server
from mirepoix.serving.local.server import LocalServer
from mirepoix.serving.serve_config import ServeConfig
from tests.serving.local import stub_fork_server

StubServer = Callable[..., LocalServer]


@contextmanager
def stub_encoders(seconds: float) -> Iterator[None]:
    """Within the block encoders are those of `stub_fork_server`, which take so many seconds of the clock for an item."""

    def popen(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, stub_fork_server.__file__, command[-1], str(seconds)], **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fork_server, "subprocess", SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
        )
        yield


@pytest.fixture(scope="module")
def stub_server(release_folder) -> Iterator[StubServer]:
    """Starts a server of the release whose encoders take so many seconds an item; it is stopped after the module."""
    with ExitStack() as stack:

        def start(seconds: float, **settings: Any) -> LocalServer:
            server = LocalServer(ServeConfig(port=0, **settings))
            with stub_encoders(seconds):
                server.start(str(release_folder))
            stack.callback(server.stop)
            return server

        yield start


def until_whole(server: LocalServer) -> None:
    """Returns when all encoders of a server are there."""
    end = time.monotonic() + 20
    while server.current.now is None or not all(worker.alive for worker in server.current.now.batcher.workers):
        assert time.monotonic() < end, "an encoder that was killed does not come back"
        time.sleep(0.05)
