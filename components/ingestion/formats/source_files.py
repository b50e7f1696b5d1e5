"""A source where the user has it: a folder or a file, local or at a URI (reach.py), read in pieces and never as a whole.

Pieces (`Shard`) are what Ray reads side by side. Whatever is read has a line: of a text file the line, of Parquet the row, of a tar
the member, each from 1.
"""

import codecs
import gzip
import json
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats import filesystems
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable, split_of
from mirepoix.models.errors import Refused
from mirepoix.serving.store import refuse_credentials

SHARD_BYTES = 64 << 20
_SPACE, _GAP, _ENDING = re.compile(r"\s*"), re.compile(r"[\s,]*"), re.compile(r"\.\w+(\.gz)?$", re.I)
LONGEST_LINE = 256 << 20  # a base64 picture is one line
TABLE_BYTES = 16 << 20  # of Parquet rows that are held at a time, about
LARGEST_FILE = 1 << 30  # of one picture; what is too large for training is curation's to say
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")


@dataclass(frozen=True)
class Shard:
    """A piece of a file that is read by itself."""

    file: str  # relative to the place
    part: str = ""  # what is in it, as the format names it
    start: int = 0  # bytes, or rows of Parquet
    end: int | None = None
    line: int = 1  # of what stands at the start


class SourceFiles:
    """A source's files; picklable, and opened where it is used."""

    def __init__(self, path: str, name: str = "", images: str | None = None):
        refuse_credentials(path)
        self.path, self.images = path, images
        self.name = name or re.sub(r"\s+", "_", path.partition("?")[0].rstrip("/").rpartition("/")[2])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "name": self.name, "images": self.images}

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str, str]:
        """The file system, the folder in it, and the one file if the path is a file."""
        filesystem, root = self._filesystem(self.path)
        with self._reached():
            info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise Refused(f"there is no corpus at {self.path!r}; give a folder, a file, or a URI such as s3://bucket/corpus")
        if info.is_file and not ("://" in self.path and self.path.endswith("/")):
            folder, _, file = root.rpartition("/")
            return filesystem, folder, file
        return filesystem, root, ""

    def _filesystem(self, path: str) -> tuple[pafs.FileSystem, str]:
        with self._reached():
            if "://" in path:
                return filesystems.filesystem_of(path)
            return pafs.LocalFileSystem(), str(Path(path).expanduser().resolve())

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a missing package, an unknown scheme, and each file system's own way to say that nobody answers
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise Refused(
                f"corpus {self.path!r} cannot be reached ({reason}); give a folder or a URI such as s3://bucket/corpus"
            ) from error

    @property
    def home(self) -> str:
        """What the names of files are relative to, as the user gave it."""
        only = self._opened[2]
        return self.path.removesuffix(only).rstrip("/") or "." if only else self.path.rstrip("/")

    # What is there

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of every file by its name, in the order of names; what is hidden is left out."""
        return {name: info.size or 0 for name, info in self._infos.items()}

    @cached_property
    def _infos(self) -> dict[str, pafs.FileInfo]:
        filesystem, root, only = self._opened
        with self._reached():
            found = [filesystem.get_file_info(f"{root}/{only}")] if only else filesystems.infos(filesystem, root)
        named = {info.path[len(root) :].lstrip("/"): info for info in found if info.is_file}
        return {name: named[name] for name in sorted(named) if not any(step.startswith(".") for step in name.split("/"))}

    def fingerprint(self, files: Iterable[str]) -> str:
        """Names, sizes and times of files in one line."""
        return "; ".join(f"{name} {self.sizes[name]} {filesystems.version(self._opened[0], self._infos[name])}" for name in files)

    def files(self, *patterns: str) -> list[str]:
        """The files whose names, with their endings in small letters, match any of the regular expressions as a whole; all without one."""
        compiled = [re.compile(pattern) for pattern in patterns]
        if not compiled:
            return [*self.sizes]
        named = ((name, _ENDING.sub(_lowered, name)) for name in self.sizes)
        return [name for name, told in named if any(pattern.fullmatch(told) for pattern in compiled)]

    def split(self, file: str) -> str:
        """The split that a file's name speaks of, or else the last word of the folder that it is in; train where neither speaks of one."""
        return split_of(f"{re.split(r'[-_.]', self._opened[1].rpartition('/')[2])[-1]}/{file}")

    def source(self, file: str) -> str:
        """A file as rows name it: behind the source's name."""
        return f"{self.name}/{file}"

    # Reading

    def open(self, file: str) -> pa.NativeFile:
        """A file for reading at any place of it."""
        filesystem, root, _ = self._opened
        return filesystem.open_input_file(f"{root}/{file}")

    def stream(self, file: str, start: int = 0) -> BinaryIO:
        """The bytes of a file in order from a place on, unpacked if its name says that it is packed."""
        raw = self.open(file)
        if is_packed(file):
            assert not start, "a packed file is read from its beginning"
            return BufferedReader(_Unpacked(raw, self.source(file)), 1 << 20)
        if start:
            try:
                raw.seek(start)
                raw.read(1)  # only now is a server asked for it
            except ValueError as error:
                raise Unreadable(f"{self.source(file)} cannot be read from byte {start} on ({error}); download it first") from error
        raw.seek(start)
        return BufferedReader(raw, 1 << 20)

    def shards(self, file: str, part: str = "") -> list[Shard]:
        """A text file in pieces of whole lines; a packed one, or one that is a single JSON value, is one piece."""
        if is_packed(file) or self.sizes[file] <= SHARD_BYTES or self.is_array(file):
            return [Shard(file, part)]
        pieces, start, line = [], 0, 1
        with self.open(file) as stream:
            place, seen = 0, 0
            while block := stream.read(min(4 << 20, SHARD_BYTES)):
                place += len(block)
                if place - start >= SHARD_BYTES and (cut := block.rfind(b"\n")) >= 0:
                    end = place - len(block) + cut + 1
                    pieces.append(Shard(file, part, start, end, line))
                    line += seen + block.count(b"\n", 0, cut + 1)
                    start, seen = end, block.count(b"\n", cut + 1)
                else:
                    seen += block.count(b"\n")
            if start < place:
                pieces.append(Shard(file, part, start, None, line))
        return pieces

    def lines(self, shard: Shard) -> Iterator[tuple[int, str | RowError]]:
        """The lines of a piece of a text file with their numbers, without their ends; empty ones are left out."""
        with self.stream(shard.file, shard.start) as stream:
            place, number = shard.start, shard.line
            while shard.end is None or place < shard.end:
                raw = stream.readline(LONGEST_LINE)
                if not raw:
                    return
                place += len(raw)
                if not raw.endswith(b"\n") and len(raw) == LONGEST_LINE:
                    words = f"is longer than {LONGEST_LINE >> 20} MiB; no format has such lines"
                    raise Unreadable(f"{self.source(shard.file)} line {number} {words}", number)
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                if raw.strip():
                    try:
                        yield number, raw.decode().rstrip("\r\n")
                    except UnicodeDecodeError:
                        yield number, RowError("bad row", "the line is not UTF-8")
                number += 1

    def records(self, shard: Shard) -> Iterator[tuple[int, Any]]:
        """The JSON objects of a piece, one a line or as the elements of one array, with their lines; what is no object is a Trouble."""
        if not shard.start and self.is_array(shard.file):
            yield from self._elements(shard.file)
            return
        for number, text in self.lines(shard):
            yield number, text if isinstance(text, RowError) else _object(text)

    def is_array(self, file: str) -> bool:
        """Whether a file is one JSON array."""
        with self.stream(file) as stream:
            return stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["

    def _elements(self, file: str) -> Iterator[tuple[int, Any]]:
        """The elements of a JSON array of any length, read as far as the next one reaches."""
        decode, text, place = json.JSONDecoder().raw_decode, "", 0
        line, opened = 1, False
        with self.stream(file) as stream:
            blocks = Blocks(self.source(file), stream)
            while True:
                start = (_GAP if opened else _SPACE).match(text, place).end()
                line, place = line + text.count("\n", place, start), start
                if not opened and place < len(text):
                    opened, place = True, place + 1
                    continue
                if text.startswith("]", place):
                    return blocks.finish(text[place + 1 :])
                try:
                    element, end = decode(text, place) if place < len(text) else (None, place)
                except (ValueError, RecursionError) as error:
                    end = place
                    if blocks.ended or len(text) - place > LONGEST_LINE or not isinstance(error, json.JSONDecodeError):
                        words = f"line {line} is no JSON ({_why(error)}); mend or shorten the file"
                        raise Unreadable(f"{self.source(file)} {words}", line) from error
                # A number may go on in what comes next; an object, a list and a string end where they end.
                if end > place and (end < len(text) or blocks.ended):
                    yield line, element if isinstance(element, dict) else RowError("bad JSON", f"a {type(element).__name__} and no object")
                    line, place = line + text.count("\n", place, end), end
                    continue
                if blocks.ended:
                    raise Unreadable(f"{self.source(file)} ends inside its JSON array, at line {line}; it was cut off", line)
                text, place = text[place:] + blocks.more(len(text) - place), 0  # a long element is not tried again for every block of it

    def tables(self, shard: Shard, columns: list[str] | None = None, rows: int = 256) -> Iterator[tuple[int, pa.Table]]:
        """The rows of a piece of a Parquet file, some at a time, fewer if they are large, each time with the number of the first."""
        with self._parquet(shard.file) as file:
            groups, number, size = [], 1, 0
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                if number - 1 >= shard.start and (shard.end is None or number - 1 < shard.end):
                    groups.append(group)
                    size = max(size, about.total_byte_size // max(1, about.num_rows))
                number += about.num_rows
            number, rows = shard.line, max(1, min(rows, TABLE_BYTES // max(1, size)))
            for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=columns):
                batch.validate(full=True)  # that texts are UTF-8
                yield number, pa.Table.from_batches([batch])
                number += batch.num_rows

    def parquet_shards(self, file: str, part: str = "") -> list[Shard]:
        """A Parquet file in pieces of whole row groups; one without a footer is a piece: others are read before it is refused."""
        pieces, start, held, first = [], 0, 0, 0
        with suppress(Unreadable), self._parquet(file) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                about = parquet.metadata.row_group(group)
                if held and held + about.total_byte_size > SHARD_BYTES:
                    pieces.append(Shard(file, part, first, start, first + 1))
                    first, held = start, 0
                start, held = start + about.num_rows, held + about.total_byte_size
        if start > first or not pieces:
            pieces.append(Shard(file, part, first, None, first + 1))
        return pieces

    def schema(self, file: str) -> pa.Schema:
        """The columns of a Parquet file, with what its metadata says."""
        with self._parquet(file) as parquet:
            return parquet.schema_arrow

    @contextmanager
    def _parquet(self, file: str) -> Iterator[pq.ParquetFile]:
        with self.open(file) as stream:
            try:
                yield pq.ParquetFile(stream)
            except (pa.ArrowException, OSError, ValueError) as error:  # the last of a server that gives no part of a file
                words = f"cannot be read as Parquet ({str(error).splitlines()[0]}); mend it or leave it out"
                raise Unreadable(f"{self.source(file)} {words}") from error

    def bytes(self, file: str, start: int, size: int) -> bytes:
        """Some bytes of a file."""
        with self.open(file) as stream:
            stream.seek(start)
            return stream.read(size)

    def picture(self, path: str) -> bytes:
        """The bytes of a picture's file, found from `images`, or else from the folder of the source; Trouble if it is not there."""
        if not isinstance(path, str) or not path:
            raise RowError("bad row", "the path of a picture is empty or no text")
        if "\0" in path:
            raise RowError("bad row", f"no path holds what this one does: {path[:100]!r}")
        if "://" in path:
            raise RowError("URL", path[:200])
        if path.lower().endswith(CLIPS):
            raise RowError("video file", path[:200])
        filesystem, root = self._pictures
        absolute = path.startswith("/") and root.startswith("/")
        if not absolute and posixpath.normpath(path.lstrip("/")).split("/")[0] == "..":
            raise RowError("missing picture", f"{path[:150]} leaves its folder")
        full = path if absolute else f"{root}/{path.lstrip('/')}"
        try:
            with filesystem.open_input_file(full) as stream:
                size = stream.size()
                if size > LARGEST_FILE:
                    raise RowError("missing picture", f"{path} has {size} bytes, which no picture has")
                return stream.read()
        except OSError as error:
            raise RowError("missing picture", path[:200]) from error

    @cached_property
    def _pictures(self) -> tuple[pafs.FileSystem, str]:
        return self._filesystem(self.images) if self.images else self._opened[:2]


def is_ending(file: str, *endings: str) -> bool:
    """Whether the name of a file ends in one of these, in letters of any size."""
    return file.lower().endswith(endings)


def is_packed(file: str) -> bool:
    """Whether a file is packed with gzip, as its name says."""
    return is_ending(file, ".gz", ".tgz")


def _lowered(ending: re.Match[str]) -> str:
    return ending[0].lower()


class Blocks:
    """The text of a file block by block; unreadable where it is not UTF-8."""

    def __init__(self, source: str, stream: BinaryIO):
        self.source, self.stream, self.ended, self.line = source, stream, False, 1
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()

    def more(self, size: int = 0) -> str:
        """The next block, of at least so many bytes."""
        block = self.stream.read(max(1 << 20, size))
        self.ended = not block
        try:
            text = self._utf8.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.line + error.object.count(b"\n", 0, error.start)
            raise Unreadable(f"{self.source} line {line} is not UTF-8; write the file anew", line) from error
        self.line += text.count("\n")
        return text

    def finish(self, rest: str) -> None:
        """Refuses what comes after the end of the one JSON value of a file: `rest`, which was read already, and all that was not."""
        while not rest or rest.isspace():
            if self.ended:
                return
            rest = self.more()
        line = self.line - rest.lstrip().count("\n")
        words = f"goes on at line {line} after the end of its JSON; make it one value, or one object a line"
        raise Unreadable(f"{self.source} {words}", line)


class _Unpacked(RawIOBase):
    """What a .gz file holds; unreadable where it cannot be unpacked."""

    def __init__(self, packed: BinaryIO, source: str):
        self.file, self.source, self.lines = gzip.GzipFile(fileobj=packed), source, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self.file.read1(len(buffer))
        except (EOFError, OSError, zlib.error) as error:
            words = f"cannot be unpacked after line {self.lines} ({error}); mend it or leave it out"
            raise Unreadable(f"{self.source} {words}", self.lines + 1) from error
        self.lines += block.count(b"\n")
        buffer[: len(block)] = block
        return len(block)


def _why(error: Exception) -> str:
    """What is wrong with JSON, shortly."""
    return "it is nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "msg", error)).partition(";")[0]


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RowError("bad JSON", _why(error))
    return value if isinstance(value, dict) else RowError("bad JSON", f"a {type(value).__name__} and no object")
