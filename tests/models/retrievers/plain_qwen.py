"""One item through a plain Qwen-VL model of transformers: alone, unpadded, with its positions written by hand.

Shapes: L tokens, D width.
"""

import io

import torch
from PIL import Image, ImageDraw

from mirepoix.models.item import Item
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig
from tests.models.conftest import ITEMS, picture

FAMILIES = OneTowerConfig.FAMILIES
SEEN, SHOWN = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"


def wide(colour="red") -> bytes:
    """A picture of one row of places and four columns."""
    image = Image.new("RGB", (112, 28), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 40, 14), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


EVERY = [
    *ITEMS,
    Item("pictures and a clip", "it turns", (wide(), picture("blue")), (picture("red"), picture("green")), "Find it."),
    Item("a wide clip", video=(wide("red"), wide("blue"), wide("green"), wide("blue"), wide("red"))),
]


class Plain:
    """The model of a checkpoint folder, opened by transformers' plain classes."""

    def __init__(self, folder, family: str):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.family = family
        self.model = AutoModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def states(self, prompt: str, item: Item, positions: str, both_ways: bool = False) -> torch.Tensor:
        """states_LD of a prompt in which each picture and the clip has one pad; positions "stock" leaves them to the model."""
        extra = {}
        pictures = [self._patches([image]) for image in item.images]
        clips = [self._patches(item.video)] if item.video else []
        for _, grid in pictures:
            prompt = prompt.replace("<|image_pad|>", "<picture>" * (grid[1] * grid[2] // 4), 1)
        for _, grid in clips:
            prompt = prompt.replace(SHOWN, self._clip(grid, len(item.video)))
        ids = self.tokenizer(prompt.replace("<picture>", "<|image_pad|>"))["input_ids"]
        kinds = [1 if token == self.model.config.image_token_id else 2 if token == self.model.config.video_token_id else 0 for token in ids]
        if pictures:
            extra["pixel_values"] = torch.cat([patches for patches, _ in pictures])
            extra["image_grid_thw"] = torch.tensor([grid for _, grid in pictures])
        if clips:
            extra["pixel_values_videos"] = torch.cat([patches for patches, _ in clips])
            extra["video_grid_thw"] = torch.tensor([grid for _, grid in clips])
        if positions == "stock":
            extra["mm_token_type_ids"] = torch.tensor([kinds])
            if clips and self.family == "qwen2_5_vl":
                extra["second_per_grid_ts"] = torch.tensor([2.0])
        elif positions == "1d":
            extra["position_ids"] = torch.tensor([[[place] for place in range(len(ids))]] * 3).transpose(1, 2)
        else:
            grids = {1: [grid for _, grid in pictures], 2: [grid for _, grid in clips]}
            extra["position_ids"] = torch.tensor(self._grid_positions(kinds, grids)).T[:, None]
        if both_ways:
            extra["attention_mask"] = torch.zeros(1, 1, len(ids), len(ids))
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([ids]), **extra).last_hidden_state[0]

    def _patches(self, frames) -> tuple[torch.Tensor, list[int]]:
        """Patches that each span two consecutive frames, and their number in time, height and width."""
        pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
        seen = [self.image_processor(images=[one], return_tensors="pt") for one in pictures]
        stills = [one["pixel_values"].reshape(-1, 3, 2, 14, 14)[:, :, 0] for one in seen]
        if len(stills) % 2:
            stills.append(stills[-1])
        patches = []
        for moment in range(0, len(stills), 2):
            for place in range(len(stills[0])):
                for colour in range(3):
                    patches += [stills[moment][place, colour].flatten(), stills[moment + 1][place, colour].flatten()]
        _, height, width = seen[0]["image_grid_thw"][0].tolist()
        return torch.cat(patches).reshape(-1, 3 * 2 * 14 * 14), [len(stills) // 2, height, width]

    def _clip(self, grid: list[int], frames: int) -> str:
        moments, pads = grid[0], "<|video_pad|>" * (grid[1] * grid[2] // 4)
        if self.family != "qwen3_vl":
            return f"<|vision_start|>{pads * moments}<|vision_end|>"
        times = [(2 * moment + min(2 * moment + 1, frames - 1)) / 2 for moment in range(moments)]
        return "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)

    def _grid_positions(self, kinds: list[int], grids: dict[int, list[list[int]]]) -> list[tuple[int, int, int]]:
        """M-RoPE: a token's place in time, height and width; after a picture or clip the count goes on behind its longer side."""
        step = {"qwen2_vl": 1, "qwen2_5_vl": 4 * 2, "qwen3_vl": 1}[self.family]  # 4 tokens a second, 2 seconds a moment
        left = {kind: list(some) for kind, some in grids.items()}
        if self.family == "qwen3_vl":
            left[2] = [[1, height, width] for moments, height, width in left[2] for _ in range(moments)]
        places, count = [], 0
        while len(places) < len(kinds):
            kind = kinds[len(places)]
            if kind == 0:
                places.append((count, count, count))
                count += 1
                continue
            moments, height, width = left[kind].pop(0)
            for moment in range(moments):
                for row in range(height // 2):
                    for column in range(width // 2):
                        places.append((count + moment * (step if kind == 2 else 1), count + row, count + column))
            count += max(height, width) // 2
        return places
