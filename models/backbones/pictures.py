"""Decodes the pictures of items with Pillow and makes the pixels of a vision tower from them, on the CPU; and blank pixels.

Nothing is bounded here: pictures from outside have passed `serving/pictures.py`, in curation or in a request.
"""

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

DECODED = 25_000_000
"""How many pixels of decoded pictures are held at once, but for the last of them: a hundred megabytes."""


def decoded(item: Item, pictures: Sequence[bytes]) -> list[Image.Image]:
    """An item's pictures, or frames, in RGB; a damaged one is refused with the item's id."""
    try:
        return [_rgb(Image.open(BytesIO(picture))) for picture in pictures]
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(
            f"item {item.id!r} ({item.source}:{item.line}) has a picture that cannot be decoded; curate the corpus first"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    """The decoded picture in RGB; one that is has not to be copied."""
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def picture_size(picture: bytes) -> tuple[int, int]:
    """The width and height that a picture's header says; (1, 1) of what is no picture, which whoever decodes it refuses."""
    try:
        with Image.open(BytesIO(picture)) as opened:
            return opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return 1, 1


def whole_sides(size: tuple[int, int], side: int, fewest: int, most: int) -> tuple[int, int]:
    """A width and a height as multiples of `side` near their own, of at most so many pixels, or at least, as qwen_vl_utils rounds them."""
    width, height = (max(side, round(edge / side) * side) for edge in size)
    if width * height > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        width, height = (max(side, math.floor(edge / shrink / side) * side) for edge in size)
    elif width * height < fewest:
        stretch = math.sqrt(fewest / (size[0] * size[1]))
        width, height = (math.ceil(edge * stretch / side) * side for edge in size)
    return width, height


def pixels(items: Sequence[Item], image_processor: Any) -> dict[str, torch.Tensor]:
    """The pixels of all pictures, [V, 3, H, W], and the index of each one's item, [V]; empty without pictures.

    It is for towers that take pictures of one size.
    """
    made = [image_processor(images=group, return_tensors="pt")["pixel_values"] for group in decoded_groups(items)]
    owners = [place for place, item in enumerate(items) for _ in item.images]
    return {"pixel_values": torch.cat(made), "owners": torch.tensor(owners)} if made else {}


def decoded_groups(items: Sequence[Item]) -> Iterator[list[Image.Image]]:
    """All pictures of items, decoded, in groups: each ends with the picture by which it has more than `DECODED` pixels.

    A group is emptied when the next one is asked for, so that its memory is free then.
    """
    held: list[Image.Image] = []
    for item in items:
        for each in item.images:
            held += decoded(item, [each])
            if sum(picture.width * picture.height for picture in held) > DECODED:
                yield held
                held.clear()
    if held:
        yield held


def patch_count(vision_config: Any) -> int:
    """How many patches a picture has in a tower that takes pictures of one size."""
    return int(vision_config.image_size // vision_config.patch_size) ** 2


def blank_pixels(vision_config: Any, device: torch.device) -> torch.Tensor:
    """The pixels of a blank picture, [1, 3, H, W].

    In training it takes the place of the pictures of a batch without any: every rank must run the same modules in every micro-batch.
    """
    return torch.zeros(1, vision_config.num_channels, vision_config.image_size, vision_config.image_size, device=device)
