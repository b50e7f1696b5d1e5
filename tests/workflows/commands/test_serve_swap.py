"""A server of the command line is swapped and rolled back by other commands and by the alias that it follows, and no request fails."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirepoix.serving.release import open_release
from mirepoix.serving.store import publish
from mirepoix.workflows.upkeep import promotion
from tests.serving.conftest import encoder_folder, other_release, parts, release_folder, truth
from tests.serving.fixtures import free_port
from tests.serving.load import LIGHT, Checker, Load, encoders, unharmed, unordered
from tests.workflows.upkeep.storages import key_of, target

__all__ = ["encoder_folder", "other_release", "parts", "release_folder", "truth"]


@pytest.fixture
def storage(release_folder, other_release, tmp_path, monkeypatch):
    """A storage with both releases; MLflow is left out."""
    monkeypatch.setattr(promotion, "follow", lambda *_: "")
    home = tmp_path / "storage"
    for name, folder in (("old", release_folder), ("new", other_release)):
        draft = shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("manifest.json"))
        publish(
            draft,
            target(str(home), name, "release"),
            {"stage": "release", "name": "release", "key": key_of(name), "created": 1.0, "run_id": None},
        )
    return str(home)


class Served:
    """`mirepoix serve` in a process of its own, and what it printed."""

    def __init__(self, output: Path, *words: str):
        self.port, self._output = free_port(), output
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "mirepoix.workflows", "serve", *words, "--port", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": os.getcwd()}
        with output.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        self.pid = self._process.pid

    @property
    def printed(self) -> str:
        return self._output.read_text()

    def until(self, words: str, times: int = 1) -> None:
        """Returns when it has printed these words so often."""
        end = time.monotonic() + 60
        while self.printed.count(words) < times:
            assert self._process.poll() is None and time.monotonic() < end, self.printed
            time.sleep(0.05)

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()


def test_another_command_and_the_alias_swap_what_is_served_and_roll_it_back_and_no_request_fails(
    cli, storage, release_folder, other_release, truth, tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # of the cluster of other tests, where this server is not
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    old, new = (open_release(folder).version for folder in (release_folder, other_release))
    assert cli("releases", "promote", old, "--alias", "champion", "--storage", storage)[0] == 0
    server = Served(tmp_path / "printed", "@champion", "--storage", storage)
    try:
        server.until("is followed")
        with Checker(server.url, truth, pause=0.1) as checker, Load(server.url, *LIGHT) as load:
            time.sleep(0.5)
            for words, version in (([new], new), (["--rollback"], old)):
                status, out, err = cli("serve", *words, "--storage", storage, "--port", str(server.port))
                assert status == 0, err
                assert f"tiny {version} is served at {server.url}, by the server that was there (pid {server.pid})" in out
            time.sleep(0.3)
            for words, version in (("promote", new, "--alias", "champion"), new), (("rollback",), old):
                assert cli("releases", *words, "--storage", storage)[0] == 0
                server.until(f"tiny {version} is served at {server.url} now", times=2)
                time.sleep(0.3)
        assert checker.seen == [old, new, old, new, old]
        assert not unordered(unharmed(load.report, 15), (old, new, old, new, old))
        assert len(encoders(server.pid)) == 1
    finally:
        assert server.stop() == 0
    assert server.printed.endswith("\nstopped\n") and "Traceback" not in server.printed
