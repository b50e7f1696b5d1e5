"""Ray Train's torch backend in which only the workers import torch.

`ray.train.torch` imports torch at its top, which takes seconds and hundreds of megabytes in the controller of each training, as that loads
the backend's config. The functions that run in a worker import torch themselves.
"""

import logging
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

from mirepoix.components.training.workers.host import ADDRESS

SHUTDOWN_SECONDS = 30.0
log = logging.getLogger(__name__)


@dataclass
class TorchBackendConfig(BackendConfig):
    """Used in place of `ray.train.torch.TorchConfig`; which GPU a worker uses is set by `deepspeed_engine.prepare`."""

    backend: str  # of torch.distributed: nccl or gloo
    timeout: float  # seconds, for a collective operation

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchBackend


class _TorchBackend(Backend):
    """Sets the workers' process group up and takes it down; called in the controller."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_join, address=address, port=port, backend=backend_config.backend, timeout=backend_config.timeout)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        left = worker_group.execute_async(_leave)
        try:
            ray.get(left, timeout=SHUTDOWN_SECONDS)
        except GetTimeoutError:
            log.warning("the workers did not leave their process group within %.0f s", SHUTDOWN_SECONDS)


def _free_address() -> tuple[str, int]:
    """The address of this node, and a port that is free there."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def _join(address: str, port: int, backend: str, timeout: float) -> None:
    """Joins the process group of all workers, with the variables that torch and DeepSpeed read."""
    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        ADDRESS: ray.util.get_node_ip_address(),
    }
    if backend == "nccl":  # a collective that waits longer ends the process
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
