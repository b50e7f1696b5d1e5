"""What the tests of curation share."""

import pytest

from mirepoix.components import ray_tasks


@pytest.fixture
def by_ray(ray_cluster, monkeypatch):
    """Ray's workers curate, however small the corpus is."""
    monkeypatch.setattr(ray_tasks, "SMALL_ROWS", 0)
