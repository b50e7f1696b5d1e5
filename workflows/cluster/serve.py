"""The command `serve`: a release on a private cluster, or on one that is up, until it is interrupted."""

import os
import sys
import threading
import webbrowser
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from mirepoix.models.errors import Refused
from mirepoix.serving.app import check_port, start
from mirepoix.serving.heartbeat import served_mark, storage_of
from mirepoix.serving.http.tracing import traces_endpoint
from mirepoix.serving.release import peek
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute
from mirepoix.workflows.cluster.ray_cluster import cluster
from mirepoix.workflows.cluster.served import server_at

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def serve(release: str, config: ServeConfig, address: str | None = None, show: bool = False, storage: str | None = None) -> int:
    """Serves a release until Ctrl-C or SIGTERM; with `show` its search page is opened in the browser once the server answers.

    `storage` is the one in use, whose servers are known by name if one of them has the port.
    """
    traces_endpoint(config.traces)  # refused before a cluster is started
    if not (address or os.environ.get("RAY_ADDRESS")):
        _refuse_taken(config, [storage_of(release), storage])
    about, _ = peek(release)
    print(f"starting the server of {about.name} {about.version}, {release} (about 20 seconds)", flush=True)
    with cluster(address):
        server = start(release, config)
        print(f"{server.name} {server.version} is served at {server.url}  (Ctrl-C or kill {os.getpid()} stops it)", flush=True)
        if show:
            print(open_page(server.url), flush=True)
        try:
            with _recorded(release, server.url):
                threading.Event().wait()
        except (KeyboardInterrupt, SystemExit):  # the command line makes an exit of SIGTERM
            print("\nstopping", flush=True)
        finally:
            server.stop()
    print("stopped", flush=True)
    return 0


def _refuse_taken(config: ServeConfig, storages: Iterable[str | None]) -> None:
    """Refuses a port that is in use; where a server of these storages listens there, says which that is."""
    try:
        check_port(config, running=False)
    except Refused:
        if (ours := server_at(config.port, storages)) is None:
            raise
        stop = f"stop it (kill {ours.pid})" if ours.pid else "stop it"
        raise Refused(f"port {config.port} is in use: {ours.name} is served there, at {ours.url}; {stop}, or give another --port") from None


@contextmanager
def _recorded(release: str, url: str) -> Iterator[None]:
    """Within the block the storage has a record of this process, which says what stops the server; none where it may not be written."""
    mark = served_mark(absolute(release), url, command=True)
    with ExitStack() as entered:
        if mark is not None:
            with suppress(OSError):
                entered.enter_context(mark)
        yield


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
