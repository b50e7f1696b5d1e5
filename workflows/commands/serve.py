"""The command `serve`: a release on this machine or on a Ray cluster until it is interrupted, or in the place of the one that is served."""

import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.heartbeat import served_mark, storage_of
from mirepoix.serving.http.client import KEY
from mirepoix.serving.http.ports import allow_connections, listening, refuse_open
from mirepoix.serving.local.control import Control, ask
from mirepoix.serving.release import peek, published_version
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute
from mirepoix.workflows.cluster.served import server_at
from mirepoix.workflows.commands.serve_request import ServeRequest

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
FOLLOW_SECONDS = 2.0
"""How often a server that follows an alias reads which release it names."""


def serve(request: ServeRequest) -> int:
    """Serves a release until Ctrl-C or SIGTERM; where a server of this user has the port, that one serves it from now on."""
    config = request.config
    if request.rollback:
        if not _swapped(request, {"rollback": True}):
            there = f", on the cluster at {request.address}" if request.address else ""
            raise Refused(f"no server of yours listens at port {config.port}{there}; give the --port of the one that is to roll back")
        return 0
    release = request.release
    if config.port and _swapped(request, {"release": absolute(release)}):
        if request.is_alias:
            print(f"this swap was made once; a server that was started with {request.given} follows it", flush=True)
        return 0
    if request.address is None:
        _refuse_taken(config, [storage_of(release), request.storage])
    about, _ = peek(release)
    print(f"starting the server of {about.name} {about.version}, {release}", flush=True)
    (_on_ray if request.on_ray else _on_this_machine)(request, release)
    print("stopped", flush=True)
    return 0


def _swapped(request: ServeRequest, order: dict[str, Any]) -> bool:
    """Whether a server of this user has the port, on the cluster of the address if one is given; it then serves another release."""
    order |= {"pause": request.pause, "settings": _plain(request.config), "address": request.address}
    done = ask(request.config.port, order, lambda line: print(line, flush=True))
    if done is None:
        return False
    pause = f"; requests waited {done['pause_s']:.1f} seconds" if done["pause_s"] else ""
    print(
        f"{done['name']} {done['version']} is served at {done['url']}, by the server that was there (pid {done['pid']}){pause}", flush=True
    )
    return True


# On this machine


def _on_this_machine(request: ServeRequest, release: str) -> None:
    from mirepoix.serving.local.server import LocalServer

    config = request.config
    refuse_open(config.host, bool(config.keys or os.environ.get(KEY)))
    allow_connections()
    server = LocalServer(config, os.environ.get(KEY))
    server.start(release)

    def swap(target: str, pause: bool, say: Callable[[str], None]) -> dict[str, Any]:
        swapped = server.swap(target, pause, say)
        return {"name": swapped.name, "version": swapped.version, "pause_s": swapped.pause_s}

    try:
        _until_stopped(request, release, server.url, swap)
    finally:
        server.stop()


# On Ray Serve


def _on_ray(request: ServeRequest, release: str) -> None:
    from mirepoix.serving.ray_serve.app import start
    from mirepoix.workflows.cluster.ray_cluster import cluster

    with cluster(request.address):
        # Another command may have started the endpoint of that cluster: this is then a swap.
        server = start(release, request.config, pause=request.pause, say=partial(print, flush=True))
        if server.pause_s:
            print(f"requests waited {server.pause_s:.1f} seconds", flush=True)

        def swap(target: str, pause: bool, say: Callable[[str], None]) -> dict[str, Any]:
            swapped = start(target, request.config, pause=pause, say=say)
            return {"name": swapped.name, "version": swapped.version, "pause_s": swapped.pause_s}

        try:
            _until_stopped(request, release, server.url, swap)
        finally:
            server.stop()


Swap = Callable[[str, bool, Callable[[str], None]], dict[str, Any]]


