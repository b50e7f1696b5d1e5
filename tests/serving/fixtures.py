"""Helpers of the tests of serving: a small corpus with texts, pictures and both, and a release of it."""

import colorsys
import socket
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.serving.golden import Golden
from mirepoix.serving.release import assemble
from mirepoix.serving.store import publish

SHAPES = ("disc", "square", "bar")
INSTRUCTIONS = {"t->i": "Find a picture that shows this.", "i->t": "Find a text about this picture.", "": "Find what fits."}


def drawing(shape: str, hue: float, side: int = 96) -> bytes:
    picture = Image.new("RGB", (side, side), "white")
    colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 0.85))
    box = {"disc": (12, 12, 84, 84), "square": (20, 20, 76, 76), "bar": (8, 40, 88, 56)}[shape]
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if shape == "disc" else draw.rectangle)(tuple(side * part // 96 for part in box), fill=colour)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def corpus() -> list[Item]:
    texts = [Item(f"text-{n:02d}", f"A {SHAPES[n % 3]} painted in colour number {n}.") for n in range(20)]
    pictures = [Item(f"picture-{n:02d}", images=(drawing(SHAPES[n % 3], n / 20, 96 if n else 400),)) for n in range(20)]
    both = [Item(f"both/{n:02d}", f"Caption: the {SHAPES[n % 3]} of hue {n}", (drawing(SHAPES[n % 3], n / 20 + 0.02),)) for n in range(19)]
    return texts + pictures + both + [Item("<b>odd</b> & ?#%", '<img src=x onerror="document.title=1"> & "quoted"', (drawing("bar", 0.5),))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def golden_of(parts: dict[str, Path], items: list[Item]) -> Golden:
    return Golden.encode(load_encoder(parts["encoder_folder"]), items)


def published(folder: Path, parts: dict[str, Path], name: str = "tiny", **more) -> Path:
    draft = folder / "draft"
    draft.mkdir(parents=True)
    golden = more.pop("golden", None) or golden_of(parts, [corpus()[0], corpus()[20], corpus()[40]])
    assemble(draft, name, **{"golden": golden, "instructions": INSTRUCTIONS, "widths": (16,), **parts, **more})
    publish(draft, folder / "release", {})
    return folder / "release"
