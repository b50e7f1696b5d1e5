"""What UNITE and JFE share: one Qwen-VL model reads an item's pictures, clip and words in one sequence, a turn of ChatML.

A picture stands in the sequence as vision-start, a pad token for each place of its features, vision-end; the features take the places
of the pads before the first layer. So does a clip, whose frames share patches by twos, a last odd one with itself. Where the backbone's
own processor writes the time before each moment of a clip (Qwen3-VL), every moment has its time, its vision-start and its vision-end.
An item may be read as several sequences: they stand side by side in its row of a batch.

Shapes: N items, S sequences of an item, R sequences of a batch, L tokens of a sequence, D width; F frames, T frames that share a patch,
P patches of a frame, C colours, h and w pixels of a patch.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from mirepoix.models.backbones.checkpoints import Kind, LoadedCheckpoint
from mirepoix.models.backbones.pictures import decoded
from mirepoix.models.encoder import Encoder, EncoderConfig, refuse_nothing
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.options import option, refuse_unknown

_NAMES = ((Modality.TEXT, "sentence"), (Modality.IMAGE, "image"), (Modality.VIDEO, "video"))
_IMAGE, _VIDEO = 1, 2


@dataclass(frozen=True)
class OneTowerConfig(EncoderConfig):
    """How a Qwen-VL model reads an item."""

    positions: Literal["1d", "mrope"] = option("mrope", "1d counts tokens; mrope gives pictures and clips their grid, as the backbone does")
    max_length: int = option(2048, "most tokens of an item; only words are cut")
    max_pixels: int | None = option(None, "most pixels of a picture; null leaves what the backbone says")
    min_pixels: int | None = option(None, "fewest pixels of a picture, a smaller one is enlarged; null leaves what the backbone says")
    max_frame_pixels: int = option(240 * 320, "most pixels of a clip's frame, never more than of a picture; fewest are those of a token")
    max_frames: int | None = option(
        32,
        "most frames of a clip, of more so many are read, evenly spaced from the first to the last; null: all; "
        "UNITE was trained with 4 to 12 and demonstrated with up to 32",
    )
    frames_per_second: float = option(
        1.0, "frames of a clip to its second, which an item does not tell; mrope of Qwen2.5-VL and the words of Qwen3-VL count seconds"
    )

    def __post_init__(self) -> None:
        refuse_unknown(self)
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise Refused(f"min_pixels is {self.min_pixels} and max_pixels {self.max_pixels}; give a min_pixels not above max_pixels")
        for name in ("max_length", "max_pixels", "min_pixels", "max_frame_pixels", "max_frames", "frames_per_second"):
            if (given := getattr(self, name)) is not None and not given > 0:
                raise Refused(f"{name} is {given}; give a number above 0")


class TokenBatch(NamedTuple):
    """Words of a sequence; what of them stays when they are cut."""

    text: str
    kept: str = ""


class View(NamedTuple):
    """A picture or a clip as the model sees it, and the tokens that hold its place."""

    kind: int
    ids: list[int]
    pixels: np.ndarray
    grid: tuple[int, int, int]
    stride: float  # frames of a clip from one that is read to the next


class OneTowerCollator:
    """Items to token ids and patches, on the CPU; holds a tokenizer and an image processor, no model."""

    def __init__(self, config: OneTowerConfig, backbone: LoadedCheckpoint):
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        told = backbone.model.config
        self.config = config
        self.tokenizer = backbone.tokenizer
        self.image_processor = backbone.image_processor
        self.token_of = {_IMAGE: told.image_token_id, _VIDEO: told.video_token_id}
        self.times: Callable | None = getattr(PROCESSOR_MAPPING[type(told)], "_calculate_timestamps", None)
        size, token = self.image_processor.size, (self.image_processor.patch_size * self.image_processor.merge_size) ** 2
        most = config.max_pixels or size["longest_edge"]
        fewest = min(config.min_pixels or size["shortest_edge"], most)
        self.image_processor.size = {"shortest_edge": fewest, "longest_edge": most}
        most = min(most, config.max_frame_pixels)
        self.frame_size = {"shortest_edge": min(token, most), "longest_edge": most}
        self.vision_start, self.vision_end = self.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        self.pad = self.tokenizer.pad_token_id

    @abstractmethod
    def sequences(self, item: Item, views: Sequence[View]) -> list[list[list[int] | TokenBatch]]:
        """The pieces of each sequence that an item is read as: tokens that stay, and words."""

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_nothing(items)
        views = [self._views(item) for item in items]
        read = [[self._fitted(item, pieces) for pieces in self.sequences(item, seen)] for item, seen in zip(items, views, strict=True)]
        length = max(len(ids) for each in read for ids in each)
        ids_NSL = torch.tensor([[[self.pad] * (length - len(ids)) + ids for ids in each] for each in read])
        mask_NSL = torch.tensor([[[0] * (length - len(ids)) + [1] * len(ids) for ids in each] for each in read])
        types_NSL = sum(kind * (ids_NSL == token).long() for kind, token in self.token_of.items())
        batch = {"input_ids": ids_NSL.flatten(1), "attention_mask": mask_NSL.flatten(1), "mm_token_type_ids": types_NSL.flatten(1)}
        if seen := [view for each in views for view in each]:
            batch["pixel_values"] = torch.from_numpy(np.concatenate([view.pixels for view in seen]))
            batch["grid_thw"] = torch.tensor([view.grid for view in seen])
            batch["kinds"] = torch.tensor([view.kind for view in seen])
            batch["strides"] = torch.tensor([view.stride for view in seen])
        return batch

    def structure(self, text: str) -> list[int]:
        """Ids of text of ours, in which control tokens are what they are."""
        return self.tokenizer(text)["input_ids"]

    def _plain(self, text: str) -> list[int]:
        """Ids of text in which control tokens are only letters: what a corpus or a visitor writes never becomes structure."""
        return self.tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]

    def _fitted(self, item: Item, pieces: Sequence[list[int] | TokenBatch]) -> list[int]:
        """The pieces as one sequence; where that is too long, the last words are cut first."""
        read = [self._plain(piece.text + piece.kept) if isinstance(piece, TokenBatch) else piece for piece in pieces]
        over = sum(map(len, read)) - self.config.max_length
        for place, piece in reversed(list(enumerate(pieces))):
            if over > 0 and isinstance(piece, TokenBatch):
                kept = self._plain(piece.kept)
                short = self._plain(piece.text)[: max(0, len(read[place]) - over - len(kept))] + kept
                over += len(short) - len(read[place])
                read[place] = short
        if over > 0:
            seen = ((item.images, " or lower max_pixels"), (item.video, " or lower max_frames or max_frame_pixels"))
            raise Refused(
                f"item {item.id!r} needs {self.config.max_length + over} tokens before any text, "
                f"max_length is {self.config.max_length}; raise max_length" + "".join(remedy for views, remedy in seen if views)
            )
        return [token for ids in read for token in ids]

    def _views(self, item: Item) -> list[View]:
        views = [self._view(_IMAGE, decoded(item, [image]), self.image_processor.size, [0]) for image in item.images]
        if item.video:
            count = len(item.video)
            read = np.linspace(0, count - 1, min(count, self.config.max_frames or count)).round().astype(int).tolist()
            views.append(self._view(_VIDEO, decoded(item, [item.video[place] for place in read]), self.frame_size, read))
        return views

    def _view(self, kind: int, frames: list[Image.Image], size: dict[str, int], read: list[int]) -> View:
        """A picture, or a clip, whose frames all take the size of the first; `read` says which of the clip's they are."""
        shared, side = self.image_processor.temporal_patch_size, self.image_processor.patch_size
        alike = [frames[0], *(frame.resize(frames[0].size) for frame in frames[1:])]
        seen = self.image_processor(images=alike, size=size, return_tensors="np")
        _, height, width = seen["image_grid_thw"][0].tolist()
        still_FPCThw = seen["pixel_values"].reshape(len(frames), height * width, 3, shared, side, side)
        still_FPCThw = np.concatenate([still_FPCThw] + [still_FPCThw[-1:]] * (-len(frames) % shared))
        moving = np.stack([still_FPCThw[moment::shared, :, :, moment] for moment in range(shared)], axis=3)
        places = [self.token_of[kind]] * (height * width // self.image_processor.merge_size**2)
        if kind == _VIDEO and self.times is not None:
            times = self.times(None, list(read), self.config.frames_per_second, shared)
            ids = [token for time in times for token in self._plain(f"<{time:.1f} seconds>") + self._framed(places)]
        else:
            ids = self._framed(places * len(moving))
        stride = max(1.0, (read[-1] - read[0]) / max(1, len(read) - 1))
        return View(kind, ids, moving.reshape(-1, still_FPCThw[0, 0].size), (len(moving), height, width), stride)

    def _framed(self, places: list[int]) -> list[int]:
        return [self.vision_start, *places, self.vision_end]


class OneTower(Encoder):
    """An encoder that is one Qwen-VL model; the same weights encode queries and documents."""

    TOWERS = ("language", "vision")
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"model": "multimodal"}
    FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    READS = Modality.TEXT | Modality.IMAGE | Modality.VIDEO
    Collator: type[OneTowerCollator]
    causal = True

    def __init__(self, config: OneTowerConfig, model: LoadedCheckpoint):
        super().__init__(config, model=model)
        self.tokenizer = model.tokenizer
        self.collator = self.Collator(config, model)
        told = self.model.config.text_config
        told.use_cache = False
        told.is_causal = self.causal

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {"language": self.model.language_model, "vision": self.model.visual}

    @property
    def dimension(self) -> int:
        return self.model.config.text_config.hidden_size

    def states(
        self,
        ids_RL: torch.Tensor,
        mask_RL: torch.Tensor,
        types_RL: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        grid_thw: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
        strides: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last layer's states_RLD of padded sequences; all pictures and clips go through the vision tower in one call.

        For that a clip's places are told to be a picture's: what makes a clip one are its positions, and these are made here. If ranks ran
        different modules, or in another order, their collectives would hang: in training, a batch without pictures sees a blank one.
        """
        told = {
            "input_ids": ids_RL.masked_fill(types_RL > 0, self.model.config.image_token_id),
            "attention_mask": mask_RL,
            "position_ids": self._positions(ids_RL, mask_RL, types_RL, grid_thw, kinds, strides),
        }
        if pixel_values is not None:
            seen = self.model.get_image_features(pixel_values, grid_thw, return_dict=True)
            return self.model(**told, mm_encoder_outputs={"image": seen}).last_hidden_state
        blank = 0.0 * self._blank(ids_RL.device) if self.training else 0.0
        return self.model(**told).last_hidden_state + blank

    def _blank(self, device: torch.device) -> torch.Tensor:
        """The sum of what the language model would take of a blank picture: gradients too must come the same ways."""
        told, visual = self.model.config.vision_config, self.model.visual
        side = told.spatial_merge_size
        patches = torch.zeros(side * side, 3 * told.temporal_patch_size * told.patch_size**2, dtype=visual.dtype, device=device)
        seen = visual(patches, grid_thw=torch.tensor([[1, side, side]], device=device))
        taken = [parts for name, parts in seen.items() if name != "last_hidden_state"]
        return sum(part.sum() for parts in taken for part in (parts if isinstance(parts, list) else [parts]))

    def _positions(self, ids_RL, mask_RL, types_RL, grid_thw, kinds, strides) -> torch.Tensor:
        """Where each token stands on the three axes of M-RoPE."""
        if self.config.positions == "1d" or grid_thw is None:
            return (mask_RL.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
        images, clips = (grid_thw[kinds == kind] for kind in (_IMAGE, _VIDEO))
        seconds = self.model.config.vision_config.temporal_patch_size / self.config.frames_per_second
        return self.model.get_rope_index(
            ids_RL,
            mm_token_type_ids=types_RL,
            image_grid_thw=images,
            video_grid_thw=clips,
            second_per_grid_ts=[seconds * stride for stride in strides[kinds == _VIDEO].tolist()],
            attention_mask=mask_RL,
        )[0]


def named(modality: Modality) -> str:
    """A modality as UNITE's prompt names it: "sentence", "sentence and image", ..."""
    return " and ".join(name for bit, name in _NAMES if modality & bit)