class _Served:
    """The release that a server of this process serves, which commands and an alias change."""

    def __init__(self, request: ServeRequest, release: str, url: str, swap: Swap):
        self.request, self.release, self.url, self._swap = request, absolute(release), url, swap
        self._before: list[str] = []  # the releases that were served before, the last one last
        self._turn = threading.Lock()
        self._mark = ExitStack()
        self._record()

    def answer(self, order: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any] | None:
        """Serves the release of an order, or with `rollback` the one before, and says which and where.

        None, and nothing is done, where the order is for a cluster at an address, and this server was not started with that address.
        """
        if order.get("address") not in (None, self.request.address):
            return None
        with self._turn:
            back = bool(order.get("rollback"))
            if back and not self._before:
                raise Refused(f"the server at {self.url} has served no other release before; give the one that it is to serve")
            release = self._before[-1] if back else order["release"]
            if other := self._other_settings(order.get("settings") or {}):
                say(f"the running server keeps its own {', '.join(other)}; settings change only with a restart")
            try:
                done = self._swap(release, bool(order.get("pause")), say)
            except Refused as refused:
                if not back or len(self._before) < 2:
                    raise
                earlier = self._before[-2]
                raise Refused(f"{refused}; before it {earlier} was served (mirepoix serve {earlier})") from refused
            if release != self.release:
                if back:
                    self._before.pop()
                else:
                    self._before.append(self.release)
                self.release = release
                print(f"{done['name']} {done['version']} is served at {self.url} now", flush=True)
                self._record()
        return {**done, "url": self.url, "pid": os.getpid()}

    def _other_settings(self, given: Mapping[str, Any]) -> list[str]:
        """The settings of an order that are neither the server's nor the default."""
        own, default = _plain(self.request.config), _plain(ServeConfig())
        return [name for name, value in given.items() if value not in (own.get(name), default.get(name))]

    def follow(self, over: threading.Event) -> None:
        """Serves what an alias names, whenever that changes, or another version is published in its place."""
        seen, version = self.release, published_version(self.release)
        while not over.wait(FOLLOW_SECONDS):
            try:
                named = absolute(self.request.release)
                there = published_version(named)
                if named == seen and there in (None, version):
                    continue
                seen, version = named, there
                self.answer({"release": named}, lambda line: print(line, flush=True))
            except Exception as error:  # noqa: BLE001 whatever a release fails with: the next one that the alias names is followed
                line = next(iter(str(error).splitlines()), type(error).__name__)
                said = f"the release that {self.request.given} names is not served, and the one before goes on"
                print(f"mirepoix: {said}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._mark.close()

    def _record(self) -> None:
        """Lets the storage of the release know this process, which is what stops the server; not one that may not be written."""
        self._mark.close()
        mark = served_mark(self.release, self.url, command=True)
        if mark is not None:
            with suppress(OSError):
                self._mark.enter_context(mark)


def _plain(config: ServeConfig) -> dict[str, Any]:
    """The settings that a swap could be thought to change, by their dotted names."""
    from mirepoix.workflows.config import flatten

    return {name: value for name, value in flatten(config).items() if name not in ("host", "port")}


def _until_stopped(request: ServeRequest, release: str, url: str, swap: Swap) -> None:
    """Waits for Ctrl-C or SIGTERM; meanwhile other commands of this user, and the alias that is served, change the release."""
    about, _ = peek(release)
    port = int(url.rpartition(":")[2])
    served, over = _Served(request, release, url, swap), threading.Event()
    try:
        with Control(port, served.answer):  # before it is said that it answers: who reads that may give it another release at once
            print(f"{about.name} {about.version} is served at {url}  (Ctrl-C or kill {os.getpid()} stops it)", flush=True)
            if request.show:
                print(open_page(url), flush=True)
            if request.is_alias:
                followed = f"what {request.given} names is followed: `mirepoix releases promote` and `rollback` change what is served here"
                print(followed, flush=True)
                threading.Thread(target=served.follow, args=(over,), name="follow", daemon=True).start()
            _waited()
    except (KeyboardInterrupt, SystemExit):  # the command line makes an exit of SIGTERM
        print("\nstopping", flush=True)
    finally:
        over.set()
        served.close()


def _waited() -> None:
    """Waits until a signal ends this process."""
    threading.Event().wait()


def _refuse_taken(config: ServeConfig, storages: Iterable[str | None]) -> None:
    """Refuses a port that is in use; where a server of these storages listens there, says which that is."""
    try:
        listening(config.host, config.port).close()
    except Refused:
        if (ours := server_at(config.port, storages)) is None:
            raise
        stop, swap = "stop it", ""
        if ours.pid:
            stop += f" (kill {ours.pid})"
            swap = " (it did not answer at its control socket: swap it as the user, and with the XDG_RUNTIME_DIR, that it was started with)"
        taken = f"port {config.port} is in use: {ours.name} is served there, at {ours.url}"
        raise Refused(f"{taken}; {stop}, or give another --port{swap}") from None


def open_page(url: str, environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str:
    """Opens a page in the browser of this machine's display, and says so; else says how to see it."""
    if platform.startswith("linux") and not any(map(environment.get, DISPLAYS)):
        # Without a display Python's webbrowser would start a text browser in this terminal, and wait for it.
        return f"there is no display here to open a browser on; open {url} in one"
    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    return f"{url} is opened in the browser" if opened else f"no browser was found; open {url} in one"
