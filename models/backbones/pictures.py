"""Pictures of items for a vision tower: decoded through Pillow, on the CPU."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item


def decoded(item: Item, pictures: Sequence[bytes]) -> list[Image.Image]:
    """An item's pictures, or frames, in RGB; refused by the item's name where one is damaged."""
    try:
        return [Image.open(BytesIO(picture)).convert("RGB") for picture in pictures]
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(
            f"item {item.id!r} ({item.source}:{item.line}) has a picture that cannot be decoded; curate the corpus first"
        ) from error


def seen(items: Sequence[Item], image_processor: Any) -> dict[str, torch.Tensor]:
    """For a tower that takes pictures of one size: all of the items' pixels, [V, 3, H, W], and whose they are, [V]; nothing without any."""
    pictures = [(place, picture) for place, item in enumerate(items) for picture in decoded(item, item.images)]
    if not pictures:
        return {}
    pixels = image_processor(images=[picture for _, picture in pictures], return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixels, "owners": torch.tensor([place for place, _ in pictures])}
