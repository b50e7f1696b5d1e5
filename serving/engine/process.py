"""An encoder in a child process, which is started again when it dies: as the server on one machine has it.

The server's own process imports no torch, answers while an encoder computes, and outlives an encoder that is killed, runs out of memory or
crashes in a library. The kernel tells when a child ends, so that it is replaced also where no request comes. One that does not answer is
killed.
"""

import asyncio
import logging
import os
import pickle
import select
import signal
import socket
from contextlib import suppress
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.engine.batcher import EncoderDied, TooSlow
from mirepoix.serving.engine.child import LENGTH, Fault, Opening, Ready, packed
from mirepoix.serving.engine.fork_server import ForkServer
from mirepoix.serving.engine.work import Encoded, EncodeRequest

_LOG = logging.getLogger(__name__)
PAUSES = (0.0, 1.0, 5.0, 15.0)
"""Seconds before the next start, after so many starts that failed."""
END_SECONDS = 5.0
"""A child sees the hang-up after the batch that it encodes; nobody waits for that any longer, so one that takes longer is killed."""
START_SECONDS, ANSWER_SECONDS = 300.0, 60.0
"""The longest that a child may take to open its release, and to encode a batch, unless others are given."""


class EncoderFault(Exception):
    """A failure of the encoder that is no refusal; its trace is in the log."""


class ProcessWorker:
    """Encodes in a child process."""

    def __init__(self, opening: Opening, fork_server: ForkServer, start_s: float = START_SECONDS, answer_s: float = ANSWER_SECONDS):
        self.opening, self.fork_server, self.start_s, self.answer_s = opening, fork_server, start_s, answer_s
        self._reading = asyncio.Lock()
        self._turn = asyncio.Lock()  # of whoever speaks with the child, or replaces it
        self._replacing: asyncio.Task[None] | None = None
        self.pid: int | None = None  # of the child; None while there is none
        self._handle: int | None = None  # by which the kernel tells whether it has ended
        self._proved = False
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def alive(self) -> bool:
        """Whether the child has proved its encoder, and has not ended."""
        return self._proved and self._handle is not None and not _ended(self._handle, 0)

    @property
    def ahead(self) -> bool:
        """The next batch lies in the socket when the child has encoded one."""
        return True

    async def start(self) -> list[str]:
        """Returns when the child has proved its encoder, with the names of the modules that it has imported; Refused where it has not."""
        try:
            return await self._start()
        except EncoderDied as died:
            raise Refused(f"the encoder's process ended while it opened {self.opening.target}: {died}") from died

    async def encode(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        """EncoderDied where the child dies over this batch, does not answer, or was dead already."""
        async with self._turn:
            streams = self._streams
            if not self.alive or streams is None:
                raise EncoderDied("the encoder's process has ended")
            streams[1].write(packed(requests))
        async with self._reading:  # in the order of the batches
            if self._streams is not streams:
                raise EncoderDied("the encoder's process has ended")
            try:
                async with asyncio.timeout(self.answer_s):
                    answer = await _answer(streams[0])
            except (asyncio.IncompleteReadError, ConnectionError) as gone:
                if self._streams is streams:  # or else another child is there already
                    await self._end()
                raise EncoderDied("the encoder's process has ended") from gone
            except TimeoutError as late:
                _LOG.error("an encoder has not answered for %g seconds, and is replaced", self.answer_s)
                if self._streams is streams:
                    await self._end(0.0)
                raise TooSlow("the encoder's process does not answer") from late
        if isinstance(answer, Fault):
            _LOG.error("a batch could not be encoded\n%s", answer.trace)
            raise EncoderFault(answer.line)
        encoded: list[list[Encoded] | str] = answer
        return encoded

    async def revive(self) -> None:
        """Starts a child anew where the last one has died, and tries it again until one has proved its encoder."""
        async with self._turn:
            await self._revived()

    async def close(self) -> None:
        """Ends the child."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        await self._end()

    async def _revived(self) -> None:
        tries = 0
        while not self.alive:
            await self._end()
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
            try:
                await self._start()
            except Exception as error:  # noqa: BLE001 whatever it is, such as no memory for a process, it is tried again
                _LOG.error("an encoder that had died does not start again: %s", str(error) or type(error).__name__)

    def _noticed(self) -> None:
        """The child has ended: another one is started, whether or not a request comes."""
        if self._handle is not None:
            asyncio.get_running_loop().remove_reader(self._handle)
        self._replacing = asyncio.create_task(self.revive())

    async def _start(self) -> list[str]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.pid = await self.fork_server.child(theirs)
            self._streams = await asyncio.open_unix_connection(sock=ours, limit=1 << 26)
        except BaseException:
            ours.close()
            raise
        try:
            self._handle = os.pidfd_open(self.pid)
            async with asyncio.timeout(self.start_s):
                answer = await self._asked(self.opening)
        except TimeoutError:
            await self._end(0.0)
            raise Refused(f"the encoder of {self.opening.target} was not opened within {self.start_s:g} seconds") from None
        except (asyncio.IncompleteReadError, ConnectionError, ProcessLookupError):
            await self._end()
            raise EncoderDied("it was killed, or crashed in a library") from None
        except BaseException:
            await self._end(0.0)  # it opens a release, and would not see that nobody listens any longer
            raise
        if isinstance(answer, Ready):
            self._proved = True
            asyncio.get_running_loop().add_reader(self._handle, self._noticed)
            return answer.modules
        await self._end()
        if isinstance(answer, Fault):
            _LOG.error("the encoder cannot be opened\n%s", answer.trace)
            raise Refused(answer.line)
        raise Refused(answer)

    async def _asked(self, message: Any) -> Any:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(packed(message))
        await writer.drain()
        return await _answer(reader)

    async def _end(self, seconds: float = END_SECONDS) -> None:
        """Hangs up, and waits for the child; one that does not end in so many seconds is killed."""
        (streams, self._streams), (handle, self._handle), self.pid = (self._streams, None), (self._handle, None), None
        self._proved = False
        if streams is not None:
            streams[1].close()
        if handle is not None:
            asyncio.get_running_loop().remove_reader(handle)
            try:
                if not await asyncio.to_thread(_ended, handle, seconds):
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                    await asyncio.to_thread(_ended, handle, None)
            finally:
                os.close(handle)


async def _answer(reader: asyncio.StreamReader) -> Any:
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(size))


def _ended(handle: int, seconds: float | None) -> bool:
    """Whether a process ends within so many seconds; None: waits for it."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))
