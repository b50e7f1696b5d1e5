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
from PIL import Image, ImageOps
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
        return _rgb(ImageOps.exif_transpose(picture))


def plain_picture(data: bytes, limits: PictureLimits) -> bytes:
    """The same bytes if they decode to upright RGB as they are, else a PNG that does; queries are encoded from these."""
    return checked_picture(data, limits).data


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
        jpeg = isinstance(original, JpegImageFile)
        plain = scale == 1 and original.mode in ("RGB", "L") and original.format != "GIF"
        drawn = None
        if jpeg and plain and original.getexif().get(_ORIENTATION, 1) == 1:
            drawn = original.draft("RGB", (LOOK, LOOK))
        elif jpeg and scale < 1:
            original.draft("RGB", size)
        original.load()
        if plain and "transparency" not in original.info and original.getexif().get(_ORIENTATION, 1) == 1:
            return Checked(data, original.convert("RGB"), drawn[1][2:] if drawn else original.size)
        if scale < 1:
            picture = ImageOps.exif_transpose(_rgb(original).resize(size, Image.Resampling.LANCZOS))
            return Checked(encoded(picture, "JPEG", quality=90) if jpeg else encoded(picture, "PNG"), picture, picture.size)
        picture = _rgb(ImageOps.exif_transpose(original))
        return Checked(encoded(picture, "PNG"), picture, picture.size)


def encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    """The picture in the given format, without metadata."""
    buffer = BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(buffer, form, **options)
    return buffer.getvalue()


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


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")
