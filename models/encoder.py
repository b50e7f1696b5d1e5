"""What every retriever is: collate (CPU, picklable), forward (device), Vectors; and encode, save and load, which they share."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.options import revive
from mirepoix.models.tuning import Tuning, merged, tune
from mirepoix.models.vectors import Vectors

DESCRIPTION = "mirepoix.json"
# Name of a retriever -> where its Encoder stands; opened only when asked for.
ARCHITECTURES = {"unite": ("mirepoix.models.unite", "Unite")}


class Encoder(torch.nn.Module):
    """Items to Vectors. A subclass brings a collator, a forward, its config and the files of its towers."""

    architecture: str
    TOWERS: tuple[str, ...]  # the names of `towers`, known before any weights are
    PROMPT: str = ""  # words that stand around every item, for a tokenizer that is trained on a corpus
    Config: type
    config: Any
    collator: Callable[[Sequence[Item]], dict[str, torch.Tensor]]

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The width of a row."""

    @abstractmethod
    def forward(self, **batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A collated batch to rows_NTD and mask_NT; a plain tuple, so that a training engine's hooks see the tensors."""

    @property
    @abstractmethod
    def towers(self) -> Mapping[str, torch.nn.Module]:
        """The parts that can learn apart from each other, by the names that `Tuning.towers` takes."""

    @abstractmethod
    def save_towers(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """Writes the files that `open` reads, with the weights in `state`, named as in `state_dict`."""

    @classmethod
    @abstractmethod
    def open(cls, folder: str | Path, config: Any, revision: str | None = None) -> Self:
        """The encoder over the towers in `folder`, or of a hub id at a revision."""

    def tune(self, tuning: Tuning) -> Self:
        """Makes ready to train what `tuning` names, and nothing else."""
        tune(self, self.towers, tuning)
        return self.train()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, items: Sequence[Item], batch_size: int = 32, report: Callable[[int], None] | None = None) -> Vectors:
        """Vectors of all items, on the CPU; batches are made of items of like length, so that little is padded."""
        if not items:
            raise Refused("there is nothing to encode; give at least one item")
        was_training = self.training
        self.eval()
        order = sorted(range(len(items)), key=lambda i: (len(items[i].images) + len(items[i].video), len(items[i].text)))
        parts = []
        try:
            with torch.inference_mode():
                for start in range(0, len(items), batch_size):
                    batch = self.collator([items[i] for i in order[start : start + batch_size]])
                    rows_NTD, mask_NT = self(**{name: tensor.to(self.device) for name, tensor in batch.items()})
                    parts.append(Vectors(rows_NTD, mask_NT).cpu())
                    if report:
                        report(min(start + batch_size, len(items)))
        finally:
            self.train(was_training)
        back = torch.tensor(order).argsort()
        return Vectors.cat(parts)[back]

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Writes a plain checkpoint folder, adapters merged, and beside it which retriever it belongs to.

        `state` holds the gathered weights where this process has only a share of them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_towers(folder, merged(self, self.state_dict() if state is None else state))
        description = {"architecture": self.architecture, "config": asdict(self.config)}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def architecture(name: str) -> type[Encoder]:
    """The Encoder class of a retriever by its name."""
    if name not in ARCHITECTURES:
        raise Refused(f"retriever {name!r} is not known; there are {', '.join(sorted(ARCHITECTURES))}")
    module, cls = ARCHITECTURES[name]
    return getattr(import_module(module), cls)


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder that `Encoder.save` wrote into `folder`."""
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise Refused(f"{folder} holds no {DESCRIPTION}; give the folder of an encoder that training or a release wrote")
    description = json.loads(path.read_text())
    encoder = architecture(description["architecture"])
    return encoder.open(folder, revive(encoder.Config, description["config"])).eval()
