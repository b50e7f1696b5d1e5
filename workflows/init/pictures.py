"""The pictures of a folder: how many, how large, which of them are not read, and what reading them takes here."""

from collections import Counter
from dataclasses import dataclass
from time import perf_counter

from mirepoix.components.ingestion.formats.listed_pictures import picture_names, suffix
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.serving.pictures import PictureRefused, check_picture, checked_picture
from mirepoix.serving.pictures_config import PictureLimits
from mirepoix.workflows.recipes.search import OWN

UNREAD = {
    **dict.fromkeys(("heic", "heif", "avif", "jxl", "jp2"), "a picture that is not read; convert it to JPEG"),
    **dict.fromkeys(("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf"), "a camera's raw picture; convert it to JPEG"),
    **dict.fromkeys(("svg", "psd", "eps", "ai", "pdf"), "no picture of pixels; convert it to PNG"),
    **dict.fromkeys(("bmp", "tif", "tiff"), "read, and rejected by curation; convert it to PNG"),
}
"""Endings of pictures that a search would not hold, and what to do."""
LOOKED, DECODED = 300, 24
"""Pictures of which the header is read, and of these those that are decoded, at most; spread over the folder."""
HEADER = 256 << 10
SECONDS = 2.0
"""Pictures are decoded for as long at most."""
LIMITS = PictureLimits(max_bytes=OWN.max_picture_bytes, max_pixels=OWN.max_picture_pixels)


@dataclass(frozen=True)
class Pictures:
    """What a folder has of pictures; what was only looked at in some of them says in how many."""

    count: int = 0
    bytes: int = 0
    folders: int = 0  # that have pictures, other than the folder itself
    looked: int = 0
    megapixels: float = 0.0  # of the middle one of those that were looked at
    usual: str = ""  # its width x height
    largest: str = ""
    refused: tuple[tuple[str, str], ...] = ()  # names and reasons, of those that were looked at
    unread: tuple[tuple[str, int, str], ...] = ()  # endings of pictures that are not read: how many, and what to do
    seconds: float = 0.0  # that it takes one process here to read and check one, about

    @property
    def usable(self) -> int:
        """How many are likely to be kept."""
        rejected = sum(count for ending, count, _ in self.unread if ending in ("bmp", "tif", "tiff"))
        share = len(self.refused) / self.looked if self.looked else 0.0
        return round((self.count - rejected) * (1 - share))


def look_at_pictures(tree: SourceFiles) -> Pictures:
    """The pictures of a folder."""
    endings = Counter(suffix(name) for name in tree.sizes)
    unread = tuple((ending, endings[ending], what) for ending, what in UNREAD.items() if endings[ending])
    names = picture_names(tree)
    if not names:
        return Pictures(unread=unread)
    headers: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    sample = _spread([name for name in names if suffix(name) not in UNREAD], LOOKED)
    for name in sample:
        try:
            headers[name] = check_picture(tree.bytes(name, 0, min(HEADER, tree.sizes[name])), LIMITS)[1:]
        except PictureRefused as refusal:
            if tree.sizes[name] <= HEADER or refusal.reason != "damaged":  # a long header may end after what was read
                refused[name] = refusal.reason
        except OSError:
            refused[name] = "cannot be read"
    seconds = _decode(tree, [name for name in _spread(sample, DECODED) if name not in refused], refused)
    folders = {name.rpartition("/")[0] for name in names} - {""}
    sizes = sorted((size for name, size in headers.items() if name not in refused), key=lambda size: size[0] * size[1])
    shown = [f"{width} x {height}" for width, height in sizes]
    middle = len(sizes) // 2
    return Pictures(
        count=len(names),
        bytes=sum(tree.sizes[name] for name in names),
        folders=len(folders),
        looked=len(sample),
        megapixels=sizes[middle][0] * sizes[middle][1] / 1e6 if sizes else 0.0,
        usual=shown[middle] if sizes else "",
        largest=shown[-1] if sizes else "",
        refused=tuple(sorted(refused.items())),
        unread=unread,
        seconds=seconds,
    )


def _decode(tree: SourceFiles, names: list[str], refused: dict[str, str]) -> float:
    """Reads pictures as curation does, adds those that are damaged to `refused`, and returns the seconds that one took."""
    began, done = perf_counter(), 0
    for name in names:
        if perf_counter() - began > SECONDS:
            break
        try:
            checked_picture(tree.bytes(name, 0, tree.sizes[name]), LIMITS, OWN.picture_pixels)
        except PictureRefused as refusal:
            refused[name] = refusal.reason
        except OSError:
            refused[name] = "cannot be read"
        done += 1
    return (perf_counter() - began) / done if done else 0.0


def _spread(names: list[str], most: int) -> list[str]:
    """So many of the names at most, at equal distances."""
    return [names[index * len(names) // most] for index in range(most)] if len(names) > most else names
