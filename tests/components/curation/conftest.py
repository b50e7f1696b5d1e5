"""Fixtures of the tests of curation."""

import pytest

from mirepoix.components import ray_tasks


@pytest.fixture
def by_ray(ray_cluster, monkeypatch):
    """Makes curation use Ray's workers, however small the corpus is."""
    monkeypatch.setattr(ray_tasks, "SMALL_ROWS", 0)
