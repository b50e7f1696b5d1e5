"""Helpers of the tests of serving: a small corpus with texts, pictures and both, and a release of it."""

import colorsys
import json
import shutil
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw

from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.serving.engine.current import About
from mirepoix.serving.golden import Golden
from mirepoix.serving.release import assemble
from mirepoix.serving.store import publish

SHAPES = ("disc", "square", "bar")
INSTRUCTIONS = {"t->i": "Find a picture that shows this.", "i->t": "Find a text about this picture.", "": "Find what fits."}


class OneRelease:
    """A backend of one release that answers at once: itself, with what a test says of encoding and searching."""

    ready = True
    about: About

    @asynccontextmanager
    async def held(self):
        yield self

    def excess(self, entering: int = 0) -> float:
        return 0.0

    def waiting(self) -> dict[str, int]:
        return {}

    def version(self) -> str:
        return self.about.version


def drawing(shape: str, hue: float, side: int = 96) -> bytes:
    picture = Image.new("RGB", (side, side), "white")
    colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, 0.85))
    box = {"disc": (12, 12, 84, 84), "square": (20, 20, 76, 76), "bar": (8, 40, 88, 56)}[shape]
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if shape == "disc" else draw.rectangle)(tuple(side * part // 96 for part in box), fill=colour)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [f"emoji/Travel & Places/{n:02d}.png" for n in range(19)] + [f"emoji/{'a_name_that_is_long' * 8}.png"]
"""The sources of the pictures."""


def corpus() -> list[Item]:
    """Texts of a table, pictures of a folder, captioned pictures of a path that no release may hold, and an odd one."""
    texts = [
        Item(f"text-{n:02d}", f"A {SHAPES[n % 3]} painted in colour number {n}.", source="shop/produkte.csv", line=n + 2) for n in range(20)
    ]
    shown = [(drawing(SHAPES[n % 3], n / 20, 96 if n else 400),) for n in range(20)]
    pictures = [Item(f"picture-{n:02d}", images=shown[n], source=PICTURES[n], line=1) for n in range(20)]
    shown = [(drawing(SHAPES[n % 3], n / 20 + 0.02),) for n in range(19)]
    both = [Item(f"both/{n:02d}", f"Caption: the {SHAPES[n % 3]} of hue {n}", shown[n], source="/home/me/own", line=7) for n in range(19)]
    odd = Item("<b>odd</b> & ?#%", '<img src=x onerror="document.title=1"> & "quoted"', (drawing("bar", 0.5),), source="a/<b>.gif", line=1)
    return [*texts, *pictures, *both, odd]


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


def spoilt(release: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a release with a changed file, published as if it were to be so."""
    draft = shutil.copytree(release, folder.with_name(f"{folder.name}-draft"), ignore=shutil.ignore_patterns("manifest.json"))
    (draft / name).write_text(json.dumps(change(json.loads((draft / name).read_text()))))
    publish(draft, folder, {})
    return folder


def without_sources(release: Path) -> None:
    """Writes the documents of a release anew, as earlier versions wrote them."""
    file = release / "documents" / "documents.arrow"
    table = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).read_all().drop_columns(["source"])
    file.unlink()
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)
