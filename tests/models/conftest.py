"""Tiny random twins of the backbones, made once a session."""

import io

import pytest
from PIL import Image, ImageDraw

from mirepoix.models.backbone import TinyQwen2VL, make_tiny
from mirepoix.models.item import Item

WORDS = [
    "a small red circle on snow",
    "two large blue stars at night",
    "You are a helpful assistant.",
    "Summary above sentence and image in one word:",
]


def picture(colour="red", side=56, form="PNG") -> bytes:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


ITEMS = [
    Item("text", text="a small red circle"),
    Item("picture", images=(picture(),)),
    Item("both", text="two stars", images=(picture("blue", 80),)),
    Item("asked", text="what is it ?", images=(picture("green"),), instruction="Find a passage."),
    Item("two pictures", images=(picture("blue"), picture("green", 40))),
    Item("clip", text="it turns", video=(picture("red"), picture("blue"), picture("green"))),
]


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2-vl")
    make_tiny(folder, WORDS * 20, TinyQwen2VL(hidden_size=64, intermediate_size=128, layers=2, vision_width=32), seed=0)
    return folder
