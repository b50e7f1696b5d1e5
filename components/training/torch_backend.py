"""Ray Train's torch backend, imported late: the process that starts a training imports no torch, only its controller and workers do.

`ray.train.torch` imports torch at its top, which takes seconds and hundreds of megabytes; the classes here import it when they are used.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig


@dataclass
class TorchBackendConfig(BackendConfig):
    """Used in place of `ray.train.torch.TorchConfig`, which `torch_config` makes where it is used."""

    backend: str  # of torch.distributed: nccl or gloo

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchBackend

    @property
    def train_func_context(self) -> Any:
        return _train_func_context

    def torch_config(self) -> Any:
        from ray.train.torch import TorchConfig

        return TorchConfig(backend=self.backend)


def _train_func_context() -> AbstractContextManager[Any]:
    """The context of the training function in a worker, in which its own device is the current one."""
    from ray.train.torch import TorchConfig

    return TorchConfig().train_func_context()


class _TorchBackend(Backend):
    """Sets the workers' process group up and takes it down; called in the controller."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_start(worker_group, config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_training_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        config = backend_config.torch_config()
        config.backend_cls().on_shutdown(worker_group, config)
