"""Pictures become the same pixels however many of them are decoded at once."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from mirepoix.models.backbones import pictures
from mirepoix.models.backbones.pictures import decoded, pixels
from mirepoix.models.item import Item


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


ITEMS = [
    Item("a", images=(png(40, 30), png(20, 50))),
    Item("b", "words"),
    Item("c", images=(png(33, 33, "L"),)),
    Item("d", images=(png(9, 8),)),
]


@pytest.mark.parametrize("most", [0, 1300, 2000])
def test_pictures_that_are_decoded_one_after_the_other_have_the_same_pixels(monkeypatch, most):
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    whole, counts = pixels(ITEMS, processor), []

    def counting(images, **more):
        counts.append(len(images))
        return processor(images=images, **more)

    monkeypatch.setattr(pictures, "DECODED", most)
    apart = pixels(ITEMS, counting)
    assert counts == {0: [1, 1, 1, 1], 1300: [2, 2], 2000: [2, 2]}[most]
    assert torch.equal(apart["pixel_values"], whole["pixel_values"]) and apart["owners"].tolist() == [0, 0, 2, 3]


def test_items_without_pictures_have_no_pixels():
    assert pixels([Item("a", "words")], None) == {}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_picture_is_decoded_as_rgb(mode):
    data = png(12, 10, mode)
    (picture,) = decoded(Item("a"), [data])
    assert picture.mode == "RGB" and picture.tobytes() == Image.open(BytesIO(data)).convert("RGB").tobytes()
