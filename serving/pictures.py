"""Pictures that strangers sent: bounded before they are decoded, upright RGB afterwards, and refused in fixed words.

PictureRefused(Refused)     .reason is one of REASONS; no word of a decoder's error gets out
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

REASONS = {
    "empty": "the picture has no bytes; send a JPEG, PNG, WEBP or GIF",
    "too many bytes": "the picture has too many bytes; send a smaller one",
    "unknown format": "the bytes are no JPEG, PNG, WEBP or GIF picture",
    "too many pixels": "the picture has too many pixels; scale it down",
    "too thin": "the picture's longer side is too many times its shorter one; crop it",
    "animated": "the picture is animated; send one frame",
    "damaged": "the picture is truncated or damaged",
}
_MAGIC = {
    "JPEG": lambda head: head[:3] == b"\xff\xd8\xff",
    "PNG": lambda head: head[:8] == b"\x89PNG\r\n\x1a\n",
    "WEBP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "GIF": lambda head: head[:6] in (b"GIF87a", b"GIF89a"),
}
_ORIENTATION = 0x0112
LOOK = 64
"""Pixels that each side of a look at a picture has at least, if the picture has them."""


class PictureRefused(Refused):
    """A picture that is not taken; says why in one of the fixed `REASONS`."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return REASONS[self.reason]


@dataclass(frozen=True)
class PictureLimits:
    """What a picture may cost."""

    max_bytes: int = option(10 * 2**20, "most bytes of an encoded picture")
    max_pixels: int = option(25_000_000, "most pixels that a picture's header may claim")
    max_ratio: int = option(100, "most times that the longer side may hold the shorter one; vision towers refuse strips")

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_pixels, self.max_ratio) < 1:
            raise Refused(f"max_bytes {self.max_bytes}, max_pixels {self.max_pixels} and max_ratio {self.max_ratio} must be at least 1")


def check_picture(data: bytes, limits: PictureLimits) -> tuple[str, int, int]:
    """Format, width and height as the header claims them; nothing is decoded."""
    with _opened(data, limits) as picture:
        return _format(data), *picture.size


def read_picture(data: bytes, limits: PictureLimits) -> Image.Image:
    """The picture upright, in RGB; what is transparent lies on white."""
    with _opened(data, limits) as picture, _decoding():
        picture.load()
        return _rgb(ImageOps.exif_transpose(picture))


def plain_picture(data: bytes, limits: PictureLimits) -> bytes:
    """The same bytes if they decode to upright RGB as they are, else a PNG that does; what queries send on."""
    return checked_picture(data, limits).data


class Checked(NamedTuple):
    """A picture that is taken: the bytes to keep, and a look at it, upright and in RGB, which may be smaller than the picture is."""

    data: bytes
    look: Image.Image
    extent: tuple[float, float]  # width and height of what the look shows; its last column and row may be of parts of pixels


def checked_picture(data: bytes, limits: PictureLimits, most_pixels: int | None = None) -> Checked:
    """Decodes a picture and makes it plain.

    Kept are the same bytes if they decode to upright RGB as they are, else a PNG that does; of a picture with more than `most_pixels`
    one that is scaled down, a JPEG if it was one. A JPEG's bytes are all decoded, but its pixels are drawn no finer than they are needed.
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
    """The picture's bytes in the given format, without what else its file may have carried."""
    buffer = BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(buffer, form, **options)
    return buffer.getvalue()


def _format(data: bytes) -> str:
    return next((name for name, matches in _MAGIC.items() if matches(data[:16])), "")


def _opened(data: bytes, limits: PictureLimits) -> Image.Image:
    """The picture with its header read and within limits."""
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
    """A decoder fed with anything may raise anything, and its words may carry addresses: none of them gets out."""
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
