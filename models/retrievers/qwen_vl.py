"""What UNITE and JFE share: one Qwen-VL model reads an item's pictures, clip and words in one sequence, a turn of ChatML.

A picture is vision-start, one pad token per feature, vision-end; before the first layer its features replace the embeddings of the pads.
A clip is the same, with two frames per patch, the last one repeated if their number is odd. Where the backbone's own processor writes a
timestamp before each pair of frames (Qwen3-VL), every pair has its timestamp, its vision-start and its vision-end. An item may be read as
several sequences: they are side by side in its row of a batch.

Shapes: N items, S sequences of an item, R sequences of a batch, L tokens of a sequence, D width; F frames, T frames that share a patch,
P patches of a frame, C colours, h and w pixels of a patch.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.backbones.pictures import decoded, picture_size, whole_sides
from mirepoix.models.backbones.plain_tokens import PlainTokens, most_tokens
from mirepoix.models.encoder import Encoder, Overlong, frozen, refuse_empty
from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig

_NAMES = ((Modality.TEXT, "sentence"), (Modality.IMAGE, "image"), (Modality.VIDEO, "video"))
_IMAGE, _VIDEO = 1, 2
PROMPT = 256
"""More than the tokens around an item's words: those of the prompts, each of which is shorter than so many bytes."""
FETCHED = (4, 16384)
"""Fewest and most tokens of a picture that is resized twice, after the first time."""
FETCHED_FRAME = 128
"""Fewest tokens of a clip's frame that is resized twice, after the first time."""


class TokenBatch(NamedTuple):
    """Words of a sequence, which may be cut, and words behind them that are kept."""

    text: str
    kept: str = ""


class View(NamedTuple):
    """The patches of a picture or a clip, and the tokens that are their placeholders."""

    kind: int
    ids: list[int]
    pixels: np.ndarray
    grid: tuple[int, int, int]
    stride: float  # distance between the frames that are read, in frames of the clip


class Features(NamedTuple):
    """What the language model reads of all pictures and clips, in the form in which transformers takes it."""

    pooler_output: tuple[torch.Tensor]
    deepstack_features: list[tuple[torch.Tensor]]  # of a Qwen3-VL, for the first layers of its language model


