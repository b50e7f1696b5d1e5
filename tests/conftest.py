"""What all tests share: a private Ray cluster, and a storage root that is not the developer's."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from hypothesis import settings

settings.register_profile("shared-cores", deadline=None, max_examples=50)
settings.load_profile("shared-cores")


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of the test session's own: six logical CPUs, token authentication, no dashboard."""
    from mirepoix.workflows.cluster import private_cluster

    with private_cluster(num_cpus=6) as address:
        yield address


@pytest.fixture(autouse=True)
def own_storage(tmp_path, monkeypatch):
    """No test writes into the storage of whoever runs it."""
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
