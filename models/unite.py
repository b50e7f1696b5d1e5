"""UNITE: one multimodal language model encodes everything; the last token of a one-word-summary prompt is the vector.

Shapes: B items, L tokens, D width, P patches of all pictures, V pictures and clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mirepoix.models.backbone import open_backbone, quiet
from mirepoix.models.encoder import Encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.options import option

SYSTEM = "You are a helpful assistant."
_NAMES = ((Modality.TEXT, "sentence"), (Modality.IMAGE, "image"), (Modality.VIDEO, "video"))
_IMAGE, _VIDEO = 1, 2


@dataclass(frozen=True)
class UniteConfig:
    """How UNITE reads an item."""

    positions: Literal["flat", "mrope"] = option("flat", "flat counts tokens, as the published vectors do; mrope gives pictures their grid")
    max_length: int = option(2048, "most tokens of an item; only text is cut")
    max_pixels: int | None = option(None, "most pixels of a picture; null leaves what the backbone says")
    summary: bool = option(True, "ask for a one-word summary, naming the modalities, before the token that is pooled")


class UniteCollator:
    """Items to token ids and patches, on the CPU; holds a tokenizer and an image processor, no model."""

    def __init__(self, config: UniteConfig, tokenizer: Any, image_processor: Any, image_token: int, video_token: int):
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.token_of = {_IMAGE: image_token, _VIDEO: video_token}
        if config.max_pixels is not None:
            image_processor.size = {
                "shortest_edge": min(config.max_pixels, image_processor.size["shortest_edge"]),
                "longest_edge": config.max_pixels,
            }
        self.head = tokenizer(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")["input_ids"]
        self.tail = tokenizer("<|im_end|>\n<|im_start|>assistant\n<|endoftext|>")["input_ids"]
        self.vision_start, self.vision_end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        self.pad = tokenizer.pad_token_id

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        patches: list[np.ndarray] = []
        grids: list[tuple[int, int, int]] = []
        kinds: list[int] = []
        sequences = []
        for item in items:
            first = len(kinds)
            for kind, frames in [(_IMAGE, [image]) for image in item.images] + ([(_VIDEO, item.video)] if item.video else []):
                pixels, grid = self._see(item, frames)
                patches.append(pixels)
                grids.append(grid)
                kinds.append(kind)
            sequences.append(self._tokens(item, list(zip(kinds[first:], grids[first:], strict=True))))
        length = max(len(ids) for ids, _ in sequences)
        batch = {
            "input_ids": torch.tensor([[self.pad] * (length - len(ids)) + ids for ids, _ in sequences]),
            "attention_mask": torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, _ in sequences]),
            "mm_token_type_ids": torch.tensor([[0] * (length - len(ids)) + types for ids, types in sequences]),
        }
        if patches:
            batch["pixel_values"] = torch.from_numpy(np.concatenate(patches))
            batch["grid_thw"] = torch.tensor(grids)
            batch["kinds"] = torch.tensor(kinds)
        return batch

    def _see(self, item: Item, frames: Sequence[bytes]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Patches of a picture, or of a clip; a clip's frames share patches by twos, a last odd one with itself."""
        try:
            pictures = [Image.open(BytesIO(frame)).convert("RGB") for frame in frames]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(
                f"item {item.id!r} ({item.source}:{item.line}) has a picture that cannot be decoded; curate the corpus first"
            ) from error
        pictures = [pictures[0], *(picture.resize(pictures[0].size) for picture in pictures[1:])]
        seen = self.image_processor(images=pictures, return_tensors="np")
        _, height, width = seen["image_grid_thw"][0].tolist()
        temporal, size = self.image_processor.temporal_patch_size, self.image_processor.patch_size
        still_FPCthw = seen["pixel_values"].reshape(len(pictures), height * width, 3, temporal, size, size)
        if len(pictures) % temporal:
            still_FPCthw = np.concatenate([still_FPCthw] + [still_FPCthw[-1:]] * (temporal - len(pictures) % temporal))
        if len(pictures) > 1:
            moving = np.stack([still_FPCthw[moment::temporal, :, :, moment] for moment in range(temporal)], axis=3)
        else:
            moving = still_FPCthw[:1]
        return moving.reshape(-1, still_FPCthw[0, 0].size), (len(moving), height, width)

    def _tokens(self, item: Item, visuals: list[tuple[int, tuple[int, int, int]]]) -> tuple[list[int], list[int]]:
        """Token ids of the whole prompt, and for each whether it stands for text, picture or clip."""
        ids, types = list(self.head), [0] * len(self.head)
        for kind, grid in visuals:
            count = math.prod(grid) // self.image_processor.merge_size**2
            ids += [self.vision_start, *[self.token_of[kind]] * count, self.vision_end]
            types += [0, *[kind] * count, 0]
        text = "\n".join(part for part in (item.instruction.strip(), item.text.strip()) if part)
        names = " and ".join(name for bit, name in _NAMES if item.modality & bit)
        request = f"\nSummary above {names} in one word:" if self.config.summary else ""
        lead = "\n" if visuals and text else ""
        room = self.config.max_length - len(ids) - len(self.tail)
        words = self._plain(lead + text + request)
        if len(words) > room:
            ending = self._plain(request)
            if len(ending) > room:
                raise Refused(
                    f"item {item.id!r} needs {len(ids) + len(self.tail) + len(ending)} tokens before any text, "
                    f"max_length is {self.config.max_length}; raise max_length or lower max_pixels"
                )
            words = self._plain(lead + text)[: room - len(ending)] + ending
        ids += words + self.tail
        return ids, types + [0] * (len(ids) - len(types))

    def _plain(self, text: str) -> list[int]:
        """Ids of text in which control tokens are only letters: what a corpus or a visitor writes never becomes structure."""
        return self.tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


