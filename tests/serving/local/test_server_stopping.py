"""A server that is stopped while it opens a release ends at once, and leaves no process and no record behind."""

import asyncio
import os
import shutil
import signal
import threading

import pytest

from mirepoix.serving.engine.process import ProcessWorker
from mirepoix.serving.heartbeat import LEASES
from mirepoix.serving.local.server import LocalServer
from mirepoix.serving.serve_config import ServeConfig


def test_a_server_is_stopped_while_a_release_is_opened(release_folder, tmp_path, monkeypatch, ctrl_c):
    target = shutil.copytree(release_folder, tmp_path / "artefacts" / "release" / "d6f2141438d96255")
    opening, closed = threading.Event(), []

    async def start(self: ProcessWorker) -> list[str]:
        assert len(list((tmp_path / LEASES).iterdir())) == 1
        opening.set()
        await asyncio.sleep(60)
        return []

    async def close(self: ProcessWorker) -> None:
        closed.append(self)

    def interrupt() -> None:
        assert opening.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProcessWorker, "start", start)
    monkeypatch.setattr(ProcessWorker, "close", close)
    server = LocalServer(ServeConfig(port=0))
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        server.start(str(target))
    assert len(closed) == 1 and not list((tmp_path / LEASES).iterdir())
