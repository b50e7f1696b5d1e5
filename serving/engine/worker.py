"""An encoder in this process, which encodes in a thread: as a replica of Ray Serve has it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mirepoix.serving.engine.freeing import keep_freed_memory
from mirepoix.serving.engine.work import BatchEncoder, Encoded, EncodeRequest
from mirepoix.serving.release import Release


class ThreadWorker:
    """Encodes in a thread of its own; torch releases the interpreter's lock while it computes."""

    def __init__(self, encode: Callable[[list[EncodeRequest]], list[list[Encoded] | str]]):
        self._encode: Callable[[list[EncodeRequest]], list[list[Encoded] | str]] = encode
        self._thread = ThreadPoolExecutor(1, "encoder")

    @property
    def alive(self) -> bool:
        """Always: it ends with the process."""
        return True

    async def revive(self) -> None:
        """Nothing is to be done."""

    @property
    def ahead(self) -> bool:
        """Batches wait for the one thread."""
        return True

    async def encode(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, requests)

    async def close(self) -> None:
        """Ends the thread, after the batch that it encodes, and drops the encoder."""
        await asyncio.to_thread(self._thread.shutdown)
        self._encode = _closed


def _closed(requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
    raise RuntimeError("the encoder is closed")


def open_encoder(release: Release, trust_remote_code: bool, number: int = 0) -> BatchEncoder:
    """The encoder of a release, proved by its golden vectors, on a GPU if there is one; of several GPUs on that of the worker's number."""
    import torch  # not at the top of the module: a server that has its encoders in child processes does without

    keep_freed_memory()
    device = f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    return BatchEncoder(release.open_encoder(device, trust_remote_code))
