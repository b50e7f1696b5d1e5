"""How fast a training is, since its last report and by the time of training alone: without checkpoints and the start of workers."""

import resource
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from mirepoix.components.training.agreement import maxima
from mirepoix.components.training.step import Step
from mirepoix.components.training.watching.work import Work

CURVES = ("pairs_per_second", "tokens_per_second", "pictures_per_second", "data_wait", "memory_gib", "mfu")
"""What differs from run to run of the same training."""
SETTLING = 10
"""The first steps of a worker, in which threads fill their queues: how long batches are waited for is not judged by them."""
JUDGED = 10
"""The fewest steps by which it is judged."""


class Speed:
    """Adds up the time of steps, and what was computed in it; nothing of it is in a checkpoint."""

    def __init__(self, pairs_per_step: int, work: Work | None = None, now: Callable[[], float] = time.perf_counter):
        self.pairs_per_step, self.work, self.now = pairs_per_step, work, now
        self._settling = SETTLING
        self._reported, self._judged = _Sums(), _Sums()
        self._share: float | None = None

    def timed(self, take: Callable[[], Step]) -> Step:
        """Takes a step and adds its time."""
        began = self.now()
        taken = take()
        seconds = self.now() - began
        self._reported.add(taken, seconds)
        if self._settling:
            self._settling -= 1
        else:
            self._judged.add(taken, seconds)
        return taken

    def report(self) -> dict[str, float]:
        """The curves since the last report; called on all ranks together, which agree in the longest time and the most memory."""
        sums, self._reported = self._reported, _Sums()
        memory, elapsed, judged = maxima([_memory(), round(1e6 * sums.seconds), round(1e6 * self._judged.seconds)])
        seconds = max(1, elapsed) / 1e6
        if self._judged.steps >= JUDGED:
            self._share, self._judged = min(1.0, self._judged.waited / (max(1, judged) / 1e6)), _Sums()
        else:
            self._share = None
        row = {
            "pairs_per_second": sums.steps * self.pairs_per_step / seconds,
            "tokens_per_second": sums.tokens / seconds,
            "pictures_per_second": sums.pictures / seconds,
            "data_wait": min(1.0, sums.waited / seconds),
            "memory_gib": memory / 2**30,
        }
        return row if self.work is None else {**row, "mfu": self.work.utilisation(sums.tokens, sums.pictures, seconds)}

    @property
    def data_wait(self) -> float | None:
        """The share of the time that batches were waited for, over the last steps; None where it was not judged at the last report."""
        return self._share


class _Sums:
    """Sums over steps."""

    def __init__(self) -> None:
        self.steps, self.tokens, self.pictures = 0, 0, 0
        self.seconds, self.waited = 0.0, 0.0

    def add(self, taken: Step, seconds: float) -> None:
        self.steps += 1
        self.tokens += taken.tokens
        self.pictures += taken.pictures
        self.seconds += seconds
        self.waited += taken.waited_s


def _memory() -> int:
    """The most bytes that this rank had: of its GPU since the last call, or of its process since it began."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
