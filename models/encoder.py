"""The base of every retriever: collate (CPU, picklable), forward (device), Vectors; encode, save and open are shared.

The folder of an encoder holds mirepoix.json, the checkpoint that it is built over (with several, each in a folder of its name: text/,
vision/), and in head.safetensors the weights that belong to no checkpoint.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from safetensors.torch import load_file, save_file

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, open_checkpoint
from mirepoix.models.backbones.tuning import merged, tune
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.encoder_config import (
    CODE,
    DESCRIPTION,
    READERS,
    EncoderConfig,
    Role,
    checkpoint_folder,
    described_config,
    read_description,
)
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.options import import_named
from mirepoix.models.token_batches import BATCH_TOKENS, Padding, fill
from mirepoix.models.vectors import Vectors

HEAD = "head.safetensors"


class Overlong(NamedTuple):
    """An item with more tokens than are read of it: how many it has, and how many are read."""

    tokens: int
    limit: int


class Collator(Protocol):
    """Turns items into tensors, on the CPU: queries, then documents. A row of the attention mask sums to the tokens of its item."""

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]: ...

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item as it stands in a batch, without padding: its words, and its pictures and clip, which are not decoded.

        Of an item that collating refuses it is any number.
        """
        ...

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        """Whether words of an item are cut when it is collated, always at their end; None where all of it is read.

        It costs little for texts that are surely short (`most_tokens`). Tokens are those of the sequence that the words stand in: of some
        retrievers pictures and prompt are in it too.
        """
        ...


