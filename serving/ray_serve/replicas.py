"""A replica of Ray Serve: the HTTP application, the index and the encoder of one release, in one process.

A request stays in the replica that has it, so it is encoded and searched in one release, and costs no call between processes. The replica
is told by its `user_config` which release it serves; `prepare` and `switch` change it while requests go on.
"""

import asyncio
import logging
import time
from functools import cached_property, partial
from typing import Any, NamedTuple

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from mirepoix.models.errors import Refused, first_line, typed_line
from mirepoix.serving.engine.batcher import Batcher
from mirepoix.serving.engine.current import CurrentRelease, OpenRelease, about
from mirepoix.serving.engine.memory import SPARE, Room, available, needed, shortest, weights
from mirepoix.serving.engine.telemetry.metrics import Figures, merged
from mirepoix.serving.engine.telemetry.tracing import Tracer, traces_endpoint
from mirepoix.serving.engine.worker import ThreadWorker, open_encoder
from mirepoix.serving.heartbeat import Mark
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import open_keys
from mirepoix.serving.in_process.searcher import Searcher
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute

_LOG = logging.getLogger("ray.serve")  # shown by Serve, from its level WARNING on
METRICS_SECONDS = 2.0
"""How long the other replicas have to tell their metrics; who asks for them waits no longer."""


class Prepared(NamedTuple):
    """What came of preparing a release, or of putting it in the place of another one: its version, or why it is refused."""

    version: str
    refusal: str | None = None
    pause_s: float = 0.0  # the seconds in which this replica answered nothing


class Wanted(NamedTuple):
    """A release that the settings name, and whether the one before may be closed first."""

    target: str
    pause: bool


class Place(NamedTuple):
    """A replica: its name, the release that it serves, and what another one would take of the memory there."""

    replica: str
    target: str
    rooms: list[Room]


def rooms_for(release: Release, opened_s: float) -> list[Room]:
    """What a release takes in this process, which has torch already: of the GPU, or else of the memory of the node."""
    import torch  # where the release is, its encoder has imported it

    name, context = f"{release.name} {release.version}", ray.get_runtime_context()
    node = f"on node {context.get_node_id()[:8]}"
    if not torch.cuda.is_available():
        return [Room(name, needed(release.folder, 1, overhead=0), available(), opened_s, node)]
    torch.cuda.empty_cache()  # what a release before it had is not handed back by itself
    gpus = ",".join(map(str, context.get_accelerator_ids().get("GPU", [])))
    return [Room(name, int(SPARE * weights(release.folder)), torch.cuda.mem_get_info()[0], opened_s, f"on GPU {gpus} {node}")]


async def gathered(mine: tuple[str, str], replicas: DeploymentHandle[Any]) -> bytes:
    """The metrics of all replicas, each by its name; one that does not answer in time is left out, and one alone has no label."""
    texts = dict([mine])
    try:
        told = replicas.broadcast("metrics_text").results_async(timeout_s=METRICS_SECONDS, return_exceptions=True)
        texts |= dict(one for one in await told if not isinstance(one, BaseException))
    except (TimeoutError, RayServeException) as error:
        _LOG.warning("the metrics are those of one replica: %s", error)
    return (merged(texts) if len(texts) > 1 else mine[1]).encode()


def _reason(error: Exception, target: str) -> str:
    """Why a release is not served, in one line; the log has the trace of what is no refusal."""
    if isinstance(error, Refused):
        return str(error)
    _LOG.error("%s cannot be opened", target, exc_info=error)
    return f"{target} cannot be opened: {typed_line(error)}"


