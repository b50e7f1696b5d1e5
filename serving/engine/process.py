"""An encoder in a child process, which is started again when it dies: as the server on one machine has it.

The server's own process imports no torch, answers while an encoder computes, and outlives an encoder that is killed, runs out of memory or
crashes in a library.
"""

import asyncio
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mirepoix
from mirepoix.models.errors import Refused
from mirepoix.serving.engine.batcher import EncoderDied
from mirepoix.serving.engine.child import LENGTH, Fault, Opening, packed
from mirepoix.serving.engine.work import Encoded, EncodeRequest

_LOG = logging.getLogger(__name__)
PAUSES = (0.0, 1.0, 5.0, 15.0)
"""Seconds before the next start, after so many starts that failed."""
END_SECONDS = 5.0


class EncoderFault(Exception):
    """A failure of the encoder that is no refusal; its trace is in the log."""


class ProcessWorker:
    """Encodes in a child process."""

    def __init__(self, opening: Opening, died: Callable[[], None] | None = None):
        self.opening = opening
        self._died = died
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child has proved its encoder, and has not ended."""
        return self._ready and self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Returns when the child has proved its encoder; Refused where it has not."""
        try:
            await self._start()
        except EncoderDied as died:
            raise Refused(f"the encoder's process ended while it opened {self.opening.target}: {died}") from died

    async def encode(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        """A dead child is started anew first; EncoderDied where it dies over this batch."""
        await self._revived()
        try:
            answer = await self._asked(requests)
        except (asyncio.IncompleteReadError, ConnectionError) as gone:
            await self._end()
            if self._died is not None:
                self._died()
            raise EncoderDied("the encoder's process has ended") from gone
        if isinstance(answer, Fault):
            _LOG.error("a batch could not be encoded\n%s", answer.trace)
            raise EncoderFault(answer.line)
        encoded: list[list[Encoded] | str] = answer
        return encoded

    async def close(self) -> None:
        """Ends the child."""
        await self._end()

    async def _revived(self) -> None:
        for tries in range(1_000_000):
            if self._streams is not None:
                return
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            try:
                await self._start()
            except (EncoderDied, EncoderFault, Refused) as error:
                _LOG.error("an encoder that had died does not start again: %s", error)

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "mirepoix.serving.engine.child", str(theirs.fileno())]
            threads = str(self.opening.threads)
            paths = os.pathsep.join(filter(None, [_root(), os.environ.get("PYTHONPATH")]))
            environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
            self._process = await asyncio.to_thread(
                subprocess.Popen, command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
            )
        self._streams = await asyncio.open_unix_connection(sock=ours, limit=1 << 26)
        try:
            refusal = await self._asked(self.opening)
        except (asyncio.IncompleteReadError, ConnectionError):
            status = await self._end()
            raise EncoderDied(f"exit status {status}") from None
        except BaseException:
            await self._end()
            raise
        if refusal is not None:
            await self._end()
            if isinstance(refusal, Fault):
                _LOG.error("the encoder cannot be opened\n%s", refusal.trace)
                raise Refused(refusal.line)
            raise Refused(refusal)
        self._ready = True

    async def _asked(self, message: Any) -> Any:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(packed(message))
        await writer.drain()
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return pickle.loads(await reader.readexactly(size))

    async def _end(self) -> int | None:
        """Hangs up, and waits for the child; one that does not end is killed."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
        self._ready = False
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return await asyncio.to_thread(process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                process.kill()
            return await asyncio.to_thread(process.wait)


def _root() -> str:
    """The folder that the package is imported from, installed or not."""
    assert mirepoix.__file__ is not None
    file = Path(mirepoix.__file__)
    return str(file.parent.parent if file.name == "__init__.py" else file.parent)