class Encoder(torch.nn.Module):
    """Turns items into Vectors. A subclass has a collator, a forward and its towers; its config says what it is built over."""

    PROMPT: str = ""  # words of the prompt around every item
    UNDECAYED: tuple[str, ...] = ("relative_attention_bias.weight",)  # ends of the names of matrices without weight decay: T5's are biases
    config: EncoderConfig  # each retriever has its own subclass, which says what it is built over and what it reads
    collator: Collator
    temperature: float | None = None  # as training learned it, or as the checkpoint brings it
    widths: tuple[int, ...] = ()  # narrower widths that were trained too

    def __init__(self, config: EncoderConfig, **parts: LoadedCheckpoint):
        super().__init__()
        self.config = config
        self.parts = parts
        for name, part in parts.items():
            setattr(self, name, part.model)

    @property
    def architecture(self) -> str:
        """The name of the retriever."""
        return self.config.ARCHITECTURE

    @property
    def reads(self) -> Modality:
        """The modalities that its items may have."""
        return self.config.READS

    def refusal(self, modality: Modality) -> str | None:
        """Why it does not read items of a modality; None where it does."""
        more = modality & ~self.reads
        return f"{self.architecture} reads {self.reads.words} alone" if more else None

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The width of a row."""

    @abstractmethod
    def forward(self, *args: Any, **batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """rows_NTD and mask_NT of a collated batch, as a plain tuple, so that the hooks of a training engine see the tensors."""

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the outputs of frozen parts in place of what these read; the batch itself where no such part is frozen.

        `forward` gives equal rows for both. A training that runs a batch twice, to save memory, runs its frozen parts once in this way.
        """
        return batch

    @property
    @abstractmethod
    def towers(self) -> Mapping[str, torch.nn.Module]:
        """The parts that can be trained apart, by the names that `Tuning.towers` takes."""

    @property
    def runs_custom_code(self) -> bool:
        """Whether a part of it, or what reads its inputs, is a class that its checkpoint brought, and not one of a library."""
        modules = list(self.modules())
        readers = [
            getattr(owner, name, None)
            for owner in (*self.parts.values(), *modules)
            for name in ("tokenizer", "image_processor", "processor")
        ]
        readers += [getattr(reader, name, None) for reader in readers for name in ("tokenizer", "image_processor", "video_processor")]
        return any(type(part).__module__.startswith("transformers_modules.") for part in (*modules, *readers))

    @property
    def training_collator(self) -> Collator:
        """The collator of training, where that reads items in another way."""
        return self.collator

    @classmethod
    def prompt(cls, config: EncoderConfig) -> str:
        """The words that are read beside those of a corpus, for a tokenizer that is trained on it."""
        return cls.PROMPT

    @classmethod
    def build(cls, checkpoints: Mapping[str, Checkpoint], config: EncoderConfig) -> Self:
        """The encoder over published checkpoints; new weights are drawn with torch's random numbers."""
        return cls(config, **{name: open_checkpoint(checkpoints[name], kind) for name, kind in config.CHECKPOINTS.items()})

    @classmethod
    def open(cls, folder: str | Path, config: EncoderConfig, trust_remote_code: bool = False) -> Self:
        """The encoder that `save` wrote."""
        places = {name: checkpoint_folder(config, Path(folder), name) for name in config.CHECKPOINTS}
        encoder = cls.build({name: Checkpoint(place, trust_remote_code=trust_remote_code) for name, place in places.items()}, config)
        state = encoder.state_dict()
        own, unread = encoder._head(state), {f"{name}.{weight}" for name, part in encoder.parts.items() for weight in part.unread}
        path = Path(folder) / HEAD
        given = load_file(path) if path.is_file() else {}
        if odd := sorted((own.keys() ^ given.keys()) | (unread - state.keys())):
            names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
            what = f"{len(odd)} weights of the {encoder.architecture} are missing or unexpected"
            raise Refused(f"{folder}: {what}: {names}; give a whole encoder")
        encoder.load_state_dict(given, strict=False)
        return encoder

    def tune(self, tuning: Tuning) -> Self:
        """Prepares training: what `tuning` names is trained, everything else is frozen."""
        tune(self, self.towers, tuning, self.config.TUNING)
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
        batch_tokens: int | None = None,
        padding: Padding | None = None,
    ) -> Vectors:
        """Vectors of all items, on the CPU, in batches of items of similar length, which keeps padding low; `padding` counts it.

        A batch has at most `batch_size` items and, padded, `batch_tokens` tokens, if not as many as suit the device; an item that has more
        is alone.
        """
        if not items:
            raise Refused("no items to encode; give at least one item")
        was_training = self.training
        self.eval()
        lengths = self.collator.lengths(items) if role == "query" else self.collator.lengths((), items)
        suited = BATCH_TOKENS["cpu" if self.device.type == "cpu" else "gpu"]
        batches = fill(lengths, suited if batch_tokens is None else batch_tokens, batch_size)
        if padding is not None:
            padding.add(lengths, batches)
        parts, done = [], 0
        try:
            with torch.inference_mode():
                for places in batches:
                    these = [items[place] for place in places]
                    batch = self.collator(these) if role == "query" else self.collator((), these)
                    rows_NTD, mask_NT = self(**{name: tensor.to(self.device) for name, tensor in batch.items()})
                    parts.append(Vectors(rows_NTD, mask_NT).cpu())
                    done += len(places)
                    if report:
                        report(done)
        finally:
            self.train(was_training)
        back = torch.tensor([place for places in batches for place in places]).argsort()
        return Vectors.cat(parts)[back]

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Writes the checkpoint folders with adapters merged, the head, and the description of the retriever.

        `state` has the gathered weights where this process has only a shard of them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = merged(self, self.state_dict() if state is None else state)
        for name, part in self.parts.items():
            prefix = f"{name}."
            own = {weight.removeprefix(prefix): tensor for weight, tensor in plain.items() if weight.startswith(prefix)}
            part.save(checkpoint_folder(self.config, folder, name), own)
        if head := self._head(plain):
            save_file({weight: tensor.contiguous() for weight, tensor in head.items()}, folder / HEAD)
        description = {
            "architecture": self.architecture,
            "config": asdict(self.config),
            "temperature": self.temperature,
            "widths": list(self.widths),
        }
        if self.runs_custom_code:
            description["custom_code"] = True
        else:
            _drop_code(folder)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")

    def _head(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights that belong to no checkpoint."""
        return {weight: tensor for weight, tensor in state.items() if weight.partition(".")[0] not in self.config.CHECKPOINTS}


def frozen(part: torch.nn.Module) -> bool:
    """Whether no weight of a part is trained."""
    return not any(weight.requires_grad for weight in part.parameters())


def _drop_code(folder: Path) -> None:
    """Removes from the files of a folder the classes of its own that a checkpoint named and none of which was used."""
    for path in folder.rglob("*.json"):
        if path.name in ("config.json", *READERS) and CODE in (fields := json.loads(path.read_text(encoding="utf-8"))):
            path.write_text(json.dumps({name: value for name, value in fields.items() if name != CODE}, indent=2) + "\n", encoding="utf-8")


def refuse_empty(items: Sequence[Item]) -> None:
    """Refuses an item without text, image and video: an instruction alone is not searchable."""
    for item in items:
        if not item.modality:
            raise Refused(f"item {item.id!r} ({item.source}:{item.line}) has no text, image or video; give it one of these")


def refuse_unread(items: Sequence[Item], config: type[EncoderConfig]) -> None:
    """Refuses an empty item, and one with a modality that the retriever does not read."""
    refuse_empty(items)
    for item in items:
        if more := item.modality & ~config.READS:
            raise Refused(
                f"item {item.id!r} ({item.source}:{item.line}) has {more.words}, and {config.ARCHITECTURE} reads "
                f"{config.READS.words} alone; leave such items out, or train a retriever that reads them"
            )


def encoder_class(config: EncoderConfig | type[EncoderConfig]) -> type[Encoder]:
    """The Encoder class that a config is for."""
    found: type[Encoder] = import_named(config.ENCODER)
    return found


def load_encoder(folder: str | Path, trust_remote_code: bool = False) -> Encoder:
    """The encoder that `Encoder.save` wrote into `folder`; one that runs code of its own is refused unless the caller trusts that code."""
    description = read_description(folder)
    config = described_config(description)
    if description.get("custom_code") and not trust_remote_code:
        raise Refused(f"the encoder in {folder} runs code that its checkpoint brought; read it, then say that it may: trust_remote_code")
    encoder = encoder_class(config).open(folder, config, trust_remote_code).eval()
    encoder.temperature = description["temperature"]
    encoder.widths = tuple(description["widths"])
    return encoder


def load_own_encoder(folder: str | Path) -> Encoder:
    """The encoder that a stage of this run made; what its description marks as code of its own was allowed when the backbone was made."""
    return load_encoder(folder, trust_remote_code=bool(read_description(folder).get("custom_code")))
