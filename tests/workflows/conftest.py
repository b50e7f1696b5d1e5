"""A command run in this process; and a Ray head that takes jobs, one for all tests that need any cluster beside their own."""

import os
from pathlib import Path

import pytest

from mirepoix.workflows.__main__ import main
from tests.workflows.cluster.ray_heads import head


@pytest.fixture
def cli(capsys):
    """Runs a command in this process; returns its status, its output, and its one line of refusal."""

    def run(*words):
        status = main(list(words))
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def job_head(ray_cluster):
    """A head with a job server, under the token that this process has for its own cluster."""
    with head(token=Path(os.environ["RAY_AUTH_TOKEN_PATH"]), num_cpus=6) as up:
        yield up