class OneTowerCollator:
    """Turns items into token ids and patches, on the CPU; holds a tokenizer and an image processor, no model."""

    def __init__(self, config: OneTowerConfig, backbone: LoadedCheckpoint):
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        model_config = backbone.model.config
        self.config = config
        self.tokenizer = backbone.tokenizer
        self.plain = PlainTokens(backbone.tokenizer)
        self.image_processor = backbone.image_processor
        self.token_of = {_IMAGE: model_config.image_token_id, _VIDEO: model_config.video_token_id}
        self.times: Callable[..., list[float]] | None = getattr(PROCESSOR_MAPPING[type(model_config)], "_calculate_timestamps", None)
        size, self.side = self.image_processor.size, self.image_processor.patch_size * self.image_processor.merge_size
        most = config.max_pixels or size["longest_edge"]
        fewest = min(config.min_pixels or size["shortest_edge"], most)
        self.image_processor.size = {"shortest_edge": fewest, "longest_edge": most}
        frames = (config.min_frame_pixels, most) if config.min_frame_pixels else (self.side**2, min(most, config.max_frame_pixels))
        self.frame_size = {"shortest_edge": min(frames), "longest_edge": frames[1]}
        self.vision_start, self.vision_end = self.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        self.pad = self.tokenizer.pad_token_id

    @abstractmethod
    def sequences(self, item: Item, views: Sequence[list[int]]) -> list[list[list[int] | TokenBatch]]:
        """The sequences that an item is read as, each as pieces: token ids that are never cut, and words.

        `views` has the placeholders of its pictures and its clip.
        """

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_empty(items)
        views = [self._views(item) for item in items]
        read = [self._sequences(item, [view.ids for view in own]) for item, own in zip(items, views, strict=True)]
        length = max(len(ids) for each in read for ids in each)
        ids_NSL = torch.tensor([[[self.pad] * (length - len(ids)) + ids for ids in each] for each in read])
        mask_NSL = torch.tensor([[[0] * (length - len(ids)) + [1] * len(ids) for ids in each] for each in read])
        types_NSL = torch.zeros_like(ids_NSL)
        for kind, token in self.token_of.items():
            types_NSL += kind * ids_NSL.eq(token).long()
        batch = {"input_ids": ids_NSL.flatten(1), "attention_mask": mask_NSL.flatten(1), "mm_token_type_ids": types_NSL.flatten(1)}
        if flat := [view for each in views for view in each]:
            batch["pixel_values"] = torch.from_numpy(np.concatenate([view.pixels for view in flat]))
            batch["grid_thw"] = torch.tensor([view.grid for view in flat])
            batch["kinds"] = torch.tensor([view.kind for view in flat])
            batch["strides"] = torch.tensor([view.stride for view in flat])
        return batch

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item, as the attention mask counts them."""
        return [sum(map(len, self._sequences(item, self._placeholders(item)))) for item in (*queries, *documents)]

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        """The sequence with words that is longer than the limit, if there is one; its pictures, its clip and the prompt count."""
        pictured = item.images or item.video
        if not pictured and most_tokens(item.instruction) + most_tokens(item.text) + PROMPT <= self.config.max_length:
            return None
        for pieces in self.sequences(item, self._placeholders(item)):
            words = [piece for piece in pieces if isinstance(piece, TokenBatch)]
            tokens = sum(len(self.plain(piece.text + piece.kept)) if isinstance(piece, TokenBatch) else len(piece) for piece in pieces)
            if tokens > self.config.max_length and any(piece.text for piece in words):
                return Overlong(tokens, self.config.max_length)
        return None

    def _sequences(self, item: Item, views: Sequence[list[int]]) -> list[list[int]]:
        return [self._fitted(item, pieces) for pieces in self.sequences(item, views)]

    def _placeholders(self, item: Item) -> list[list[int]]:
        """The placeholders of an item's pictures and clip, by their sizes alone."""
        ids = [self._ids(_IMAGE, self._patches(self._fetched(picture_size(each)), self.image_processor.size), [0]) for each in item.images]
        if item.video:
            size = self._fetched_frame(picture_size(item.video[0]))
            ids.append(self._ids(_VIDEO, self._patches(size, self.frame_size), self._moments(item)))
        return ids

    def _patches(self, size: tuple[int, int], within: dict[str, int]) -> int:
        """How many patches the image processor makes of a picture, or of a frame."""
        limits = {"min_pixels": within["shortest_edge"], "max_pixels": within["longest_edge"]}
        try:
            return int(self.image_processor.get_number_of_image_patches(size[1], size[0], limits))
        except ValueError:  # of a picture that is too narrow to be read
            return 0

    def structure(self, text: str) -> list[int]:
        """Ids of text of our own, in which control tokens are control tokens."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _fitted(self, item: Item, pieces: Sequence[list[int] | TokenBatch]) -> list[int]:
        """The pieces as one sequence; where that is too long, the last words are cut first."""
        read = [self.plain(piece.text + piece.kept) if isinstance(piece, TokenBatch) else piece for piece in pieces]
        over = sum(map(len, read)) - self.config.max_length
        for place, piece in reversed(list(enumerate(pieces))):
            if over > 0 and isinstance(piece, TokenBatch):
                kept = self.plain(piece.kept)
                short = self.plain(piece.text)[: max(0, len(read[place]) - over - len(kept))] + kept
                over += len(short) - len(read[place])
                read[place] = short
        if over > 0:
            remedies = ((item.images, " or lower max_pixels"), (item.video, " or lower max_frames or max_frame_pixels"))
            raise Refused(
                f"item {item.id!r} needs {self.config.max_length + over} tokens before any text, "
                f"max_length is {self.config.max_length}; raise max_length" + "".join(remedy for views, remedy in remedies if views)
            )
        return [token for ids in read for token in ids]

    def _views(self, item: Item) -> list[View]:
        views = []
        for data in item.images:
            (picture,) = decoded(item, [data])
            views.append(self._view(_IMAGE, [_resized(picture, self._fetched(picture.size))], self.image_processor.size, [0]))
        if item.video:
            read = self._moments(item)
            first, *others = decoded(item, [item.video[place] for place in read])
            size = self._fetched_frame(first.size)
            frames = [_resized(_resized(frame, first.size), size) for frame in (first, *others)]
            views.append(self._view(_VIDEO, frames, self.frame_size, read))
        return views

    def _moments(self, item: Item) -> list[int]:
        """The numbers of the frames of an item's clip that are read."""
        count = len(item.video)
        read: list[int] = np.linspace(0, count - 1, min(count, self.config.max_frames or count)).round().astype(int).tolist()
        return read

    def _fetched(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of a picture after the first of two resizings, where it is resized twice."""
        if not self.config.resized_twice:
            return size
        fewest, most = (count * self.side**2 for count in FETCHED)
        return whole_sides(size, self.side, fewest, most)

    def _fetched_frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of a frame after the first of two resizings, where it is resized twice: first to a budget below that of the second."""
        if self.config.min_frame_pixels is None:
            return size
        fewest = min(FETCHED_FRAME * self.side**2, self.config.min_frame_pixels)
        return whole_sides(size, self.side, fewest, self.config.max_frame_pixels)

    def _view(self, kind: int, frames: list[Image.Image], size: dict[str, int], read: list[int]) -> View:
        """The view of a picture, or of a clip, whose frames are of one size; `read` has their numbers in the clip."""
        shared, side = self.image_processor.temporal_patch_size, self.image_processor.patch_size
        processed = self.image_processor(images=frames, size=size, return_tensors="np")
        _, height, width = processed["image_grid_thw"][0].tolist()
        still_FPCThw = processed["pixel_values"].reshape(len(frames), height * width, 3, shared, side, side)
        moving = still_FPCThw  # of one frame, which the image processor repeats
        if len(frames) > 1:
            still_FPCThw = np.concatenate([still_FPCThw] + [still_FPCThw[-1:]] * (-len(frames) % shared))
            moving = np.stack([still_FPCThw[moment::shared, :, :, moment] for moment in range(shared)], axis=3)
        stride = max(1.0, (read[-1] - read[0]) / max(1, len(read) - 1))
        return View(
            kind, self._ids(kind, height * width, read), moving.reshape(-1, still_FPCThw[0, 0].size), (len(moving), height, width), stride
        )

    def _ids(self, kind: int, patches: int, read: list[int]) -> list[int]:
        """The placeholders of a picture, or of a clip, of so many patches a frame."""
        shared, places = self.image_processor.temporal_patch_size, [self.token_of[kind]] * (patches // self.image_processor.merge_size**2)
        if kind == _VIDEO and self.times is not None:
            times = self.times(None, list(read), self.config.frames_per_second, shared)
            return [token for time in times for token in self.plain(f"<{time:.1f} seconds>") + self._framed(places)]
        return self._framed(places * -(-len(read) // shared))

    def _framed(self, places: list[int]) -> list[int]:
        return [self.vision_start, *places, self.vision_end]


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size)


class OneTower(Encoder):
    """An encoder that is one Qwen-VL model; the same weights encode queries and documents."""

    Collator: Callable[..., OneTowerCollator]  # of a config and a LoadedCheckpoint
    config: OneTowerConfig
    model: Any  # a Qwen-VL model of transformers

    def __init__(self, config: OneTowerConfig, model: LoadedCheckpoint):
        super().__init__(config, model=model)
        self.tokenizer = model.tokenizer
        self.collator = self.Collator(config, model)
        text_config = self.model.config.text_config
        text_config.use_cache = False
        text_config.is_causal = self.causal

    @property
    def causal(self) -> bool:
        """Whether a token attends only to those before it."""
        return True

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {"language": self.model.language_model, "vision": self.model.visual}

    @property
    def dimension(self) -> int:
        return int(self.model.config.text_config.hidden_size)

    def states(
        self,
        ids_RL: torch.Tensor,
        mask_RL: torch.Tensor,
        types_RL: torch.Tensor,
        grid_thw: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
        strides: torch.Tensor | None = None,
        **vision: torch.Tensor,
    ) -> torch.Tensor:
        """The last layer's states_RLD of padded sequences; all pictures and clips go through the vision tower in one call.

        For that the placeholders of clips are replaced by those of pictures: only the positions differ, and these are computed here.
        `vision` has pixels, or what `precomputed` made of them.
        """
        if not vision.keys() & {"pixel_values", "features"} and not self.training:
            read = {}
        elif "features" in vision:
            read = {"image": Features((vision["features"],), [(each,) for each in vision.get("deepstack", ())])}
        else:
            read = {"image": self._features(vision.get("pixel_values"), grid_thw)}
        inputs = {
            "input_ids": ids_RL.masked_fill(types_RL > 0, self.model.config.image_token_id),
            "attention_mask": mask_RL,
            "position_ids": self._positions(ids_RL, mask_RL, types_RL, grid_thw, kinds, strides),
        }
        states_RLD: torch.Tensor = self.model(**inputs, mm_encoder_outputs=read).last_hidden_state
        return states_RLD

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the features of its pictures and clips in place of their pixels, where the vision tower is frozen."""
        if not frozen(self.model.visual) or "features" in batch or not ("pixel_values" in batch or self.training):
            return batch
        kept = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
        with torch.no_grad():
            read = self._features(batch.get("pixel_values"), batch.get("grid_thw"))
        (kept["features"],) = read.pooler_output
        if read.deepstack_features:
            kept["deepstack"] = torch.stack([each for (each,) in read.deepstack_features])
        return kept

    def _features(self, pixel_values: torch.Tensor | None, grid_thw: torch.Tensor | None) -> Features:
        """The features of all pictures and clips; where there are none, no feature of a blank picture, which is run all the same.

        In training the features of every batch enter the first layer of the language model, so that the graph of all batches, and with it
        the order of the modules in both passes, is one: collectives hang where ranks run different modules, or in another order.
        """
        visual, most = self.model.visual, None
        if pixel_values is None:
            config, most = self.model.config.vision_config, 0
            side, width = config.spatial_merge_size, 3 * config.temporal_patch_size * config.patch_size**2
            pixel_values = torch.zeros(side * side, width, device=self.device)
            grid_thw = torch.tensor([[1, side, side]], device=self.device)
        read = visual(pixel_values.type(visual.dtype), grid_thw=grid_thw)
        deepstack = getattr(read, "deepstack_features", None) or ()
        return Features((read.pooler_output[:most],), [(each[:most],) for each in deepstack])

    def _positions(
        self,
        ids_RL: torch.Tensor,
        mask_RL: torch.Tensor,
        types_RL: torch.Tensor,
        grid_thw: torch.Tensor | None,
        kinds: torch.Tensor | None,
        strides: torch.Tensor | None,
    ) -> torch.Tensor:
        """The position of each token on the three axes of M-RoPE."""
        if self.config.positions == "1d" or grid_thw is None or kinds is None or strides is None:
            return (mask_RL.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
        images, clips = (grid_thw[kinds == kind] for kind in (_IMAGE, _VIDEO))
        seconds = self.model.config.vision_config.temporal_patch_size / self.config.frames_per_second
        positions_3RL: torch.Tensor = self.model.get_rope_index(
            ids_RL,
            mm_token_type_ids=types_RL,
            image_grid_thw=images,
            video_grid_thw=clips,
            second_per_grid_ts=[seconds * stride for stride in strides[kinds == _VIDEO].tolist()],
            attention_mask=mask_RL,
        )[0]
        return positions_3RL


def named(modality: Modality) -> str:
    """A modality as UNITE's prompt names it: "sentence", "sentence and image", ..."""
    return " and ".join(name for bit, name in _NAMES if modality & bit)
