"""The server on one machine: the application and the index in this process, and encoders in child processes.

The port is open before the release is read: `/live` answers, and everything else says that the server is starting. Beside the port there is
a socket for this user alone, `control`, by which another command swaps the release.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import uvicorn
import uvloop

from mirepoix.models.errors import Refused
from mirepoix.serving.engine.batcher import Batcher
from mirepoix.serving.engine.child import Opening
from mirepoix.serving.engine.current import CurrentRelease, OpenRelease, about
from mirepoix.serving.engine.fork_server import ForkServer
from mirepoix.serving.engine.memory import Room, available, needed
from mirepoix.serving.engine.process import ProcessWorker
from mirepoix.serving.engine.telemetry.metrics import Figures
from mirepoix.serving.engine.telemetry.tracing import Tracer, traces_endpoint
from mirepoix.serving.heartbeat import Mark
from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.cl100k import open_table
from mirepoix.serving.http.guard import HEADERS, RELEASE_HEADER, busy
from mirepoix.serving.http.keys import open_keys
from mirepoix.serving.http.ports import BACKLOG, listening
from mirepoix.serving.in_process.searcher import Searcher
from mirepoix.serving.local.protocol import BusyProtocol, whole_reply
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute

Result = TypeVar("Result")
KEEP_ALIVE_SECONDS = 75
"""Longer than nginx and others keep an idle connection to a server, 60 seconds: so they close it, and none is closed under a request."""
LEARN_SECONDS = 2.0
"""The fork server imports so long after a start or a swap, as the first requests after it need the CPU time more."""
ENCODE_SHARE = 0.9
"""Share of the time of a request that encoding may take, so that one that takes longer is told why."""
END_SECONDS = 10
"""How long requests under way may go on when the server is stopped. With the time that encoders have to end, a server is gone well within
the 30 s after which Kubernetes kills a container."""


@dataclass(frozen=True)
class Swapped:
    """What came of a swap: the release that answers now, and the seconds in which none did."""

    name: str
    version: str
    pause_s: float


class LocalServer:
    """A server in this process, which runs its event loop in a thread, so that whoever starts it waits for signals."""

    def __init__(self, config: ServeConfig, api_key: str | None = None):
        open_table(config.limits.tiktoken)
        self._keys = open_keys(config.keys, api_key)
        self._figures = Figures()
        self._refused = self._figures.rejected.labels("deadline"), self._figures.requests.labels("none", 503, "")
        self._tracer = Tracer(self._figures, traces_endpoint(config.traces))
        self._listener = listening(config.host, config.port)
        self.config = replace(config, port=self._listener.getsockname()[1])
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._started = threading.Event()
        self._opened_s = 0.0
        self._refusals: dict[tuple[int, str], bytes] = {}  # the last one, by its seconds and the release
        self._learning: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[Any]] = set()  # starts and swaps that are under way
        self._ending = False

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def pids(self) -> list[int]:
        """The process ids of the encoders of the release that answers."""
        now = self.current.now
        workers = [] if now is None else now.batcher.workers
        return [worker.pid for worker in workers if isinstance(worker, ProcessWorker) and worker.pid is not None]

    def start(self, target: str) -> Swapped:
        """Opens the port, and then the release; returns when it answers. Refused, with nothing left behind, where it is refused."""
        self._thread.start()
        self._started.wait()
        try:
            return self._call(self._opened(self._first(target)))
        except BaseException:
            self.stop()
            raise

    def swap(self, target: str, pause: bool = False, say: Callable[[str], None] = lambda line: None) -> Swapped:
        """Lets another release answer, once it is verified; where memory does not hold both, it is refused unless `pause` is given."""
        target = absolute(target)
        return self._call(self._opened(self._swapped(target, pause, say)))

    def stop(self) -> None:
        """Stops listening, lets requests end, and ends the encoders."""
        if self._thread.is_alive():
            self._call(self._stopped())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._listener.close()

    def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._opened_port())
        self._started.set()
        self._loop.run_forever()
        self._loop.close()

    async def _opened_port(self) -> None:
        self._fork_server = ForkServer(self.config.threads)
        self.current = CurrentRelease(self._open, self._figures)
        self._admission = Admission(self.current.excess)
        app = build_app(self.current, self.config.limits, self._keys, self._figures, self._tracer, self._admission)
        settings = uvicorn.Config(
            app,
            http=type("Protocol", (BusyProtocol,), {"refusal": staticmethod(self._refusal), "admission": self._admission}),
            ws="none",  # a request to change over to another protocol is answered as the plain one that it also is
            log_config=None,
            log_level="error",  # a warning for each request that is no HTTP would let clients fill the log
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # nothing of who asks is used
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=END_SECONDS,
        )
        self._server = uvicorn.Server(settings)
        self._serving = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)

    def _refusal(self) -> bytes | None:
        """What a request to the encoders is answered with while they are too far behind; None if they are not."""
        late_s = self._admission.late_s
        if late_s <= 0:
            return None
        said = math.ceil(late_s), self.current.version()
        if said not in self._refusals:
            own = {RELEASE_HEADER.decode(): said[1]} | {name.decode(): value.decode() for name, value in HEADERS}
            self._refusals = {said: whole_reply(busy(late_s), own)}
        for counter in self._refused:
            counter.inc()
        return self._refusals[said]

    async def _opened(self, opening: Coroutine[Any, Any, Result]) -> Result:
        """What comes of a start or of a swap, which ends with the server."""
        task = asyncio.current_task()
        assert task is not None
        self._opening.add(task)
        try:
            if self._ending:
                opening.close()
                raise asyncio.CancelledError
            return await opening
        except asyncio.CancelledError:
            raise Refused(f"the server at {self.url} is being stopped; start it with the release that it is to serve") from None
        finally:
            self._opening.discard(task)

    async def _first(self, target: str) -> Swapped:
        await self.current.switch(absolute(target))
        self.current.wait_s = self.config.limits.timeout_s  # in a pause of a swap requests wait; before the first release they get 503
        return self._answering(0.0)

    async def _swapped(self, target: str, pause: bool, say: Callable[[str], None]) -> Swapped:
        if await self.current.is_open(target):
            await self.current.switch(target)
            return self._answering(0.0)
        release = await self.current.candidate(target, self.config.trust_remote_code)
        name = f"{release.name} {release.version}"
        room = Room(name, needed(release.folder, self.config.encoders), available(), self._opened_s)
        if room.is_enough:
            say(f"{name} is opened beside the release that answers")
            await self.current.switch(target)
            return self._answering(0.0)
        if not pause:
            self._figures.swaps.labels("refused").inc()
            raise room.refusal()
        say(room.pause)
        return self._answering(await self.current.replace(target))

    def _answering(self, pause_s: float) -> Swapped:
        assert self.current.now is not None
        told = self.current.now.about
        return Swapped(told.name, told.version, pause_s)

    async def _open(self, target: str) -> OpenRelease:
        began = time.monotonic()
        mark = await self._marked(target)  # before it is read, so that `gc` sees it
        workers: list[ProcessWorker] = []
        try:
            release = await asyncio.to_thread(open_release, target)
            release.refuse_code(self.config.trust_remote_code)
            trusted, threads = self.config.trust_remote_code, self.config.threads
            openings = [Opening(target, release.version, trusted, number, threads) for number in range(self.config.encoders)]
            start_s, encode_s = self.config.start_timeout_s, ENCODE_SHARE * self.config.limits.timeout_s
            workers = [ProcessWorker(opening, self._fork_server, start_s, encode_s) for opening in openings]
            modules = await _started(workers)
            searcher, told = await asyncio.to_thread(Searcher, release), await asyncio.to_thread(about, release)
        except BaseException:
            await asyncio.gather(*(worker.close() for worker in workers))
            await mark.close()
            raise
        self._opened_s = time.monotonic() - began
        if self._learning is not None:
            self._learning.cancel()
        self._learning = asyncio.create_task(self._learn(modules))
        batcher = Batcher(workers, self.config.batch, self._figures.batch_size.observe, encode_s)
        return OpenRelease(target, told, searcher, batcher, [*workers, mark])

    async def _marked(self, target: str) -> Mark:
        """The record that a release is served; where this is cancelled while it is written, it is removed again."""
        marking = asyncio.create_task(asyncio.to_thread(Mark, target, self.url))
        try:
            return await asyncio.shield(marking)
        except asyncio.CancelledError:
            await (await marking).close()
            raise

    async def _learn(self, modules: list[str]) -> None:
        """Prepares the fork server for the next child, once the first requests after a start or a swap have been answered."""
        await asyncio.sleep(LEARN_SECONDS)
        await self._fork_server.learn(modules)

    async def _stopped(self) -> None:
        self._ending = True
        opening = [*self._opening]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        self._server.should_exit = True
        await self._serving
        await self.current.close()
        if self._learning is not None:
            self._learning.cancel()
        await self._fork_server.close()
        self._tracer.close()


async def _started(workers: Sequence[ProcessWorker]) -> list[str]:
    """Starts encoders, and returns the modules that they have imported; where one fails, the others have ended their start too."""
    try:
        async with asyncio.TaskGroup() as group:
            starts = [group.create_task(worker.start()) for worker in workers]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return starts[0].result()
