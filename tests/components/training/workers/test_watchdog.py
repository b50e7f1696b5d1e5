"""A collective that a rank does not take part in ends in a line that names the rank: one that is late, stopped or dead, or that failed."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mirepoix.components.training.workers.watchdog import limit_collectives, watching
from mirepoix.models.errors import Refused
from tests.ranks import PRELOADED

TIMEOUT = 2.0
WORLD = 3


def rank(number: int, folder: Path, what: str, culprit: int, timeout: float) -> None:
    """Five steps of one collective, in the third of which a rank does something else."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=WORLD)
    group = dist.new_group()  # as DeepSpeed makes them: with the default timeout of gloo, 30 minutes
    step = 0

    def batches():
        while True:
            if step == 3 and number == culprit and what != "computing":
                _hinder(what)
            yield torch.ones(1)

    said = "nothing"
    try:
        with watching(timeout) as watchdog:
            limit_collectives(timeout)
            read = watchdog.reading(batches(), lambda: step)
            for step in range(1, 6):
                batch = next(read)
                if step == 3 and number == culprit and what == "computing":
                    time.sleep(60)
                dist.all_reduce(batch, group=group)
    except Refused as refusal:
        said = str(refusal)
    except ValueError as error:
        said = f"its own {error}"
    (folder / f"{number}.json").write_text(json.dumps([os.getpid(), said]))
    time.sleep(3 if number == 0 else 0)  # the store of the group is in the process of rank 0
    os._exit(0)


def _hinder(what: str) -> None:
    if what == "fails":
        raise ValueError("no such picture")
    if what == "reading":
        time.sleep(60)
    os.kill(os.getpid(), {"stopped": signal.SIGSTOP, "dead": signal.SIGKILL}[what])


def lines(folder: Path, what: str, culprit: int, timeout: float = TIMEOUT) -> tuple[dict[int, str], int]:
    """What the other ranks say, and the culprit's process id."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    ranks = [context.Process(target=rank, args=(number, folder, what, culprit, timeout), daemon=True) for number in range(WORLD)]
    for each in ranks:
        each.start()
    others = [number for number in range(WORLD) if number != culprit or what == "fails"]
    for number in others:
        ranks[number].join(60)
    pid = ranks[culprit].pid
    for each in ranks:
        each.kill()
    return {number: json.loads((folder / f"{number}.json").read_text())[1] for number in others}, pid


@pytest.mark.parametrize(
    ("what", "culprit", "expected"),
    [
        (
            "reading",
            1,
            r"rank 1 \(node \S+, pid PID\) did not take part in step 3 within 2 s \(it was reading its batch\); look at that node",
        ),
        (
            "computing",
            2,
            r"rank 2 \(node \S+, pid PID\) did not take part in step 3 within 2 s \(it was computing\); .*raise collective_timeout",
        ),
        ("stopped", 1, r"rank 1 \(node \S+, pid PID\) is dead or stopped in step 3: it has given no sign of life for 0\.6 s; see the log"),
        ("dead", 2, r"rank 2 \(node \S+, pid PID\) is dead or stopped in step 3: it has given no sign of life for 0\.6 s; see the log"),
        ("stopped", 0, r"rank 0 \(node \S+, pid PID\) is dead or stopped in step 3: it has given no sign of life for 5 s; see the log"),
    ],
)
def test_all_others_name_the_rank_that_was_missing(tmp_path, what, culprit, expected):
    said, pid = lines(tmp_path, what, culprit)
    assert len(said) == WORLD - 1 and len(set(said.values())) == 1, said
    for line in said.values():
        assert re.match(expected.replace("PID", str(pid)), line), line
        assert "\n" not in line


def test_a_rank_that_failed_keeps_its_error_and_the_others_say_it(tmp_path):
    said, pid = lines(tmp_path, "fails", 1)
    assert said[1] == "its own no such picture"
    for number in (0, 2):
        assert re.match(rf"rank 1 \(node \S+, pid {pid}\) failed in step 3: ValueError: no such picture", said[number]), said