class Unite(Encoder):
    """UNITE over a Qwen2-VL model; the same weights encode queries and candidates."""

    architecture = "unite"
    TOWERS = ("language", "vision")
    PROMPT = f"system\n{SYSTEM}\nuser\nassistant\nSummary above sentence and image in one word:"
    Config = UniteConfig

    def __init__(self, config: UniteConfig, model: torch.nn.Module, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.collator = UniteCollator(config, tokenizer, image_processor, model.config.image_token_id, model.config.video_token_id)
        model.config.use_cache = False
        self.model = model

    @classmethod
    def open(cls, folder: str | Path, config: UniteConfig, revision: str | None = None) -> "Unite":
        return cls(config, *open_backbone(folder, revision))

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {"language": self.model.language_model, "vision": self.model.visual}

    @property
    def dimension(self) -> int:
        return self.model.config.text_config.hidden_size

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        grid_thw: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embeds_BLD = self.model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            seen_D = self._look(pixel_values, grid_thw)
            places_BL1 = (mm_token_type_ids > 0)[:, :, None]
            embeds_BLD = embeds_BLD.masked_scatter(places_BL1, seen_D.to(embeds_BLD.dtype))
        elif self.training:
            # Every rank must run the same towers in every micro-batch, or their collectives disagree: a blank picture, times zero.
            vision = self.model.config.vision_config
            patch = 3 * vision.temporal_patch_size * vision.patch_size**2
            side = vision.spatial_merge_size
            blank = torch.zeros(side * side, patch, device=input_ids.device)
            seen_D = self._look(blank, torch.tensor([[1, side, side]], device=input_ids.device))
            embeds_BLD = embeds_BLD + 0.0 * seen_D.sum().to(embeds_BLD.dtype)
        states_BLD = self.model.language_model(
            inputs_embeds=embeds_BLD,
            attention_mask=attention_mask,
            position_ids=self._positions(input_ids, attention_mask, mm_token_type_ids, grid_thw, kinds),
        ).last_hidden_state
        rows_BD = F.normalize(states_BLD[:, -1].float(), dim=-1)
        return rows_BD[:, None], torch.ones(len(rows_BD), 1, dtype=torch.bool, device=rows_BD.device)

    def _look(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """Features of all pictures and clips, in one call of the tower."""
        return self.model.visual(pixel_values.to(self.model.visual.dtype), grid_thw=grid_thw).pooler_output

    def _positions(self, input_ids, attention_mask, mm_token_type_ids, grid_thw, kinds) -> torch.Tensor:
        if self.config.positions == "mrope" and grid_thw is not None:
            positions, _ = self.model.get_rope_index(
                input_ids,
                mm_token_type_ids=mm_token_type_ids,
                image_grid_thw=grid_thw[kinds == _IMAGE] if (kinds == _IMAGE).any() else None,
                video_grid_thw=grid_thw[kinds == _VIDEO] if (kinds == _VIDEO).any() else None,
                attention_mask=attention_mask,
            )
            return positions
        return (attention_mask.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)

    def save_towers(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        with quiet():
            self.model.save_pretrained(folder, state_dict={name.removeprefix("model."): tensor for name, tensor in state.items()})
        self.tokenizer.save_pretrained(folder)
        self.collator.image_processor.save_pretrained(folder)
