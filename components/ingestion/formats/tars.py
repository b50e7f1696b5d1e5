"""WebDataset: tars in which the files of one sample are consecutive and share their name up to the first dot.

    <name>-000000.tar    000123.jpg (jpeg, png, webp, gif, bmp, tif), 000123.txt (a caption), 000123.json (metadata)
    <name>-000000.tar.gz the same, compressed; or .tgz

The JSON fields that are read: `caption`, `captions`, `text` or `texts` (a text or a list); `label` or `labels` where there is no caption
(in words; class numbers are ignored); and `key` or `id`, which img2dataset and our own writer make unique among all tars. A sample
without them gets its tar's name as a prefix, since most writers number the samples of each tar anew. captions.py describes the rows made
of captions. Tars are read as streams, never extracted; a sample with a link, a device or a path outside the tar is rejected, and
extensions that are not read are reported once per tar. Each tar is read by one worker. A file of several concatenated tars is unreadable
after the first: give each as a file of its own.
"""

import io
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.captions import (
    AUDIO,
    CAPTIONS,
    LABELS,
    SPLITS,
    Captioned,
    blank_caption,
    blank_columns,
    captioned,
    known_suffix,
    texts_of,
)
from mirepoix.components.ingestion.formats.fields import id_of
from mirepoix.components.ingestion.formats.rows import Notice, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import (
    CLIPS,
    LARGEST_FILE,
    Shard,
    SourceFiles,
    is_ending,
    is_packed,
)
from mirepoix.models.picture_formats import PICTURE_ENDINGS

NAME = "webdataset"
FILES = r".*\.(tar(\.gz)?|tgz)"
LARGEST_TEXT = 16 << 20
PER_TAR, BYTES_PER_TAR = 10_000, 1 << 30


@dataclass
class Sample:
    """The members of a tar that share their name up to the first dot."""

    key: str
    line: int
    members: dict[str, bytes] = field(default_factory=dict)  # by their extensions
    unread: list[str] = field(default_factory=list)


def detect(tree: SourceFiles) -> bool:
    return bool(tree.files(FILES)) and not tree.files(r".*\.jsonl")


def shards(tree: SourceFiles) -> list[Shard]:
    return [Shard(file) for file in tree.files(FILES)]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split = tree.source(shard.file), tree.split(shard.file)
    # Different prefixes for a.tar, a.tar.gz and a.tgz, which may be different tars.
    tar = re.sub(r"\s", "_", shard.file if is_ending(shard.file, ".tgz") else shard.file.rpartition(".")[0])
    reported: set[str] = set()

    def parse(line: int, sample: Sample) -> Iterable[Row]:
        for name in sample.unread:
            if name.rpartition(".")[2] in AUDIO:
                raise RowError("audio", f"{sample.key}.{name}")
            if f".{name.rpartition('.')[2]}" in CLIPS:
                raise RowError("video file", f"{sample.key}.{name}")
        about = _json(sample.members.get("json"))
        named = next((about[name] for name in ("key", "id") if about.get(name) is not None), None)
        key = id_of(named) if named is not None else re.sub(r"\s", "_", f"{tar}/{sample.key}")
        pictures = {name: data for name, data in sample.members.items() if name in PICTURE_ENDINGS}
        if not pictures:
            raise RowError(
                "missing picture", f"{sample.key} has {', '.join(sample.members) or 'nothing'}; the members of a sample must be consecutive"
            )
        captions = [text for name in CAPTIONS for text in texts_of(about.get(name))]
        alone = _text(sample.members.get("txt"))
        if alone and _bare(alone) not in map(_bare, captions):  # most writers put the caption in both
            captions.insert(0, alone)
        labels = () if captions else [text for name in LABELS if not isinstance(about.get(name), int) for text in texts_of(about.get(name))]
        for name, data in pictures.items():
            entry = Captioned(key if len(pictures) == 1 else f"{key}.{name}", data, tuple(captions), tuple(labels))
            yield from entry.rows(tree.captions, split, source, line)
        empty = blank_columns(about) + [".txt"] * ("txt" in sample.members and not alone)
        if empty and not captions and not labels:
            yield blank_caption(key, empty, source, line)
        for name in sample.unread:
            if name not in reported:
                reported.add(name)
                detail = f"files .{name} are not read, here and wherever they come again in this tar; the samples are read without them"
                yield Notice(source, detail)

    return rowwise("corpus", source, _samples(tree, shard), parse)


def _samples(tree: SourceFiles, shard: Shard) -> Iterator[tuple[int, Sample | RowError]]:
    """The samples with the numbers of their first members; a RowError for a sample with an unsafe member."""
    sample: Sample | None = None
    spoilt = ""  # the key of the sample that was rejected last
    for number, path, content in _members(tree, shard):
        folder, slash, name = path.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = folder + slash + stem, suffix.lower()
        if sample is not None and sample.key != key:
            yield sample.line, sample
            sample = None
        if key == spoilt:
            continue
        spoilt = ""
        if sample is None:
            sample = Sample(key, number)
        if isinstance(content, bytes) and suffix in sample.members:
            content = RowError("bad row", f"{path} occurs twice")
        if isinstance(content, RowError):
            yield number, content
            sample, spoilt = None, key
        elif content is None:
            sample.unread.append(suffix)
        else:
            sample.members[suffix] = content
    if sample is not None:
        yield sample.line, sample


