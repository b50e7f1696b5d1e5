"""The forms of one input of an embeddings request: words, a picture as a data URI, words and picture.

A plain string that is a data URI is a picture. In {"text": ...} words are words, whatever they look like. The URL of a picture is
words too, and is never fetched.
"""

import base64
import binascii
import re
from collections.abc import Iterable

from mirepoix.models.item import Item
from mirepoix.models.picture_formats import PICTURE_ENDINGS
from mirepoix.serving.http.guard import ApiError

_URI = re.compile(r"\s*data:(?:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+(?:=[\w.+-]*)?)*|(?:;[\w.+-]+(?:=[\w.+-]*)?)+),", re.IGNORECASE | re.ASCII)
_PICTURE = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64", re.IGNORECASE | re.ASCII)
_ADDRESS = re.compile(rf"https?://[^\s?#]+\.(?:{'|'.join(PICTURE_ENDINGS)})(?:[?#]\S*)?", re.IGNORECASE | re.ASCII)


def is_data_uri(text: str) -> bool:
    """Whether a text begins as a data URI does, with a type or a parameter: "data: five samples" is words."""
    return _URI.match(text[:256]) is not None


def picture_bytes(uri: str, name: str) -> bytes:
    """The picture in a data URI; `name` is that of the input, for refusals."""
    param = name.split("[")[0]
    head, comma, body = uri.strip().partition(",")
    if not is_data_uri(uri) or not comma:
        raise ApiError(400, f"{name}: give a picture as a data URI (data:image/png;base64,...) or upload it; URLs are not fetched", param)
    if not _PICTURE.fullmatch(head):
        raise ApiError(
            400, f'{name} is a data URI but no base64 picture; give data:image/png;base64,..., or words as {{"text": ...}}', param
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{name}: the data URI is not valid base64", param) from None


def address_notes(items: Iterable[Item]) -> list[str]:
    """A warning for each item whose words are the URL of a picture and nothing else: it is likely that the picture was meant."""
    return [
        f"{item.id} is the URL of a picture, and was read as words; URLs are not fetched, so send the picture as a data URI"
        for item in items
        if not item.images and item.text[:4].lower() == "http" and _ADDRESS.fullmatch(item.text.strip())
    ]
