"""The application over a tiny release in this process, for the tests of what requests consist of, and the same over real HTTP."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.release import Release, open_release
from tests.serving.http.test_api import Caller, InProcess


@pytest.fixture(scope="session")
def tiny(release_folder) -> Release:
    return open_release(release_folder)


@pytest.fixture(scope="session")
def encoding(tiny) -> InProcess:
    """The backend, which keeps what it was asked to encode."""
    return InProcess(tiny)


@pytest.fixture(scope="session")
def calling(encoding) -> Callable[[Limits], Caller]:
    """Requests to an application with the given limits."""
    return lambda limits: Caller(build_app(encoding, limits))


@contextmanager
def over_http(app) -> Iterator[str]:
    """The address of an application that a thread serves as the server on one machine does."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
