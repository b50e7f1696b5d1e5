"""Items from what a Python program has at hand: texts, files, pictures, arrays, dicts.

A text is always a text, also where it names a file: whoever passes on what others wrote encodes no file of this machine by it. A picture
file is a pathlib.Path. Pictures have the bounds of the endpoint; one that was decoded already has no bytes to bound.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.pictures import PictureRefused, encoded, plain_picture
from mirepoix.serving.pictures_config import PictureLimits

Picture: TypeAlias = os.PathLike[str] | bytes | Image.Image | np.ndarray
ItemLike: TypeAlias = str | Picture | Mapping[str, Any] | Item
"""What counts as one item."""
FORMS = "a text, a pathlib.Path of a picture, a PIL picture, a numpy array, the bytes of a picture, a dict or an Item"
PICTURES = "a pathlib.Path, a PIL picture, a numpy array or bytes"
FIELDS = ("text", "image", "images", "video", "instruction")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
LIMITS = PictureLimits()
_DECODED = replace(LIMITS, max_bytes=1 << 40)
_PLAIN_MODES = ("RGB", "L", "RGBA", "LA", "I;16")


class Given(NamedTuple):
    """The items that were given, and whether it was one item and no list."""

    items: list[Item]
    single: bool


def read_items(given: ItemLike | Iterable[ItemLike], name: str) -> Given:
    """One item, or those of a list in their order; `name` is that of the argument, for refusals."""
    if _is_one(given):
        return Given([read_item(given, name)], single=True)
    if isinstance(given, set | frozenset) or not isinstance(given, Iterable):
        raise Refused(f"{name} is {_described(given)}; give {FORMS}, or a list of these")
    items = list(map(read_item, given, (f"{name}[{number}]" for number in count())))
    if not items:
        raise Refused(f"{name} is an empty list; give at least one item")
    return Given(items, single=False)


def read_item(given: Any, name: str) -> Item:
    """One item, under the name by which refusals call it; refused if there is nothing in it."""
    if isinstance(given, str):
        _warn_of_file(given, name)
        item = Item(name, given)
    elif isinstance(given, Mapping):
        item = _from_fields(given, name)
    elif isinstance(given, Item):
        pictures, frames = ([_picture(data, name) for data in part] for part in (given.images, given.video))
        item = replace(given, id=name, images=tuple(pictures), video=tuple(frames))
    elif _is_one(given):
        item = Item(name, images=(_picture(given, name),))
    else:
        raise Refused(f"{name} is {_described(given)}; give {FORMS}")
    if not item.modality:
        what = "an empty text" if isinstance(given, str) else "empty"
        raise Refused(f"{name} is {what}; give a text, a picture or a video")
    for what, text in (("text", item.text), ("instruction", item.instruction)):
        refuse_surrogates(text, name, what)
    return item if item.text.strip() else replace(item, text="")


def refuse_surrogates(text: str, name: str, what: str) -> None:
    """Refuses a text that no encoder can read: one with half of a character, as names of files that are not UTF-8 have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise Refused(f"{name}: the {what} has {half}, half of a character, which UTF-8 has not; decode the text anew") from None


def _is_one(given: Any) -> bool:
    """Whether this is one item rather than a list. An array of one axis is a list of texts, and one of four axes a list of pictures."""
    if isinstance(given, np.ndarray):
        return given.ndim in (0, 2, 3)
    return isinstance(given, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Mapping | Item) or _is_tensor(given)


def _is_tensor(given: Any) -> bool:
    return type(given).__module__.partition(".")[0] == "torch" and hasattr(given, "shape")


def _from_fields(given: Mapping[Any, Any], name: str) -> Item:
    fields = {field: value for field, value in given.items() if value is not None}
    for field in fields:
        if field not in FIELDS:
            raise Refused(f"{name} has a field {field!r}; a dict has some of {', '.join(FIELDS)}")
    if "image" in fields and "images" in fields:
        raise Refused(f"{name} has both image and images; give one picture as image, or a list of them as images")
    for field in ("text", "instruction"):
        if not isinstance(fields.get(field, ""), str):
            raise Refused(f"{name}: {field} is {_described(fields[field])}; give a text")
    images = [_picture(fields["image"], f"{name}: image")] if "image" in fields else _pictures(fields, "images", name)
    video = _pictures(fields, "video", name)
    return Item(name, fields.get("text", ""), tuple(images), tuple(video), fields.get("instruction", ""))


