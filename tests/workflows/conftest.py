"""A Ray head that takes jobs, one for all tests that need any cluster beside their own."""

import os
from pathlib import Path

import pytest

from tests.workflows.cluster.ray_heads import head


@pytest.fixture(scope="session")
def job_head(ray_cluster):
    """A head with a job server, under the token that this process has for its own cluster."""
    with head(token=Path(os.environ["RAY_AUTH_TOKEN_PATH"]), num_cpus=6) as up:
        yield up
