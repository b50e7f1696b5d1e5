"""Captions in files beside pictures, one a picture.

    NAME.txt, NAME.caption       beside NAME.jpg (any ending of a picture), or NAME.jpg.txt: the whole text is one caption
    NAME.json, NAME.jpg.json     one object; read are caption, captions, text, texts and description as captions, label and labels where
                                 there is none; also NAME.jpg.supplemental-metadata.json, as Google Takeout names it

So training scripts of diffusion models (kohya), img2dataset, gallery-dl and Google Takeout write them. The split is that of the folder.
"""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

from mirepoix.components.ingestion.formats.captions import CAPTIONS, LABELS, blank_caption, blank_columns, texts_of
from mirepoix.components.ingestion.formats.delimited import Delimited, encoding_of
from mirepoix.components.ingestion.formats.listed_pictures import key_of, picture_names
from mirepoix.components.ingestion.formats.rows import Notice, RejectedRow, Row, RowError
from mirepoix.components.ingestion.formats.source_files import SourceFiles

TEXTS, OBJECTS = (".txt", ".caption"), (".json",)
TAKEOUT = ".supplemental-metadata.json"
KEYS = (*CAPTIONS, "description")
LARGEST = 1 << 20  # bytes of such a file; a larger one is no caption


def names_beside(tree: SourceFiles, picture: str) -> list[str]:
    """The files with captions of a picture, if there are any."""
    stem = posixpath.splitext(picture)[0]
    names = [f"{start}{ending}" for start in (stem, picture) for ending in (*TEXTS, *OBJECTS)]
    return [name for name in (*names, f"{picture}{TAKEOUT}") if name in tree.sizes]


def sidecars(tree: SourceFiles) -> list[str]:
    """All files with captions of one picture each."""
    return list(dict.fromkeys(name for picture in picture_names(tree) for name in names_beside(tree, picture)))


def beside(tree: SourceFiles, picture: str) -> Iterator[Row | tuple[list[str], list[str]]]:
    """The captions and labels of a picture from the files beside it, and rejections of what cannot be used; the picture stays."""
    key = key_of(picture)
    captions: dict[str, None] = {}
    labels: dict[str, None] = {}
    blank: dict[str, list[str]] = {}
    for name in names_beside(tree, picture):
        source = tree.source(name)
        try:
            text, notice = _text(tree, name)
            if notice:
                yield Notice(tree.name, f"{posixpath.splitext(name)[1]} beside pictures: {notice}")
            if not name.endswith(OBJECTS):
                captions |= dict.fromkeys(texts_of(text.strip()))
                blank |= {} if text.strip() else {source: [posixpath.splitext(name)[1]]}
                continue
            about = _object(text)
            captions |= dict.fromkeys(text.strip() for key in KEYS for text in texts_of(about.get(key)))
            labels |= dict.fromkeys(text for key in LABELS if not isinstance(about.get(key), int) for text in texts_of(about.get(key)))
            if empty := blank_columns(about):
                blank[source] = empty
            if not about.keys() & {*KEYS, *LABELS}:
                yield Notice(
                    tree.name, f"JSON beside pictures has {', '.join(about) or 'nothing'}, and no caption under {', '.join(KEYS)}"[:200]
                )
        except RowError as error:
            yield RejectedRow("queries", f"{key}.i2t", error.reason, error.detail, source, 1)
    if not captions and not labels:
        yield from (blank_caption(key, columns, source, 1) for source, columns in blank.items())
    yield list(captions), list(labels)


def _text(tree: SourceFiles, name: str) -> tuple[str, str]:
    """The text of a file, and a notice about its encoding, if there is anything to say."""
    if tree.sizes[name] > LARGEST:
        raise RowError("bad row", f"the file has {tree.sizes[name]} bytes, which no caption has")
    data = tree.bytes(name, 0, tree.sizes[name])
    encoding = encoding_of(data)
    try:
        return data.decode(encoding), Delimited(encoding, ",", ()).notice
    except UnicodeDecodeError as error:
        raise RowError("bad row", "the file is no text") from error


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError("bad JSON", "the file is no JSON") from error
    if not isinstance(value, dict):
        raise RowError("bad JSON", f"a {type(value).__name__} and no object")
    return value
