"""What every retriever is: collate (CPU, picklable), forward (device), Vectors; and encode, save and open, which they share.

The folder of an encoder holds mirepoix.json, the checkpoint that it is built over (of several, each in a folder of its own name: text/,
vision/), and in head.safetensors whatever weights are in none of these.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from safetensors.torch import load_file, save_file

from mirepoix.models.backbones.checkpoints import Checkpoint, Kind, LoadedCheckpoint, open_part
from mirepoix.models.backbones.tuning import Tuning, merged, tune
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.options import revive
from mirepoix.models.vectors import Vectors

DESCRIPTION = "mirepoix.json"
HEAD = "head.safetensors"
# Name of a retriever -> where its Encoder stands; opened only when asked for.
ARCHITECTURES = {
    "jfe": ("mirepoix.models.retrievers.jfe", "Jfe"),
    "marvel": ("mirepoix.models.retrievers.marvel", "Marvel"),
    "mimic": ("mirepoix.models.retrievers.mimic", "Mimic"),
    "mire": ("mirepoix.models.retrievers.mire", "Mire"),
    "unite": ("mirepoix.models.retrievers.unite", "Unite"),
    "univldr": ("mirepoix.models.retrievers.univldr", "UniVLDR"),
}
Role = Literal["query", "document"]


@dataclass(frozen=True)
class EncoderConfig:
    """How a retriever reads and pools an item; each has its own."""


class Collator(Protocol):
    """Items to tensors, on the CPU: the queries, then the documents. Of each item the attention mask tells how many tokens it took."""

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]: ...


class Encoder(torch.nn.Module):
    """Items to Vectors. A subclass brings a collator, a forward, its config, and what it is built over."""

    architecture: str
    TOWERS: tuple[str, ...]  # the names of `towers`, known before any weights are
    CHECKPOINTS: Mapping[str, Kind]  # by the attributes that hold their models
    FAMILIES: tuple[str, ...]  # twins that it can be built over, the usual first
    READS: Modality  # what an item may consist of
    PROMPT: str = ""  # words that stand around every item, for a tokenizer that is trained on a corpus
    Config: type
    Tuning: type = Tuning
    config: Any
    collator: Collator
    temperature: float | None = None  # that training learnt
    widths: tuple[int, ...] = ()  # that were trained beside the whole

    def __init__(self, config: EncoderConfig, **parts: LoadedCheckpoint):
        super().__init__()
        self.config = config
        self.parts = parts
        for name, part in parts.items():
            setattr(self, name, part.model)

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

    @property
    def training_collator(self) -> Collator:
        """What reads in training."""
        return self.collator

    @classmethod
    def build(cls, checkpoints: Mapping[str, Checkpoint], config: EncoderConfig) -> Self:
        """The encoder over published towers; what is new in it is drawn from torch's random numbers."""
        return cls(config, **{name: open_part(checkpoints[name], kind) for name, kind in cls.CHECKPOINTS.items()})

    @classmethod
    def open(cls, folder: str | Path, config: EncoderConfig) -> Self:
        """The encoder that `save` wrote."""
        encoder = cls.build({name: Checkpoint(_place(cls, Path(folder), name)) for name in cls.CHECKPOINTS}, config)
        state = encoder.state_dict()
        own, unread = encoder._head(state), {f"{name}.{weight}" for name, part in encoder.parts.items() for weight in part.unread}
        path = Path(folder) / HEAD
        given = load_file(path) if path.is_file() else {}
        if odd := sorted((own.keys() ^ given.keys()) | (unread - state.keys())):
            told = f"{len(odd)} weights ({', '.join(odd[:3])}, ...)"
            raise Refused(f"{folder} and a {cls.architecture} differ in {told}; give a whole encoder")
        encoder.load_state_dict(given, strict=False)
        return encoder

    def tune(self, tuning: Tuning) -> Self:
        """Makes ready to train what `tuning` names, and nothing else."""
        tune(self, self.towers, tuning, self.Tuning)
        return self.train()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(
        self,
        items: Sequence[Item],
        batch_size: int = 32,
        report: Callable[[int], None] | None = None,
        role: Role = "document",
    ) -> Vectors:
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
                    these = [items[i] for i in order[start : start + batch_size]]
                    batch = self.collator(these) if role == "query" else self.collator((), these)
                    rows_NTD, mask_NT = self(**{name: tensor.to(self.device) for name, tensor in batch.items()})
                    parts.append(Vectors(rows_NTD, mask_NT).cpu())
                    if report:
                        report(min(start + batch_size, len(items)))
        finally:
            self.train(was_training)
        back = torch.tensor(order).argsort()
        return Vectors.cat(parts)[back]

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Writes plain checkpoint folders, adapters merged, and beside them which retriever they belong to.

        `state` holds the gathered weights where this process has only a share of them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = merged(self, self.state_dict() if state is None else state)
        for name, part in self.parts.items():
            prefix = f"{name}."
            own = {weight.removeprefix(prefix): tensor for weight, tensor in plain.items() if weight.startswith(prefix)}
            part.save(_place(type(self), folder, name), own)
        if head := self._head(plain):
            save_file({weight: tensor.contiguous() for weight, tensor in head.items()}, folder / HEAD)
        description = {
            "architecture": self.architecture,
            "config": asdict(self.config),
            "temperature": self.temperature,
            "widths": list(self.widths),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")

    def _head(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights that are of no checkpoint."""
        return {weight: tensor for weight, tensor in state.items() if weight.partition(".")[0] not in self.CHECKPOINTS}


def _place(cls: type[Encoder], folder: Path, name: str) -> Path:
    return folder if len(cls.CHECKPOINTS) == 1 else folder / name


def refuse_nothing(items: Sequence[Item]) -> None:
    """Refuses an item that nothing could be found of, or by: an instruction says what is wanted, and is not what is sought."""
    for item in items:
        if not item.modality:
            raise Refused(f"item {item.id!r} ({item.source}:{item.line}) is of nothing; an item must have text, a picture or a clip")


def refuse_unread(items: Sequence[Item], reads: Modality, architecture: str) -> None:
    """Refuses an item of nothing, and one that holds what a retriever does not read."""
    refuse_nothing(items)
    for item in items:
        if more := item.modality & ~reads:
            raise Refused(
                f"item {item.id!r} ({item.source}:{item.line}) has {more.words}, and {architecture} reads {reads.words} alone; "
                "leave such items out, or train a retriever that reads them"
            )


def architecture(name: str) -> type[Encoder]:
    """The Encoder class of a retriever by its name."""
    if name not in ARCHITECTURES:
        raise Refused(f"retriever {name!r} is not known; there are {', '.join(sorted(ARCHITECTURES))}")
    module, cls = ARCHITECTURES[name]
    return getattr(import_module(module), cls)


def architecture_of(config: EncoderConfig) -> type[Encoder]:
    """The Encoder class that a config is of."""
    return next(architecture(name) for name, (module, _) in ARCHITECTURES.items() if module == type(config).__module__)


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder that `Encoder.save` wrote into `folder`."""
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise Refused(f"{folder} holds no {DESCRIPTION}; give the folder of an encoder that training or a release wrote")
    description = json.loads(path.read_text())
    cls = architecture(description["architecture"])
    encoder = cls.open(folder, revive(cls.Config, description["config"])).eval()
    encoder.temperature = description["temperature"]
    encoder.widths = tuple(description["widths"])
    return encoder
