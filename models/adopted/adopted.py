"""A published model as one retriever more: opened as its folder describes it, embedded with, trained, and saved in its own layout.

The vector of an item is what the model's own library gives for it, made unit. Where the model reads one modality at a time, a batch is read
in one call for each, in a fixed order, and the vectors are put back in the order of the items (collate.py).

Shapes: N items, P rows of a call, D width.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F

from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.adopted.collate import AGAIN, BLANK, PLACES, VECTORS, AdoptedCollator, Reader
from mirepoix.models.adopted.folder import resolved
from mirepoix.models.adopted.layout import read_layout, refuse_code
from mirepoix.models.adopted.two_towers import open_two_towers
from mirepoix.models.backbones.adapter import adapter_folder, merge_adapter, merge_loaded_adapter
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import quiet
from mirepoix.models.backbones.clip_temperature import SCALE
from mirepoix.models.encoder import Encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality


class PublishedModel(Protocol):
    """An opened model, with what reads its inputs."""

    model: Any

    @property
    def unread(self) -> tuple[str, ...]: ...

    @property
    def reader(self) -> Reader: ...

    @property
    def temperature(self) -> float | None: ...

    @property
    def dimension(self) -> int: ...

    @property
    def towers(self) -> Mapping[str, torch.nn.Module]: ...

    @property
    def transformers_model(self) -> Any: ...

    def vectors(self, call: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor: ...

    def frozen(self, call: str) -> bool:
        """Whether no weight that a call runs is trained; False where that is not known."""

    def save(self, folder: Path, state: dict[str, torch.Tensor]) -> None: ...


class Adopted(Encoder):
    """A published model; the same weights encode queries and documents, unless its folder routes them apart."""

    config: AdoptedConfig
    collator: AdoptedCollator
    model: Any

    def __init__(self, config: AdoptedConfig, model: Any, name: str = "the model"):
        super().__init__(config, model=model)
        self._published: PublishedModel = model
        if config.width is not None and config.width > model.dimension:
            raise Refused(f"width is {config.width}, and the vectors of {name} are {model.dimension} wide; give no more than that")
        self.collator = AdoptedCollator(config, model.reader, name)
        self._training = AdoptedCollator(config, model.reader, name, training=True)
        self.temperature = model.temperature

    @classmethod
    def build(cls, checkpoints: Mapping[str, Checkpoint], config: Any) -> Self:
        (adopted,) = checkpoints.values()
        adapter = adapter_folder(adopted)
        checkpoint, folder = resolved(adopted, adapter)
        assert folder is not None  # it is fetched, or refused
        layout = read_layout(folder, checkpoint.ignore)
        refuse_code(layout, checkpoint)
        if layout.opened_by == "transformers":
            published: PublishedModel = open_two_towers(folder, layout, checkpoint, config.max_length)
        else:
            from mirepoix.models.adopted.library import open_library

            published = open_library(folder, layout, checkpoint, config.max_length)
        if adapter is not None:
            with quiet():
                merge = merge_loaded_adapter if folder == adapter else merge_adapter
                merge(published.transformers_model, adapter)
        return cls(config, published, str(adopted.name))

    @property
    def reads(self) -> Modality:
        return self._published.reader.reads

    def refusal(self, modality: Modality) -> str | None:
        """Why it does not read items of a modality; None where it does."""
        return self.collator.refusal(modality)

    @property
    def training_collator(self) -> AdoptedCollator:
        return self._training

    @property
    def towers(self) -> Mapping[str, torch.nn.Module]:
        return self._published.towers

    @property
    def dimension(self) -> int:
        return self.config.width or self._published.dimension

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Saves as every retriever does, with a learned temperature as the model's own scale, where it has one."""
        plain = dict(self.state_dict() if state is None else state)
        if self.temperature is not None and self.temperature != self._published.temperature:
            for name in (name for name in plain if name.rpartition(".")[2] == SCALE):
                plain[name] = torch.full_like(plain[name], -math.log(self.temperature))
        super().save(folder, plain)

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the vectors of the calls that run no trained weight in place of what these read."""
        kept = {"attention_mask": batch["attention_mask"]}
        for prefix, tensors in self._calls({name: tensor for name, tensor in batch.items() if name not in kept}):
            if VECTORS not in tensors and self._published.frozen(prefix.partition(AGAIN)[0]):
                with torch.no_grad():
                    tensors = {PLACES: tensors[PLACES], VECTORS: self._vectors(prefix, tensors)}
            kept |= {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
        return kept

    def _calls(self, batch: Mapping[str, torch.Tensor]) -> list[tuple[str, dict[str, torch.Tensor]]]:
        """The tensors of each call by its prefix, in the order in which a forward makes the calls."""
        calls: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in batch.items():
            prefix, _, feature = name.partition(".")
            calls.setdefault(prefix, {})[feature] = tensor
        order = {call: number for number, call in enumerate(self._published.reader.calls)}
        return sorted(calls.items(), key=lambda each: (order[each[0].partition(AGAIN)[0]], each[0]))

    def _vectors(self, prefix: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of a call."""
        dtype = next(self.parameters()).dtype
        read = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items() if name != PLACES}
        return self._published.vectors(prefix.partition(AGAIN)[0], read).float()

    def forward(self, attention_mask: torch.Tensor, **batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, device = len(attention_mask), attention_mask.device
        sums_ND = torch.zeros(count, self._published.dimension, device=device)
        for prefix, tensors in self._calls(batch):
            places_P = tensors[PLACES]
            vectors_PD = tensors[VECTORS] if VECTORS in tensors else self._vectors(prefix, tensors)
            own_P = places_P != BLANK
            if not own_P.all():
                sums_ND = sums_ND + 0.0 * vectors_PD[~own_P].sum()
            places_P, vectors_PD = places_P[own_P], vectors_PD[own_P]
            # Of several pictures of an item the mean counts.
            counts_N = torch.bincount(places_P, minlength=count)
            sums_ND = sums_ND.index_add(0, places_P, vectors_PD / counts_N[places_P][:, None])
        rows_ND = F.normalize(sums_ND[:, : self.dimension], dim=-1)
        return rows_ND[:, None], torch.ones(count, 1, dtype=torch.bool, device=rows_ND.device)