@serve.ingress()
class Replica:
    """The application over the release that answers."""

    def __init__(self, config: ServeConfig, api_key: str | None = None, stored: dict[str, str] | None = None):
        self.config, self.stored = config, dict(stored or {})  # where a release lies itself, of which a copy is given
        self.marks: set[Mark] = set()
        self._wanted: Wanted | None = None
        self._opening: asyncio.Task[None] | None = None
        self._opened_s = 0.0  # what it took to open the release that was opened last
        self.figures = Figures()
        self.current = CurrentRelease(self._open, self.figures, config.limits.timeout_s)
        self.tracer = Tracer(self.figures, traces_endpoint(config.traces))
        keys = open_keys(config.keys, api_key)
        self.build = partial(build_app, self.current, config.limits, keys, self.figures, self.tracer, all_metrics=self._all_metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.build()

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serves the release of the settings; at the start Serve waits for this before it sends requests.

        Later it sends none while it waits, so a release that is not open yet is opened afterwards, and answers once it has proved itself;
        where memory does not hold both, it is refused unless the settings have a true `pause`. Of several settings the last ones hold.
        """
        if not settings.get("release"):
            raise Refused('no release is given; give user_config as {"release": FOLDER OR URI}')
        target = absolute(settings["release"])
        self.stored[target] = settings.get("stored", target)
        is_first, self._wanted = self._wanted is None, Wanted(target, bool(settings.get("pause")))
        if is_first:
            await self.current.switch(target)
        elif self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_wanted())

    async def _open_wanted(self) -> None:
        """Lets the release that is wanted answer, one after the other where another one is wanted meanwhile: two more would not fit."""
        tried = None
        while self._wanted is not None and self._wanted is not tried:
            tried = self._wanted
            try:
                await self._change(tried)
            except Exception as error:  # noqa: BLE001 nobody waits for this task
                _LOG.error("%s is not served, and the release before it goes on: %s", tried.target, first_line(error))

    async def _change(self, wanted: Wanted) -> None:
        target = wanted.target
        if await self.current.is_open(target):
            await self.current.switch(target)
            return
        short = shortest((await self.place(target)).rooms)
        if wanted is not self._wanted:
            return
        if short is not None:
            if not wanted.pause:
                self.figures.swaps.labels("refused").inc()
                raise short.refusal("pause: true in user_config")
            await self.current.replace(target)
            return
        await self.current.prepare(target)
        await (self.current.switch(target) if wanted is self._wanted else self.current.forget(target))

    async def place(self, target: str) -> Place:
        """Where this replica is, what it serves, and what a release would take of the memory there."""
        release = await self.current.candidate(target, self.config.trust_remote_code)
        rooms = await asyncio.to_thread(rooms_for, release, self._opened_s)
        return Place(serve.get_replica_context().replica_id.unique_id, self._served, rooms)

    @property
    def _served(self) -> str:
        """The release that answers, by its target, as a reference to an open one would keep its memory; empty while none does."""
        return "" if self.current.now is None else self.current.now.target

    async def prepare(self, target: str, stored: str) -> Prepared:
        """Opens and proves a release beside the one that answers."""
        self.stored[target] = stored
        try:
            return Prepared(await self.current.prepare(target))
        except Exception as error:  # noqa: BLE001 whatever it is, the other replicas are to forget the release
            return Prepared("", _reason(error, target))

    async def replace(self, target: str, stored: str = "", only: str = "", but: str = "") -> Prepared:
        """Closes the release that answers, and opens another one in its place; requests wait meanwhile. Where that is refused, the old one
        comes back. Of a replica, by its name, it is asked alone with `only`, and not with `but`.
        """
        name = serve.get_replica_context().replica_id.unique_id
        if only not in ("", name) or but == name or target == self._served:
            return Prepared(self.current.version())
        if stored:
            self.stored[target] = stored
        try:
            pause_s = await self.current.replace(target)
        except Exception as error:  # noqa: BLE001 whatever it is, the other replicas are to go back
            return Prepared("", _reason(error, target))
        return Prepared(self.current.version(), pause_s=pause_s)

    async def switch(self, target: str) -> None:
        """Lets a release that was prepared answer."""
        await self.current.switch(target)

    async def forget(self, target: str) -> None:
        """Closes a release that was prepared."""
        await self.current.forget(target)

    async def metrics_text(self) -> tuple[str, str]:
        """The name of this replica, and its metrics."""
        return serve.get_replica_context().replica_id.unique_id, self.figures.text().decode()

    async def _all_metrics(self) -> bytes:
        if max(self.config.encoders, self.config.most_encoders) == 1:
            return self.figures.text()
        return await gathered(await self.metrics_text(), self._replicas)

    @cached_property
    def _replicas(self) -> DeploymentHandle[Any]:
        context = serve.get_replica_context()
        return serve.get_deployment_handle(context.deployment, context.app_name)

    async def _open(self, target: str) -> OpenRelease:
        began = time.monotonic()
        mark = await asyncio.to_thread(Mark, self.stored.get(target, target), self.config.url)  # before it is read, so that `gc` sees it
        self.marks.add(mark)
        try:
            release = await asyncio.to_thread(open_release, target)
            encode = await asyncio.to_thread(open_encoder, release, self.config.trust_remote_code)
            searcher, told = await asyncio.to_thread(Searcher, release), await asyncio.to_thread(about, release)
        except BaseException:
            await mark.close()
            raise
        self._opened_s = time.monotonic() - began
        worker = ThreadWorker(encode)
        return OpenRelease(target, told, searcher, Batcher([worker], self.config.batch, self.figures.batch_size.observe), [worker, mark])

    def __del__(self) -> None:
        """Serve calls this when it ends a replica; a record that is left by one that was killed does not count."""
        for mark in getattr(self, "marks", ()):
            mark.remove()
        if hasattr(self, "tracer"):
            self.tracer.close()
