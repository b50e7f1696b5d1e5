"""The application over a tiny release in this process, for the tests of what requests consist of."""

from collections.abc import Callable

import pytest

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
