"""The pictures of a folder as candidates, in pieces that name them; where captions are read together with pictures, with their captions.

The id of a picture is its path in the source, without white space.
"""

import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mirepoix.components.ingestion.formats.captions import AUDIO, Captioned
from mirepoix.components.ingestion.formats.rows import Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import CLIPS, SHARD_BYTES, Shard, SourceFiles
from mirepoix.models.picture_formats import PICTURE_ENDINGS

PICTURES = 1000  # in a piece of the list of pictures, at most
ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


@dataclass(slots=True)
class Joined:
    """The captions and labels of one picture in tables of captions, with the first file and line of them."""

    file: str
    line: int
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


Beside = Callable[[SourceFiles, str], Iterator[Row | tuple[list[str], list[str]]]]
"""Yields the captions and labels that lie beside a picture of this name, once, and rejections and notices about them."""


def suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def picture_names(tree: SourceFiles) -> list[str]:
    """The pictures that are listed with the source; none where they lie elsewhere."""
    return [] if tree.images else [name for name in tree.sizes if suffix(name) in PICTURE_ENDINGS]


def key_of(path: str) -> str:
    """The key of a picture in ids: its path without white space."""
    return re.sub(r"\s", "_", path)


def found_path(tree: SourceFiles, folder: str, path: str) -> str:
    """The path of a picture in the source, as a file in `folder` names it: relative to that folder, else to the source or to `images`.

    An absolute path of another machine is found by its last steps, and a name without the ending of a picture by the one picture of that
    name. RowError if it is no text, or lies outside of the source. Whether the picture exists is found out when it is read.
    """
    if not isinstance(path, str) or not path.strip():
        raise RowError("bad row", "the path of a picture is empty or no text")
    if "://" in path:
        return path  # rejected when it is read
    if "\\" in path and path not in tree.sizes:  # as Windows writes it
        path = path.replace("\\", "/")
    path = posixpath.normpath(path.removeprefix(f"{tree.root}/"))
    paths = [path] if tree.images or not folder else [posixpath.normpath(f"{folder}/{path}"), path]
    found = next((found for found in paths if found in tree.sizes), None) or _of_another_machine(tree, folder, path)
    if found := found or next((named for each in paths if (named := _without_ending(tree, each))), ""):
        return found
    if any(found.startswith(("/", "../")) for found in paths):
        raise RowError("bad row", f"{path[:150]} lies outside of the folder")
    return paths[-1]


def _of_another_machine(tree: SourceFiles, folder: str, path: str) -> str:
    """The picture that an absolute path ends with, relative to `folder`, else to the source; empty if there is none."""
    if tree.images or not ABSOLUTE.match(path):
        return ""
    steps = path.split("/")[1:]
    ends = ("/".join(steps[number:]) for number in range(len(steps)))
    return next((name for end in ends for name in (posixpath.join(folder, end), end) if name in tree.sizes), "")


def _without_ending(tree: SourceFiles, path: str) -> str:
    """The one picture that is called so apart from its ending; empty if there is none, or several."""
    if tree.images or suffix(path) in PICTURE_ENDINGS:
        return ""
    names = [name for ending in PICTURE_ENDINGS for name in (f"{path}.{ending}", f"{path}.{ending.upper()}") if name in tree.sizes]
    return names[0] if len(names) == 1 else ""


def pieces(tree: SourceFiles, joined: Mapping[str, Joined] = MappingProxyType({}), without: Collection[str] = ()) -> list[Shard]:
    """The list of pictures in pieces, and of those that `joined` names, with the names in `part` so that the folder is listed once."""
    listed = [] if tree.images else [name for name in tree.sizes if _is_listed(name) and name not in without]
    found: list[Shard] = []
    entries: list[object] = []
    held = 0
    for name in dict.fromkeys([*listed, *joined]):
        size = tree.sizes.get(name, 0)
        if entries and (held + size > SHARD_BYTES or len(entries) >= PICTURES):
            found.append(_piece(entries))
            entries, held = [], 0
        texts = joined.get(name)
        entries.append([name, texts.file, texts.line, texts.captions, texts.labels] if texts else name)
        held += size
    return [*found, _piece(entries)] if entries else found


def _is_listed(name: str) -> bool:
    """Whether a file is a picture, or audio or video, which is rejected by name."""
    return suffix(name) in (*PICTURE_ENDINGS, *AUDIO) or f".{suffix(name)}" in CLIPS


def _piece(entries: list[object]) -> Shard:
    first = entries[0]
    return Shard(first if isinstance(first, str) else first[1], json.dumps(entries))  # type: ignore[index]


def read(tree: SourceFiles, shard: Shard, beside: Beside | None = None) -> Iterator[Row]:
    """The pictures of a piece as candidates, each from its own file, with the captions of the piece and those beside them."""

    def parse(line: int, entry: tuple[str, Joined | None]) -> Iterable[Row]:
        name, texts = entry
        if _is_listed(name) and suffix(name) not in PICTURE_ENDINGS:
            raise RowError("audio" if suffix(name) in AUDIO else "video file", name)
        captions, labels = (list(texts.captions), list(texts.labels)) if texts else ([], [])
        for row in beside(tree, name) if beside else ():
            if isinstance(row, tuple):
                captions += row[0]
                labels += row[1]
            else:
                yield row
        picture = Captioned(key_of(name), tree.picture(name), tuple(captions), () if captions else tuple(labels))
        # A picture that lies elsewhere, below `images`, is no file of the source: it is known by the line that names it.
        source, number = (tree.source(texts.file), line) if texts and tree.images else (tree.source(name), 1)
        yield from picture.rows(tree.captions, tree.split(f"{posixpath.dirname(name)}/"), source, number)

    for entry in json.loads(shard.part):
        name, *given = [entry] if isinstance(entry, str) else entry
        texts = Joined(*given) if given else None
        yield from rowwise("corpus", tree.source(texts.file if texts else name), [(texts.line if texts else 1, (name, texts))], parse)
