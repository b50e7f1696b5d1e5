"""Where each rank of a training is, so that a collective that a rank does not take part in ends in a line that names it.

A collective that times out, or whose connection breaks, says nothing of use: not which rank is missing, nor why. So each rank writes once a
second to a store of the process group where it is: its step, what it does there, and whether it waits in a collective. When a collective
fails on a rank, that rank looks for the others: those that write nothing any more are dead or stopped, and those that are behind, or do not
wait while others do, are the ones that are waited for. The first rank that knows writes it to the store, and all others say the same.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # compiled

from mirepoix.components.training.job import RefusedOnAllRanks
from mirepoix.components.training.workers.host import ADDRESS, StartAgain
from mirepoix.models.errors import Refused, typed_line

T = TypeVar("T")
BEAT_SECONDS = 1.0
"""Between two signs of life, and a tenth of the timeout at most."""
BEATS_MISSED = 3
"""A rank that gave no sign of life while so many were due is dead or stopped."""
ANSWER_SECONDS = 5.0
"""The store is in the process of rank 0; if it has not answered by then, that process is dead or stopped."""
STARTING, READING, COMPUTING, SAVING = "starting", "reading its batch", "computing", "saving a checkpoint"
ORDER = (STARTING, READING, COMPUTING, SAVING)
LEFT = "left"
VERDICT = "verdict"
COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/ray/train/")
"""The code of a frame that waits for other ranks."""
OWN = str(Path(__file__).parents[2])


class Watchdog:
    """The position of this rank, and those of the others; `step` and `phase` are set by the loop and written by a thread."""

    def __init__(self, timeout: float):
        self.rank, self.world, self.timeout = dist.get_rank(), dist.get_world_size(), timeout
        self.beat = min(BEAT_SECONDS, timeout / 10)
        self.who = (os.environ.get(ADDRESS) or socket.gethostname(), os.getpid())
        self._position: tuple[int, str] = (0, STARTING)
        self._moved = time.monotonic()
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._told = False
        self._beats = 0
        self._failed, self._waited = "", False
        if self.world == 1:
            return
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")  # of rank 0
        if self.rank == 0:
            self._server = TCPStore(host, 0, None, True, wait_for_workers=False)
        ranks: list[Any] = [None] * self.world
        dist.all_gather_object(ranks, (self.who, self._server.port if self.rank == 0 else 0))
        self.names = [f"rank {rank} (node {node}, pid {pid})" for rank, ((node, pid), _) in enumerate(ranks)]
        self._address = host, ranks[0][1]
        self._store = self._client()
        self._write()
        dist.barrier()
        self._thread = threading.Thread(target=self._beat, name="watchdog", daemon=True)
        self._thread.start()

    def at(self, step: int, phase: str) -> None:
        """Sets where this rank is."""
        self._position, self._moved = (step, phase), time.monotonic()

    def reading(self, batches: Iterator[T], step: Callable[[], int]) -> Iterator[T]:
        """The batches; this rank is reading while it waits for one, and computes with it afterwards."""
        while True:
            self.at(step(), READING)
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.at(step(), COMPUTING)
            yield batch

    def explained(self, error: Exception) -> str | None:
        """The line on the rank that a failed collective waited for; None for an error that is no failure of a collective."""
        if self.world == 1 or not _of_a_collective(error):
            self._failed = typed_line(error)
            return None
        self._waited = True
        no_answer: str | None = self._silent(0, f"{ANSWER_SECONDS:g} s", self._position[0])
        return self._answer(self._verdict, no_answer)

    def close(self, together: bool) -> None:
        """Writes for the last time where this rank is, or why it failed; `together`: all ranks leave, so the store may end with rank 0."""
        if self.world > 1:
            self._ended.set()
            self._answer(self._write, None)
            if together:
                dist.barrier()

    # In the thread, and in those that wait for the store

    def _client(self) -> Any:
        return TCPStore(*self._address, None, False, timeout=timedelta(seconds=ANSWER_SECONDS), wait_for_workers=False)

    def _beat(self) -> None:
        while not self._ended.wait(self.beat):
            try:
                self._write()
                late = time.monotonic() - self._moved
                if late >= self.timeout and not self._told and dist.get_backend() == "nccl":
                    # NCCL's own watchdog ends the process, without a word on who is missing and without an exception here.
                    self._told = True
                    print(self._verdict() or self._nobody(), file=sys.stderr, flush=True)
            except Exception:  # noqa: BLE001 the store went with rank 0; a collective fails too, and says so
                return

    def _write(self) -> None:
        self._beats += 1
        (step, phase), (waits, at) = self._position, self._place()
        status = {
            "beats": self._beats,
            "step": step,
            "phase": LEFT if self._ended.is_set() and not self._failed else phase,
            "waits": waits or self._waited,
            "at": at,
            "failed": self._failed,
        }
        self._store.set(f"rank {self.rank}", json.dumps(status))

    def _place(self) -> tuple[bool, str]:
        """Whether the loop waits in a collective, and the innermost line of ours that it is at."""
        frame, waits = sys._current_frames().get(self._main), False
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(OWN) and file != __file__:
                return waits, f"{os.path.basename(file)}:{frame.f_lineno}"
            waits = waits or any(place in file for place in COLLECTIVES)
            frame = frame.f_back
        return False, ""

    def _answer(self, ask: Callable[[], T], otherwise: T) -> T:
        """What the store answers, asked in a thread of its own: a store whose process is stopped may block for ever."""
        found: list[T] = []

        def asked() -> None:
            try:
                found.append(ask())
            except Exception:  # noqa: BLE001 there is no store any more
                return

        thread = threading.Thread(target=asked, daemon=True)
        thread.start()
        thread.join(ANSWER_SECONDS + (BEATS_MISSED + 1) * self.beat)
        return found[0] if found else otherwise

    def _verdict(self) -> str | None:
        """The line that all ranks say, which the first of them writes that knows; None if no rank is missing."""
        store = self._client()
        known = store.compare_set(VERDICT, "", "").decode()
        if known:
            return known
        before = self._positions(store)
        time.sleep(BEATS_MISSED * self.beat)
        line = self._missing(before, self._positions(store))
        return None if line is None else store.compare_set(VERDICT, "", line).decode()

    def _positions(self, store: Any) -> list[dict[str, Any]]:
        return [json.loads(each) for each in store.multi_get([f"rank {rank}" for rank in range(self.world)])]

    def _missing(self, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str | None:
        furthest = max((self._position, *((each["step"], each["phase"]) for each in after)), key=_progress)
        for rank, (first, last) in enumerate(zip(before, after, strict=True)):
            if last["failed"]:
                return f"{self.names[rank]} failed in step {last['step']}: {last['failed']}"
            if rank != self.rank and first["beats"] == last["beats"] and last["phase"] != LEFT:
                return self._silent(rank, f"{BEATS_MISSED * self.beat:g} s", furthest[0])
        ahead = any(each["waits"] for each in after)
        late = [
            (_progress((each["step"], each["phase"])), rank)
            for rank, each in enumerate(after)
            if rank != self.rank and (_progress((each["step"], each["phase"])) < _progress(furthest) or (ahead and not each["waits"]))
        ]
        if not late:
            return None
        _, rank = min(late)
        last = after[rank]
        at = f", at {last['at']}" if last["at"] else ""
        return (
            f"{self.names[rank]} did not take part in step {furthest[0]} within {self.timeout:g} s (it was {last['phase']}{at}); "
            "look at that node and at what it reads from, or raise collective_timeout if a step may take so long"
        )

    def _silent(self, rank: int, seconds: str, step: int) -> str:
        return (
            f"{self.names[rank]} is dead or stopped in step {step}: it has given no sign of life for {seconds}; "
            "see the log of that node: it may be out of memory, or was taken away"
        )

    def _nobody(self) -> str:
        step, phase = self._position
        return f"rank {self.rank} has not gone on from step {step} ({phase}) for {self.timeout:g} s, and no other rank is behind it"


def _progress(position: tuple[int, str]) -> tuple[int, int]:
    step, phase = position
    return step, ORDER.index(phase) if phase in ORDER else len(ORDER)


def _of_a_collective(error: Exception) -> bool:
    """Whether an exception was raised while waiting for other ranks."""
    return any(place in frame.filename for frame in traceback.extract_tb(error.__traceback__) for place in COLLECTIVES)


@contextmanager
def watching(timeout: float) -> Iterator[Watchdog]:
    """A watchdog for a block; a collective that fails in it is refused in the line that names the rank that was missing.

    Entered and left on all ranks together, as the store is there before the first collective that could fail.
    """
    watchdog, together = Watchdog(timeout), False
    try:
        yield watchdog
        together = True
    except (StartAgain, RefusedOnAllRanks):
        together = True
        raise
    except Exception as error:
        line = None if isinstance(error, Refused) else watchdog.explained(error)
        if line is None:
            raise
        raise Refused(line) from error
    finally:
        watchdog.close(together)


def limit_collectives(timeout: float) -> None:
    """Gives every process group that there is a timeout: DeepSpeed makes groups of its own, with the 30 minutes of gloo."""
    from torch.distributed.distributed_c10d import _set_pg_timeout, _world

    for group in list(_world.pg_map):
        _set_pg_timeout(timedelta(seconds=timeout), group)
