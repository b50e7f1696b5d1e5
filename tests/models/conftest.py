"""Tiny random twins of the backbones, made once a session."""

import io
from functools import cache

import pytest
from PIL import Image, ImageDraw

from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
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


SIZES = Tiny(hidden_size=64, intermediate_size=128, layers=2, vision_width=32)


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """The checkpoints of a family's twin, each family made once."""

    @cache
    def made(family: str):
        return make_twin(tmp_path_factory.mktemp(family), family, WORDS * 20, SIZES, seed=0)

    return made


@pytest.fixture(scope="session")
def tiny_qwen(twin):
    return twin("qwen2_vl")["model"].name
