"""Untrusted pictures: limits are checked before decoding, the result is upright RGB, and refusals have fixed texts.

PictureRefused(Refused)     .reason is one of REASONS; the decoder's own message is never passed on
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from mirepoix.models.errors import Refused
from mirepoix.models.picture_formats import picture_format
from mirepoix.serving.pictures_config import PictureLimits

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_opened` has a limit of its own, and refuses by that

REASONS = {
    "empty": "the picture has no bytes; send a JPEG, PNG, WEBP or GIF",
    "too many bytes": "the picture has too many bytes; send a smaller one",
    "unknown format": "the bytes are no JPEG, PNG, WEBP or GIF picture",
    "too many pixels": "the picture has too many pixels; scale it down",
    "too thin": "the picture's longer side is too many times its shorter one; crop it",
    "animated": "the picture is animated; send one frame",
    "damaged": "the picture is truncated or damaged",
}
_ACCEPTED = ("JPEG", "PNG", "WEBP", "GIF")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright, by the orientation in its metadata."""
_STRIP = 2**18  # pixels that are converted at once
_BYTES = {"coarse JPEG": 1, "JPEG": 9, "PNG": 9, "GIF": 6, "WEBP": 18}
"""Most bytes of memory that each pixel takes in `plain_picture`; a JPEG that stays as it is is drawn at an eighth of its size."""
LOOK = 64
"""Least pixels per side of the `look` of a picture, if the picture has as many."""


class PictureRefused(Refused):
    """A picture that is not accepted, for one of the fixed `REASONS`."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return REASONS[self.reason]


def check_picture(data: bytes, limits: PictureLimits) -> tuple[str, int, int]:
    """Format, width and height from the header; no pixel is decoded."""
    with _opened(data, limits) as picture:
        return _format(data), *picture.size


def read_picture(data: bytes, limits: PictureLimits) -> Image.Image:
    """The picture upright, in RGB, with transparency over white."""
    with _opened(data, limits) as picture, _decoding():
        picture.load()
        return _upright(picture)


def plain_picture(data: bytes, limits: PictureLimits) -> bytes:
    """The same bytes if they decode to upright RGB as they are, else a PNG that does; queries are encoded from these."""
    with _opened(data, limits) as original, _decoding():
        if _drawn_plain(original):
            return data
        picture = _upright(original)
    return encoded(picture, "PNG")


class Cost(NamedTuple):
    """What decoding a picture takes: its pixels, and the most bytes of memory at once."""

    pixels: int
    memory: int


def decoding_cost(data: bytes, limits: PictureLimits) -> Cost:
    """What `plain_picture` takes for a picture, by its header alone; a picture that exceeds the limits is refused as there."""
    with _opened(data, limits) as picture, _decoding():
        pixels, each = picture.width * picture.height, _BYTES[_format(data)]
        if isinstance(picture, JpegImageFile):
            if picture.mode in ("RGB", "L") and _orientation(picture) == 1:
                each = _BYTES["coarse JPEG"]
            if "progressive" in picture.info:
                each += 2 * picture.layers  # a coefficient for each pixel of each colour, until all of the file is read
        return Cost(pixels, pixels * each)


class Checked(NamedTuple):
    """An accepted picture: the bytes to keep, and its pixels, upright and in RGB, at full size or smaller."""

    data: bytes
    look: Image.Image
    extent: tuple[float, float]  # width and height of the picture in pixels of `look`; fractional for a scaled JPEG


def checked_picture(data: bytes, limits: PictureLimits, most_pixels: int | None = None) -> Checked:
    """Decodes a picture and normalises it to upright RGB.

    Its bytes are kept if they decode to upright RGB as they are, else a PNG is made; a picture with more than `most_pixels` is scaled down,
    to a JPEG if it was one. All bytes of a JPEG are decoded, but only to the resolution that is needed.
    """
    with _opened(data, limits) as original, _decoding():
        width, height = original.size
        scale = math.sqrt(most_pixels / (width * height)) if most_pixels and width * height > most_pixels else 1
        size = max(1, int(width * scale)), max(1, int(height * scale))
        if scale == 1:
            if extent := _drawn_plain(original):
                return Checked(data, _rgb(original), extent)
            picture = _upright(original)
            return Checked(encoded(picture, "PNG"), picture, picture.size)
        jpeg = isinstance(original, JpegImageFile)
        if jpeg:
            original.draft("RGB", size)
        original.load()
        picture = _turned(_rgb(original).resize(size, Image.Resampling.LANCZOS), original)
        return Checked(encoded(picture, "JPEG", quality=90) if jpeg else encoded(picture, "PNG"), picture, picture.size)


def encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    """The picture in the given format, without metadata: Pillow takes that from `info`."""
    buffer = BytesIO()
    info, picture.info = picture.info, {}
    try:
        picture.save(buffer, form, **options)
    finally:
        picture.info = info
    return buffer.getvalue()


def _drawn_plain(original: Image.Image) -> tuple[float, float] | None:
    """Decodes a picture; the width and height that it now has if it is upright and opaque, in RGB or grey, else None.

    All bytes of such a JPEG are decoded, but only to the resolution of a `look`, which takes a tenth of the memory.
    """
    drawn = None
    mode = original.mode in ("RGB", "L") and original.format != "GIF"
    if mode and isinstance(original, JpegImageFile) and _orientation(original) == 1:
        drawn = original.draft("RGB", (LOOK, LOOK))
    original.load()
    if mode and "transparency" not in original.info and _orientation(original) == 1:
        return drawn[1][2:] if drawn else original.size
    return None


def _format(data: bytes) -> str:
    form = picture_format(data)
    return form if form in _ACCEPTED else ""


def _opened(data: bytes, limits: PictureLimits) -> Image.Image:
    """The picture with its header read; refused where it exceeds the limits."""
    if not data:
        raise PictureRefused("empty")
    if len(data) > limits.max_bytes:
        raise PictureRefused("too many bytes")
    form = _format(data)
    if not form:
        raise PictureRefused("unknown format")
    with _decoding():
        picture = Image.open(BytesIO(data), formats=[form])
    width, height = picture.size
    if width * height > limits.max_pixels:
        raise PictureRefused("too many pixels")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise PictureRefused("too thin")
    # A phone's JPEG may hold a second, smaller view (MPO); its first frame is the picture.
    with _decoding():
        animated = form != "JPEG" and getattr(picture, "is_animated", False)
    if animated:
        raise PictureRefused("animated")
    return picture


@contextmanager
def _decoding() -> Iterator[None]:
    """Any exception of a decoder as PictureRefused: arbitrary bytes may raise anything, and the message may carry memory addresses."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureRefused("too many pixels") from None
    except Exception:  # noqa: BLE001
        raise PictureRefused("damaged") from None


def _upright(original: Image.Image) -> Image.Image:
    """A decoded picture upright and in RGB, with transparency over white; the memory of the original is given back."""
    picture = _turned(_rgb(original), original)
    if picture is not original:
        original.close()
    return picture


def _orientation(picture: Image.Image) -> int:
    return int(picture.getexif().get(_ORIENTATION, 1))


def _turned(picture: Image.Image, original: Image.Image) -> Image.Image:
    """A picture turned as the metadata of the original say."""
    turn = _TURNS.get(_orientation(original))
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture in RGB; one that is not is converted strip by strip, so that no more than the two are held."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    made, (width, height) = Image.new("RGB", picture.size), picture.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        made.paste(_opaque(picture.crop((0, top, width, min(height, top + rows)))), (0, top))
    return made


def _opaque(picture: Image.Image) -> Image.Image:
    """A small picture in RGB, with transparency over white."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")
