"""What a run can use of this machine or of a cluster: CPUs, GPUs, memory, disk, ports; nothing heavy is imported to find out.

What cannot be known is None, and no check refuses anything by it.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LEAST_CPUS = 6
"""Logical CPUs of a private cluster even on two cores: a stage's task, its actors and its training workers hold CPUs at the same time."""
SMI_SECONDS = 5.0
NO_LIMIT = 1 << 60
"""Limits of a control group from here on mean that there is none."""


@dataclass(frozen=True)
class Node:
    """What a machine has; of a node type that an autoscaler may start, what each machine of the type would have."""

    cpus: float
    gpus: float | None
    memory: float | None = None  # bytes
    gpu_memory: tuple[float, ...] = ()  # bytes of each GPU; empty where it is not known
    count: float = 1  # machines of the kind that there are, or that may be started


def free_port(host: str, port: int) -> bool:
    """Whether a server could listen at a port of this machine."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def free_disk(folder: Path) -> float:
    """Free bytes of the disk that a folder is on, or would be."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def has_module(name: str) -> bool:
    """Whether a module is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Machine:
    """Where a run would run: this machine with a private cluster, or a cluster that it joins."""

    name: str  # as messages call it
    nodes: tuple[Node, ...]  # none: it is not known what there is
    startable: tuple[Node, ...] = ()  # the node types that an autoscaler may start
    joined: bool = False  # a cluster that runs already, whose libraries and ports are not those of this process
    problem: str = ""  # why a cluster could not be asked
    free_disk: Callable[[Path], float] = field(default=free_disk, compare=False)
    free_port: Callable[[str, int], bool] = field(default=free_port, compare=False)
    has_module: Callable[[str], bool] = field(default=has_module, compare=False)

    @property
    def kinds(self) -> tuple[Node, ...]:
        """All kinds of nodes, whether they run or may be started."""
        return (*self.nodes, *self.startable)

    @property
    def cpus(self) -> float:
        """Most CPUs that a run can get, all nodes together."""
        return self._most(lambda node: node.cpus)

    @property
    def gpus(self) -> float | None:
        """Most GPUs that a run can get, all nodes together."""
        return None if any(node.gpus is None for node in self.kinds) else self._most(lambda node: node.gpus or 0)

    def _most(self, of: Callable[[Node], float]) -> float:
        """Nodes that run are among those that an autoscaler may have, up to its limit."""
        running, startable = (sum(of(node) * node.count for node in nodes if of(node)) for nodes in (self.nodes, self.startable))
        return max(running, startable)


def this_machine(environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Machine:
    """This machine, as a private cluster would use it."""
    gpus, gpu_memory = find_gpus(environment, proc)
    node = Node(max(LEAST_CPUS, os.cpu_count() or 1), gpus, find_memory(proc, cgroup), gpu_memory)
    return Machine("this machine", (node,))


def find_gpus(environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc")) -> tuple[float | None, tuple[float, ...]]:
    """GPUs that Ray would find here, and the memory of each in bytes where nvidia-smi tells; None where they are not NVIDIA's."""
    if Path("/dev/kfd").exists():
        return None, ()
    memory = _smi()
    count = len(memory) or len(list((proc / "driver" / "nvidia" / "gpus").glob("*")))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count, memory
    named = [each.strip() for each in visible.split(",") if each.strip()]
    named = named[: named.index("-1")] if "-1" in named else named
    return min(count, len(named)), memory[:1] * min(count, len(named)) if len(set(memory)) == 1 else ()


def _smi() -> tuple[float, ...]:
    """The memory of each NVIDIA GPU."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    command = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=True).stdout
        return tuple(float(line) * (1 << 20) for line in listed.splitlines() if line.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def find_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes that processes here may hold: memory and swap, or the limit of the control group (a container's) if that is less."""
    try:
        fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
        found = 1024.0 * sum(int(fields[name].split()[0]) for name in ("MemTotal", "SwapTotal") if name in fields)
    except (OSError, ValueError, IndexError):
        return None
    limits = [found]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(float((cgroup / name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limit for limit in limits if limit < NO_LIMIT) or None