def _clear_members(tar: Any) -> None:
    """Empties the list of all members that a TarFile keeps; its annotations leave the list out."""
    tar.members.clear()


def _members(tree: SourceFiles, shard: Shard) -> Iterator[tuple[int, str, bytes | RowError | None]]:
    """The files of a tar in order, with number, path and content: None for a file that is not read, RowError for an unsafe member."""
    number = 0
    try:
        with tree.stream(shard.file) as stream, tarfile.open(fileobj=stream, mode="r|", encoding="utf-8") as tar:
            for number, member in enumerate(tar, 1):
                _clear_members(tar)  # otherwise tarfile keeps every member in memory
                path = member.name.removeprefix("./")
                if not member.isdir() and not any(re.match(r"\.[^.]", step) for step in path.split("/")):  # hidden
                    yield number, path, _content(tar, member, path)
            # A tar ends with blocks of zeros. tarfile accepts a missing end, and ignores what follows the first one.
            cut = not is_packed(shard.file) and any(tree.bytes(shard.file, tar.offset, tarfile.BLOCKSIZE) or b"cut")
            more = any(any(block) for block in iter(lambda: tar.fileobj.read(1 << 20), b""))
    except Unreadable as error:
        raise Unreadable(str(error), number + 1) from error
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise Unreadable(f"{tree.source(shard.file)} cannot be read as a tar ({error}); repair it or leave it out", number + 1) from error
    if cut:
        words = f"ends within the tar, after member {number}; it was cut off or damaged"
        raise Unreadable(f"{tree.source(shard.file)} {words}", number + 1)
    if more:
        words = f"continues after the end of its tar, after member {number}; give each tar in it as a file of its own"
        raise Unreadable(f"{tree.source(shard.file)} {words}", number + 1)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes | RowError | None:
    suffix = path.rpartition("/")[2].partition(".")[2].lower()
    if not member.isfile():
        return RowError("bad row", f"{path[:150]} is a link or a device and no file")
    if path.startswith("/") or ".." in path.split("/"):
        return RowError("bad row", f"{path[:150]} is a path outside of the tar")
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        return RowError("bad id", "the name of the member is not UTF-8")
    if suffix not in (*PICTURE_ENDINGS, "txt", "json"):
        return None
    most = LARGEST_FILE if suffix in PICTURE_ENDINGS else LARGEST_TEXT
    if member.size > most:
        return RowError("bad row", f"{path[:150]} has {member.size} bytes; at most {most} are read")
    content = tar.extractfile(member)
    assert content is not None
    return content.read()


def _json(content: bytes | None) -> dict[str, Any]:
    try:
        about = json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise RowError("bad JSON", str(error)[:200]) from error
    if not isinstance(about, dict):
        raise RowError("bad JSON", f"a {type(about).__name__} and no object")
    return about


def _text(content: bytes | None) -> str:
    try:
        return (content or b"").decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RowError("bad row", "the caption is not UTF-8") from error


def _bare(text: str) -> str:
    """A caption without surrounding white space and byte order mark."""
    return re.sub(r"\A[\s\ufeff]+|\s+\Z", "", text)


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes tars named after their split, `pictures-...` for those without captions; samples are numbered, and their JSON has the key."""
    dropped: Counter[str] = Counter()
    target.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        tars = {name: stack.enter_context(_Tars(target, name)) for name in (*SPLITS, "pictures")}
        for split, entry in captioned(corpus, NAME, dropped):
            about = {"key": entry.key} | {name: texts for name in ("captions", "labels") if (texts := getattr(entry, name))}
            sample = {known_suffix(entry.picture, entry.key): entry.picture, "json": json.dumps(about, ensure_ascii=False).encode()}
            if entry.captions:
                sample["txt"] = entry.captions[0].encode()
            tars[split or "pictures"].add(sample)
    return +dropped


class _Tars:
    """A series of tars of bounded size with one name; each is created with its first sample."""

    def __init__(self, target: Path, name: str):
        self.target, self.name = target, name
        self.samples = self.bytes = self.tars = 0
        self.tar: tarfile.TarFile | None = None

    def add(self, sample: dict[str, bytes]) -> None:
        if self.tar is not None and (self.samples >= PER_TAR or self.bytes >= BYTES_PER_TAR):
            self.tar.close()
            self.tar = None
        if self.tar is None:
            self.tar = tarfile.open(self.target / f"{self.name}-{self.tars:06d}.tar", "w")  # noqa: SIM115
            self.tars, self.samples, self.bytes = self.tars + 1, 0, 0
        for suffix, content in sample.items():
            member = tarfile.TarInfo(f"{self.samples:09d}.{suffix}")
            member.size = len(content)
            self.tar.addfile(member, io.BytesIO(content))
            _clear_members(self.tar)
            self.bytes += len(content)
        self.samples += 1

    def __enter__(self) -> "_Tars":
        return self

    def __exit__(self, *_: object) -> None:
        if self.tar is not None:
            self.tar.close()
