"""Two-tower models straight through transformers: CLIP, SigLIP, SigLIP 2, Chinese-CLIP; one vector of a text or of a picture.

Each is read by its own tokenizer and image processor. SigLIP and SigLIP 2 pool the last position of a text and were trained on texts padded
to the full length, so theirs are always padded to it; the others' are padded to the longest.

Shapes: P texts or pictures, L tokens, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mirepoix.models.adopted.collate import Part
from mirepoix.models.adopted.layout import Layout
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, open_checkpoint
from mirepoix.models.backbones.clip_temperature import SCALE, temperature_of
from mirepoix.models.backbones.pictures import decoded_groups, patch_count
from mirepoix.models.backbones.plain_tokens import most_tokens
from mirepoix.models.encoder import Overlong, frozen
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

PADDED = ("siglip", "siglip2")
SPECIAL = 4
"""More than the tokens that a tokenizer puts around a text."""
SCALES = (SCALE, "logit_bias")
_TOWERS = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}


class TwoTowerReader:
    """Makes the tensors of texts and of pictures, with the tokenizer and the image processor of the checkpoint."""

    reads = Modality.TEXT | Modality.IMAGE
    together = False
    calls = ("text", "image")

    def __init__(self, part: LoadedCheckpoint, layout: Layout, length: int | None):
        self.prompts = layout.prompts
        self.tokenizer = part.tokenizer
        self.image_processor = part.image_processor
        longest = int(part.model.config.text_config.max_position_embeddings)
        self.length = min(each for each in (length, layout.max_length, longest, self.tokenizer.model_max_length) if each is not None)
        self.patches = getattr(part.image_processor, "max_num_patches", None) or patch_count(part.model.config.vision_config)
        self.padding = "max_length" if layout.family in PADDED else True
        if layout.family in PADDED and self.length < longest:
            raise Refused(f"max_length is {self.length}, and {layout.family} reads texts of exactly {longest} tokens; give that, or null")

    def call_of(self, part: Part) -> str:
        return "image" if part.item.images else "text"

    def tensors(self, call: str, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        if call == "image":
            groups = decoded_groups([part.item for part in parts])
            made = [dict(self.image_processor(images=group, return_tensors="pt")) for group in groups]
            return {name: torch.cat([each[name] for each in made]) for name in made[0]}
        texts = [part.prompt + part.item.text for part in parts]
        return dict(self.tokenizer(texts, padding=self.padding, truncation=True, max_length=self.length, return_tensors="pt"))

    def lengths(self, call: str, parts: Sequence[Part]) -> list[int]:
        if call == "image":
            return [self.patches] * len(parts)
        if self.padding == "max_length":
            return [self.length] * len(parts)
        texts = [part.prompt + part.item.text for part in parts]
        return [len(ids) for ids in self.tokenizer(texts, truncation=True, max_length=self.length)["input_ids"]]

    def overlong(self, call: str, part: Part) -> Overlong | None:
        text = part.prompt + part.item.text
        if call == "image" or most_tokens(text) + SPECIAL <= self.length:
            return None
        tokens = len(self.tokenizer(text, verbose=False)["input_ids"])
        return Overlong(tokens, self.length) if tokens > self.length else None

    def apart(self, parts: Sequence[Part]) -> list[list[int]]:
        return [list(range(len(parts)))]

    def blank(self, call: str, parts: Sequence[Part]) -> Part | None:
        return None if parts else Part(BLANKS[call], "document")


class TwoTowers:
    """An opened two-tower model: the part of an encoder that holds it."""

    def __init__(self, part: LoadedCheckpoint, layout: Layout, length: int | None):
        self.part = part
        self.layout = layout
        self.model = part.model
        self.unread = part.unread
        self.reader = TwoTowerReader(part, layout, length)
        self.temperature = own_temperature(self.model)

    @property
    def dimension(self) -> int:
        config: Any = self.model.config
        return int(config.projection_dim if hasattr(config, "projection_dim") else config.vision_config.hidden_size)

    @property
    def transformers_model(self) -> Any:
        return self.model

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {
            name: torch.nn.ModuleDict({part: getattr(self.model, part) for part in parts if hasattr(self.model, part)})
            for name, parts in _TOWERS.items()
        }

    def vectors(self, call: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of a call, as the model has them: projected, not normalised."""
        method = self.model.get_text_features if call == "text" else self.model.get_image_features
        vectors_PD: torch.Tensor = method(**tensors).pooler_output
        return vectors_PD

    def frozen(self, call: str) -> bool:
        return frozen(self.towers["text" if call == "text" else "vision"])

    def save(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """Writes the model as transformers does, in the layout that it was opened from."""
        self.part.save(folder / self.layout.place, state)
        for place, text in self.layout.files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(text, encoding="utf-8")


def open_two_towers(folder: Path, layout: Layout, checkpoint: Checkpoint, length: int | None) -> TwoTowers:
    """The model of a folder."""
    return TwoTowers(open_checkpoint(checkpoint._replace(name=folder / layout.place, revision=None), "multimodal"), layout, length)


def own_temperature(model: Any) -> float | None:
    """Makes buffers of a model's scale and of all other numbers that it learns, and returns the temperature that the scale is of.

    No engine can shard a parameter without a dimension, and the temperature that training learns is in `LearnedTemperature`.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0 or name in SCALES:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    scale = getattr(model, SCALE, None)
    return None if scale is None else temperature_of(scale)


def blank_picture(side: int = 32) -> bytes:
    """A black picture, as PNG."""
    from io import BytesIO

    data = BytesIO()
    Image.new("RGB", (side, side)).save(data, "PNG")
    return data.getvalue()


BLANKS = {
    "text": Item("blank", text="."),
    "image": Item("blank", images=(blank_picture(),)),
    "video": Item("blank", video=(blank_picture(), blank_picture())),
}
