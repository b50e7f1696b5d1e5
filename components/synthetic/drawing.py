"""The look of a synthetic entity: its visual attributes, their words, and pictures of it in random poses.

S: side of the picture in pixels. Shapes are polygons of unit points (x, y) in the disc of radius 1, y pointing down.
"""

import math
import random
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageChops, ImageDraw

Points = list[tuple[float, float]]
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (225, 20, 30),
    "orange": (250, 120, 0),
    "yellow": (255, 235, 20),
    "green": (10, 165, 45),
    "cyan": (0, 225, 225),
    "blue": (25, 50, 235),
    "purple": (135, 25, 190),
    "pink": (255, 115, 200),
}
GROUNDS: dict[str, Colour] = {
    "snow": (248, 248, 248),
    "night": (12, 12, 20),
    "sand": (214, 190, 140),
    "slate": (128, 132, 140),
    "moss": (62, 80, 40),
    "sky": (165, 200, 240),
}
SIZES = {"small": 0.58, "medium": 0.79, "large": 1.0}
# How dark a light may be on its far side, and how weak one of its colours, as shares.
DEEPEST, DIMMEST = 0.6, 0.85
# The largest radius and the centres of one to four marks, both in units of S.
LAYOUTS: dict[str, tuple[float, Points]] = {
    "one": (0.38, [(0.5, 0.5)]),
    "two": (0.23, [(0.28, 0.35), (0.72, 0.65)]),
    "three": (0.22, [(0.5, 0.27), (0.27, 0.73), (0.73, 0.73)]),
    "four": (0.21, [(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)]),
}


