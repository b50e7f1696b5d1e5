"""The fork server of a server, as it is, but its children have an encoder that computes nothing: each item takes some seconds of the clock.

Run as `python stub_fork_server.py FD SECONDS`. A text with KILL kills the child; a release in a folder of the name REFUSED is refused.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mirepoix.models.errors import Refused
from mirepoix.serving.engine import child, fork_server
from mirepoix.serving.engine.work import Encoded, EncodeRequest

KILL, REFUSED = "kill the encoder", "refused"
ROW_TD = np.full((1, 32), 32**-0.5, np.float32)
"""Of the width of the tests' releases."""


def opened(opening: child.Opening) -> Callable[[list[EncodeRequest]], list[list[Encoded]]]:
    if Path(opening.target).name == REFUSED:
        raise Refused("the release does not reproduce its golden vectors")
    return encode


def encode(requests: list[EncodeRequest]) -> list[list[Encoded]]:
    """The same vector for every item."""
    items = [item for request in requests for item in request.items]
    if any(KILL in item.text for item in items):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(sys.argv[2]) * len(items))
    return [[Encoded(ROW_TD, 3)] * len(request.items) for request in requests]


if __name__ == "__main__":
    child._opened = opened
    fork_server.FIRST = ()  # no torch
    fork_server.import_named = lambda _: SimpleNamespace(cuda="as if there were GPUs, with which nothing is imported earlier")
    fork_server.main()
