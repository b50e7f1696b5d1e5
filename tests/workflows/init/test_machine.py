"""This machine is measured without libraries of training."""

import shutil
import subprocess
from types import SimpleNamespace

from mirepoix.workflows.init import machine
from mirepoix.workflows.init.machine import is_here, this_machine


def test_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SLICES", 1)
    found = this_machine(str(tmp_path / "not" / "there" / "storage"))
    assert found.cpus >= 1 and found.rate > 1e8 and found.memory > 1e8
    assert found.disk > 0 and this_machine("s3://bucket/storage").disk == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert this_machine(str(tmp_path)).offline


def test_the_gpu_with_the_most_free_memory_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    listed = SimpleNamespace(stdout="NVIDIA RTX A2000, 1000\nNVIDIA L4, 23034\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
    assert machine._gpu() == ("NVIDIA L4", 23034 << 20)
    listed.stdout = "no devices were found"
    assert machine._gpu() == ("", 0)


def test_a_model_is_here_if_the_cache_of_the_hub_has_it(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert not is_here("a/b")
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert is_here("a/b")


def test_the_speed_is_that_of_the_fastest_product_of_all_slices(monkeypatch):
    monkeypatch.setattr(machine, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(machine, "sleep", lambda seconds: None)
    # Of each slice its beginning, and the beginning and the end of a product: 2, 1, 4, 3 and 5 seconds.
    times = iter([0, 0, 2, 3, 3, 4, 5, 5, 9, 10, 10, 13, 14, 14, 19])
    monkeypatch.setattr(machine, "perf_counter", lambda: next(times))
    assert machine._rate() == 2.0 * 384**3
