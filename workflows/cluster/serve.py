"""The command `serve`: a release on a private cluster, or on one that is up, until it is interrupted."""

import os
import sys
import threading
import webbrowser
from collections.abc import Mapping

from mirepoix.serving.app import check_port, start
from mirepoix.serving.release import peek
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.cluster.ray_cluster import cluster

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def serve(release: str, config: ServeConfig, address: str | None = None, show: bool = False) -> int:
    """Serves a release until Ctrl-C or SIGTERM; with `show` its search page is opened in the browser once the server answers."""
    if not (address or os.environ.get("RAY_ADDRESS")):
        check_port(config, running=False)
    about, _ = peek(release)
    print(f"starting the server of {about.name} {about.version}, {release} (about 20 seconds)", flush=True)
    with cluster(address):
        server = start(release, config)
        print(f"{server.name} {server.version} is served at {server.url}  (Ctrl-C or kill {os.getpid()} stops it)", flush=True)
        if show:
            print(open_page(server.url), flush=True)
        try:
            threading.Event().wait()
        except (KeyboardInterrupt, SystemExit):  # the command line makes an exit of SIGTERM
            print("\nstopping", flush=True)
        finally:
            server.stop()
    print("stopped", flush=True)
    return 0


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
