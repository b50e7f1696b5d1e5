"""The useful work of a training in floating-point operations, beside the most that its devices could do: model FLOPs utilisation (MFU).

The operations of a forward pass are counted once, on the first batch and on all ranks, by tower, where the peak of the devices is known.
A tower that reads pictures is taken to do as much for each picture as on average there, any other for each token. A step's useful work is

    sum over towers of passes x operations of the forward pass per token (picture) x the step's tokens without padding (pictures)

where a pass is one forward; the backward pass counts one more for the gradients of what goes in, if something before or in the tower is
trained, and one more for those of the weights, if these are trained and not adapters alone. What is computed again, to save memory, and
what is computed for padding counts as nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist

from mirepoix.components.training.agreement import agreed, maxima
from mirepoix.components.training.batches.micro_batches import MicroBatch
from mirepoix.components.training.job import TrainingJob
from mirepoix.components.training.watching.peaks import peak

REST = ""
"""The name of what no tower computes."""
PICTURES = "vision"
"""The tower that reads pictures, by its name in any encoder."""


@dataclass(frozen=True)
class Work:
    """The useful operations of a training by what it reads, and the most that all its devices could do in a second."""

    per_token: float
    per_picture: float
    peak: float

    def utilisation(self, tokens: int, pictures: int, seconds: float) -> float:
        return (self.per_token * tokens + self.per_picture * pictures) / (seconds * self.peak)


def device_peak(job: TrainingJob) -> float | None:
    """The peak of this rank's device for what the training computes in; None where it is not known."""
    if dist.get_backend() != "nccl":
        return None
    return peak(torch.cuda.get_device_name(), "bf16" if job.config.bf16 else "fp32")


def counted(job: TrainingJob, engine: Any, batches: Iterator[MicroBatch]) -> tuple[Work | None, Iterator[MicroBatch]]:
    """The work of a training, None where the peak of a device is not known, and its batches, of which the first is looked at."""
    own = device_peak(job)
    if maxima([int(own is None)])[0]:
        return None, batches
    batch, (most,) = agreed(lambda: next(batches), lambda first: (len(first.chunks),), 1)
    found, passes = _counted(engine, batch, most)
    names = sorted(found)
    numbers = [*(float(found[name]) for name in names), float(batch.places), float(batch.pictures), float(own or 0)]
    total = torch.tensor(numbers, dtype=torch.float64, device=engine.device)
    dist.all_reduce(total)
    *flops, places, pictures, whole = total.tolist()
    useful = {name: passes[name] * number for name, number in zip(names, flops, strict=True)}
    seeing = useful.pop(PICTURES, 0.0)
    return Work(sum(useful.values()) / places, seeing / pictures if pictures else 0.0, whole), chain([batch], batches)


def _counted(engine: Any, batch: MicroBatch, most: int) -> tuple[dict[str, int], dict[str, int]]:
    """The operations of this rank's forward pass by tower, and how often each tower's count in a step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    towers = engine.module.encoder.towers
    found, began = dict.fromkeys([REST, *towers], 0), dict[str, int]()
    order: list[str] = []
    fed: set[str] = set()  # towers that other parts feed: the first that each reads is a tensor of floats

    def enter(name: str, read: list[Any]) -> None:
        began[name] = counter.get_total_flops()
        if name not in order:
            order.append(name)
            if name != PICTURES and any(isinstance(each, torch.Tensor) and each.is_floating_point() for each in read):
                fed.add(name)

    def leave(name: str) -> None:
        found[name] += counter.get_total_flops() - began[name]

    with ExitStack() as last, torch.no_grad():
        for name, tower in towers.items():
            for part in _callable(tower):
                before = part.register_forward_pre_hook(
                    lambda _, args, named, name=name: enter(name, [*args, *named.values()]), with_kwargs=True
                )
                after = part.register_forward_hook(lambda *_, name=name: leave(name))
                last.callback(before.remove)
                last.callback(after.remove)
        whole = 0
        for number in range(most):  # as many chunks on every rank, as a collective of one waits for those of all others
            real = number < len(batch.chunks)
            with counter if real else nullcontext():
                engine([batch.chunks[number] if real else batch.idle], [0])
            whole += counter.get_total_flops() if real else 0
    found[REST] = whole - sum(found.values())
    trained = {name: _trained(tower) for name, tower in towers.items()}
    passes = {}
    for name in towers:
        earlier = order[: order.index(name)] if name in order else []
        through = trained[name] > 1 or (name in fed and any(trained[other] > 1 for other in earlier))
        passes[name] = max(trained[name], 2 if through else 1)
    return found, {**passes, REST: max(passes.values(), default=1)}


def _callable(tower: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules of a tower that are run: itself, or where it is but a list of parts, these."""
    if isinstance(tower, torch.nn.ModuleList | torch.nn.ModuleDict):
        return [part for child in tower.children() for part in _callable(child)]
    return [tower]


def _trained(tower: torch.nn.Module) -> int:
    """1 for a frozen tower, 2 for one with adapters, 3 for one whose own weights are trained."""
    trained = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    if not trained:
        return 1
    return 2 if all(".lora_" in f".{name}" for name in trained) else 3
