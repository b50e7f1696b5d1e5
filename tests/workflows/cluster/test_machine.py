"""What this machine has, read from where the system says it."""

import socket
from pathlib import Path

import pytest

from mirepoix.workflows.cluster.machine import Machine, Node, find_gpus, find_memory, free_disk, free_port, has_module, this_machine


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi with this output first in the path."""

    def write(output):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{output}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_gpus_are_those_of_nvidia_smi_as_far_as_they_are_visible(smi, tmp_path):
    smi("81920\\n81920\\n81920\\n81920\\n")
    assert find_gpus({}, tmp_path) == (4, (81920 * 2**20,) * 4)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, tmp_path) == (2, (81920 * 2**20,) * 2)
    for none in ("", "-1", "-1,0"):
        assert find_gpus({"CUDA_VISIBLE_DEVICES": none}, tmp_path)[0] == 0


def test_without_nvidia_smi_the_driver_says_how_many(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus({}, tmp_path) == (0, ())
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "driver" / "nvidia" / "gpus" / name).mkdir(parents=True)
    assert find_gpus({}, tmp_path) == (2, ())


def test_memory_is_that_of_the_machine_with_its_swap_or_the_limit_of_its_container(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\nSwapTotal:       2000000 kB\n")
    assert find_memory(tmp_path, tmp_path) == 18000000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert find_memory(tmp_path, tmp_path) == 18000000 * 1024
    (tmp_path / "memory.max").write_text("4294967296\n")
    assert find_memory(tmp_path, tmp_path) == 4294967296
    assert find_memory(tmp_path / "none", tmp_path) is None


def test_a_port_that_is_taken_is_not_free():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port)


def test_the_disk_of_a_folder_that_is_to_be_made_is_that_of_the_one_above(tmp_path):
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(free_disk(tmp_path), rel=0.1)


def test_a_module_is_found_without_being_imported():
    assert has_module("this") and not has_module("no_such_module")


def test_this_machine_has_the_cpus_of_a_private_cluster():
    machine = this_machine(proc=Path("/nowhere"), cgroup=Path("/nowhere"))
    assert machine.cpus >= 6 and machine.nodes[0].memory is None and not machine.joined


def test_what_an_autoscaler_may_start_is_instead_of_what_runs_not_besides():
    machine = Machine("cluster", (Node(4, 1), Node(4, 1)), (Node(8, 2, count=3),))
    assert (machine.cpus, machine.gpus) == (24, 6)
    assert Machine("cluster", (Node(4, 1), Node(4, 1)), (Node(8, 0, count=0.5),)).cpus == 8
