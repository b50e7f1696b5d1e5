"""Two releases, and a server of one of them on this machine."""

from pathlib import Path

import pytest

from tests.serving.fixtures import corpus, golden_of, published


@pytest.fixture(scope="session")
def other_release(parts, tmp_path_factory) -> Path:
    """The same encoder and corpus with another golden item, so that its version is another one."""
    return published(tmp_path_factory.mktemp("other"), parts, golden=golden_of(parts, corpus()[:1]))
