"""An encoder in a child process gives what one in this process gives, is started again when it is killed, and says why it is refused."""

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.batcher import Batcher, EncoderDied
from mirepoix.serving.engine.child import Opening
from mirepoix.serving.engine.fork_server import ForkServer
from mirepoix.serving.engine.process import ProcessWorker
from mirepoix.serving.engine.work import EncodeRequest
from mirepoix.serving.release import open_release, read_release
from mirepoix.serving.store import publish
from tests.serving.fixtures import drawing
from tests.serving.load import parent

ITEMS = [Item("a", "a red disc"), Item("b", images=(drawing("bar", 0.3),))]


def opening(folder: Path) -> Opening:
    return Opening(str(folder), read_release(folder).version, False, 0, 1)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_child_encodes_as_this_process_does_and_after_a_kill_another_one_does(release_folder):
    expected = open_release(release_folder).open_encoder().encode(ITEMS, role="query").rows_NTD[:, 0].numpy()

    async def work():
        fork_server = ForkServer(threads=1)
        worker = ProcessWorker(opening(release_folder), fork_server)
        await fork_server.learn(await worker.start())
        batcher = Batcher([worker], BatchConfig())
        first = worker.pid
        assert worker.alive and first
        (before,) = [await batcher.encode(ITEMS, "query")]
        refused = await worker.encode([EncodeRequest([Item("v", video=(drawing("bar", 0.1),))], "query")])
        waiting = asyncio.create_task(batcher.encode(ITEMS, "query"))
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        after = await waiting
        second = worker.pid
        os.kill(parent(second), signal.SIGKILL)
        os.kill(second, signal.SIGKILL)
        assert len(await batcher.encode(ITEMS, "query")) == 2, "the fork server that was killed too is started again"
        third = worker.pid
        await batcher.close()
        await worker.close()
        await fork_server.close()
        return before, refused, after, {first, second, third}

    before, refused, after, pids = asyncio.run(work())
    for encoded in (before, after):
        assert np.abs(np.stack([one.rows_TD[0] for one in encoded]) - expected).max() < 1e-5
        assert encoded[0].tokens > 3
    assert isinstance(refused[0], str)
    assert len(pids) == 3 and all(map(ended, pids))


def test_a_child_that_ends_while_nothing_is_asked_of_it_is_replaced_and_one_that_does_not_answer_too(release_folder):
    async def work():
        fork_server = ForkServer(threads=1)
        worker = ProcessWorker(opening(release_folder), fork_server)
        await worker.start()
        os.kill(parent(worker.pid), signal.SIGTERM)  # as systemd does to the whole group; the server ends them after their requests
        os.kill(first := worker.pid, signal.SIGTERM)
        (encoded,) = await worker.encode([EncodeRequest(ITEMS, "query")])
        assert len(encoded) == len(ITEMS) and worker.pid == first
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not worker.alive or worker.pid == first:
                await asyncio.sleep(0.01)
        worker.answer_s = 0.5
        os.kill(second := worker.pid, signal.SIGSTOP)
        with pytest.raises(EncoderDied, match="does not answer"):
            await worker.encode([EncodeRequest(ITEMS, "query")])
        worker.answer_s = 60.0
        await worker.revive()
        (encoded,) = await worker.encode([EncodeRequest(ITEMS, "query")])
        third = worker.pid
        await worker.close()
        await fork_server.close()
        assert len(encoded) == len(ITEMS)
        return {first, second, third}

    pids = asyncio.run(work())
    assert len(pids) == 3 and all(map(ended, pids))


def test_a_release_that_does_not_reproduce_its_golden_vectors_is_refused_by_the_child_in_one_line(release_folder, tmp_path):
    draft = shutil.copytree(release_folder, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    golden = json.loads((draft / "golden.json").read_text())
    (draft / "golden.json").write_text(json.dumps({**golden, "vectors": golden["vectors"][::-1]}))
    publish(draft, tmp_path / "release", {})

    async def work():
        fork_server = ForkServer(threads=1)
        worker = ProcessWorker(opening(tmp_path / "release"), fork_server)
        with pytest.raises(Refused, match="golden item 'text-00' comes out at cosine") as refused:
            await worker.start()
        assert "\n" not in str(refused.value) and worker.pid is None
        await fork_server.close()

    asyncio.run(work())


def test_a_child_that_died_comes_back_though_the_index_has_changed_and_not_where_another_release_was_made_in_its_place(
    release_folder, other_release, tmp_path, caplog
):
    release = Path(shutil.copytree(release_folder, tmp_path / "release"))

    async def work():
        fork_server = ForkServer(threads=1)
        worker = ProcessWorker(opening(release), fork_server)
        await worker.start()
        index = next(file for file in (release / "index").rglob("*") if file.is_file())
        index.write_bytes(bytes(index.stat().st_size))
        os.kill(first := worker.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not worker.alive or worker.pid == first:
                await asyncio.sleep(0.01)
        publish(shutil.copytree(other_release, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json")), release, {}, True)
        os.kill(worker.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert not worker.alive
        await worker.close()
        await fork_server.close()

    asyncio.run(work())
    old, new = (read_release(folder).version for folder in (release_folder, other_release))
    (line,) = caplog.messages
    assert line.endswith(f"{release} holds version {new} now, and version {old} was opened; swap to what is there (mirepoix serve)")