def _pictures(fields: Mapping[str, Any], field: str, name: str) -> list[bytes]:
    given = fields.get(field, ())
    one = _is_one(given) and not (isinstance(given, np.ndarray) and given.ndim == 4)
    if one or isinstance(given, set | frozenset) or not isinstance(given, Iterable):
        what = "frames" if field == "video" else "pictures"
        raise Refused(f"{name}: {field} is {_described(given)}; give a list of {what}, each {PICTURES}")
    return [_picture(each, f"{name}: {field}[{number}]") for number, each in enumerate(given)]


def _picture(given: Any, name: str) -> bytes:
    """The encoded picture; refused where it exceeds the bounds or cannot be decoded."""
    try:
        if isinstance(given, os.PathLike):
            name = f"{name} ({os.fspath(given)})"
            return plain_picture(_read(Path(given).expanduser(), name), LIMITS)
        if isinstance(given, bytes | bytearray | memoryview):
            return plain_picture(bytes(given), LIMITS)
        if isinstance(given, Image.Image):
            if not given.width * given.height:
                raise Refused(f"{name} is a picture of {given.width} x {given.height} pixels; give one that has some")
            return _encoded(given)
        if isinstance(given, np.ndarray):
            return _encoded(_drawn(given, name))
    except PictureRefused as refusal:
        raise Refused(f"{name}: {refusal}") from None
    advice = f"; a file is given as pathlib.Path({given!r})" if isinstance(given, str) else ""
    raise Refused(f"{name} is {_described(given)}; give {PICTURES}{advice}")


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise Refused(f"{name} is a folder; give the pictures in it, one by one")
        if path.stat().st_size > LIMITS.max_bytes:
            raise PictureRefused("too many bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise Refused(f"{name}: there is no such file; give the path of a picture") from None
    except OSError as error:
        raise Refused(f"{name} cannot be read ({error.strerror}); give the path of a picture") from None


def _encoded(picture: Image.Image) -> bytes:
    """A decoded picture as the bytes from which an encoder reads the same pixels, upright."""
    width, height = picture.size
    if width * height > LIMITS.max_pixels:  # before anything is made of it
        raise PictureRefused("too many pixels")
    if picture.format not in ("JPEG", "MPO") and getattr(picture, "is_animated", False):
        raise PictureRefused("animated")
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode == "I":  # 16 bits, as files of such pictures have
            upright = upright.convert("I;16")
        elif upright.mode not in _PLAIN_MODES or "transparency" in upright.info:
            clear = "transparency" in upright.info or upright.mode in ("PA", "RGBa", "La")
            upright = upright.convert("RGBA" if clear else "RGB")
        data = encoded(upright, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError):  # of a file that Pillow has opened and not read yet
        raise PictureRefused("damaged") from None
    return plain_picture(data, _DECODED)


def _drawn(array: np.ndarray, name: str) -> Image.Image:
    fits = array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    if not fits or not array.size:
        raise Refused(f"{name} is {_described(array)}; a picture is of uint8, height x width, or height x width x 3")
    return Image.fromarray(array)


def _warn_of_file(text: str, name: str) -> None:
    """Warns where a text is the name of a picture file that is there: it is likely that the picture was meant."""
    if len(text) < 256 and text.lower().endswith(SUFFIXES) and os.path.isfile(text):
        warnings.warn(
            f"{name} is the text {text!r}, and there is a file of that name; give pathlib.Path({text!r}) for the picture", stacklevel=5
        )


def _described(given: Any) -> str:
    """What was given, on one line."""
    if given is None or isinstance(given, bool | int | float):
        return repr(given)
    if isinstance(given, str):
        return f"the text {given[:60]!r}"
    if isinstance(given, np.ndarray):
        return f"an array of {given.dtype}, {' x '.join(map(str, given.shape)) or 'without axes'}"
    if _is_tensor(given):
        return f"a tensor of {given.dtype}, {' x '.join(map(str, given.shape))}; a numpy array of uint8, height x width x 3, is taken"
    kind = type(given).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