def _arc(radius: float, start: float, stop: float, x: float = 0.0) -> Points:
    steps = 24
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [(x + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _star() -> Points:
    radii = (1.0, 0.42)
    corners = [(radii[corner % 2], math.radians(36 * corner - 90)) for corner in range(10)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners]


def _cross() -> Points:
    a, b = 0.33, 0.95
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


SHAPES: dict[str, Points] = {
    "circle": _arc(0.95, 0, 360),
    "square": [(-0.73, -0.73), (0.73, -0.73), (0.73, 0.73), (-0.73, 0.73)],
    "triangle": [(0, -1), (0.86, 0.58), (-0.86, 0.58)],
    "star": _star(),
    "cross": _cross(),
    "ring": _arc(1, 0, 360) + _arc(0.5, 360, 0),
    "moon": _arc(1, 40, 320) + _arc(0.72, 297, 63, x=0.44),
    "bar": [(-0.93, -0.4), (0.93, -0.4), (0.93, 0.4), (-0.93, 0.4)],
}
# Each pattern is what is darkened inside a shape: a list of polygons.
PATTERNS: dict[str, list[Points]] = {
    "plain": [],
    "striped": [[(-1.1, y), (1.1, y), (1.1, y + 0.28), (-1.1, y + 0.28)] for y in (-0.98, -0.42, 0.14, 0.70)],
    "dotted": [[(x + 0.19 * u, y + 0.19 * v) for u, v in _arc(1, 0, 360)] for x in (-0.62, 0, 0.62) for y in (-0.62, 0, 0.62)],
    "halved": [[(0, -1.1), (1.1, -1.1), (1.1, 1.1), (0, 1.1)]],
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "pattern": tuple(PATTERNS),
    "size": tuple(SIZES),
    "number": tuple(LAYOUTS),
    "ground": tuple(GROUNDS),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The visual attributes that are the same in every picture of an entity; each is a word of `ATTRIBUTES`."""

    shape: str
    colour: str
    pattern: str
    size: str
    number: str
    ground: str

    @property
    def combination(self) -> tuple[str, str]:
        """Shape and colour: the combination that the split test_combination holds out."""
        return self.shape, self.colour

    def wordings(self) -> tuple[str, str]:
        """Two full descriptions, each of which names every attribute by its one word."""
        marks = "mark" if self.number == "one" else "marks"
        return (
            f"{self.number} {self.size} {self.colour} {self.pattern} {self.shape} {marks} on {self.ground}",
            f"on {self.ground} {self.number} {self.size} {self.pattern} {self.colour} {self.shape} {marks}",
        )


def draw(identity: Identity, side: int, rng: random.Random) -> bytes:
    """A PNG of the identity in a random pose: place, rotation, slight scale, slight colour shift, speckles."""
    canvas = 2 * side
    largest, centres = LAYOUTS[identity.number]
    radius = canvas * largest * SIZES[identity.size] * rng.uniform(0.94, 1.04)
    drift_x, drift_y = rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)
    shapes, darkened = Image.new("L", (canvas, canvas)), Image.new("L", (canvas, canvas))
    shape_pen, dark_pen = ImageDraw.Draw(shapes), ImageDraw.Draw(darkened)
    for x, y in centres:
        centre = (canvas * (x + drift_x + rng.uniform(-0.01, 0.01)), canvas * (y + drift_y + rng.uniform(-0.01, 0.01)))
        turn = math.radians(rng.uniform(-22, 22))
        shape_pen.polygon(_posed(SHAPES[identity.shape], centre, radius, turn), fill=255)
        for polygon in PATTERNS[identity.pattern]:
            dark_pen.polygon(_posed(polygon, centre, radius, turn), fill=255)
    colour = _shifted(COLOURS[identity.colour], rng)
    picture = Image.new("RGB", (canvas, canvas), _shifted(GROUNDS[identity.ground], rng))
    picture.paste(colour, mask=shapes)
    picture.paste(tuple(level * 3 // 10 for level in colour), mask=ImageChops.multiply(shapes, darkened))
    picture = _lit(picture.resize((side, side), Image.Resampling.BOX), rng)
    pixels = picture.load()
    assert pixels is not None
    speckles = side * side // 60
    for x, y, level in zip(*(rng.choices(range(end), k=speckles) for end in (side, side, 256)), strict=True):
        pixels[x, y] = (level, level, level)
    return _encoded(picture, "PNG")


def _lit(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture under a tinted light from one side, so that two pictures of one identity differ pixel by pixel."""
    shadow = Image.linear_gradient("L").rotate(rng.uniform(0, 360), resample=Image.Resampling.BILINEAR).crop((40, 40, 216, 216))
    shadow = shadow.resize(picture.size, Image.Resampling.BILINEAR)
    depth = rng.uniform(DEEPEST, 1.0)
    bands = []
    for band in picture.split():
        bright = rng.uniform(DIMMEST, 1.0)
        light = shadow.point([round(bright * (255 * depth + (1 - depth) * level)) for level in range(256)])
        bands.append(ImageChops.multiply(band, light))
    return Image.merge("RGB", bands)


def perturbed(picture: bytes, rng: random.Random) -> bytes:
    """A near-duplicate: the same picture, a shade lighter or darker, re-encoded as JPEG or PNG."""
    shade = rng.choice((-4, -3, -2, 2, 3, 4))
    shaded = Image.open(BytesIO(picture)).convert("RGB").point(lambda level: min(255, max(0, level + shade)))
    return _encoded(shaded, rng.choice(("JPEG", "PNG")))


DAMAGES = ("truncated", "garbage", "empty")


def damaged(picture: bytes, damage: str, rng: random.Random) -> bytes:
    """A file that no decoder reads, damaged in one of the ways in `DAMAGES`."""
    match damage:
        case "truncated":
            return picture[: len(picture) // 2]
        case "garbage":
            return rng.randbytes(len(picture))
        case "empty":
            return b""
    raise AssertionError(f"damage {damage!r} is not one of {DAMAGES}")


def _posed(points: Points, centre: tuple[float, float], radius: float, turn: float) -> Points:
    cosine, sine = radius * math.cos(turn), radius * math.sin(turn)
    return [(centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine) for x, y in points]


def _shifted(colour: Colour, rng: random.Random) -> Colour:
    red, green, blue = (min(255, max(0, level + rng.randint(-8, 8))) for level in colour)
    return red, green, blue


def _encoded(picture: Image.Image, encoding: str) -> bytes:
    file = BytesIO()
    if encoding == "JPEG":
        picture.save(file, encoding, quality=92, subsampling=0)
    else:
        picture.save(file, encoding, compress_level=3)
    return file.getvalue()
