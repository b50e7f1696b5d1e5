"""The files of a source, a folder or a file, local or at a URI (filesystems.py), read in pieces and never as a whole.

Pieces (`Shard`) can be read in parallel. Every row has a number from 1: the line of a text file, the row of a Parquet file, the member of a
tar.
"""

import builtins
import codecs
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats import filesystems
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable, split_of
from mirepoix.components.ingestion.formats.run_files import in_storage, storages_among
from mirepoix.components.ingestion.formats.streams import Blocks, Decompressed
from mirepoix.models.errors import Refused, first_line
from mirepoix.serving.store import refuse_credentials

SHARD_BYTES = 64 << 20
_DENIED = re.compile(r"Cannot list directory '(.+?)'\.")  # as pyarrow words it
_SPACE, _GAP, _ENDING = re.compile(r"\s*"), re.compile(r"[\s,]*"), re.compile(r"\.\w+(\.gz)?$", re.I)
LONGEST_LINE = 256 << 20  # a base64 picture is one line
TABLE_BYTES = 16 << 20  # of Parquet rows that are held at a time, about
LARGEST_FILE = 1 << 30  # of one picture; curation rejects those that are too large for training
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")


@dataclass(frozen=True)
class Shard:
    """A piece of a file that is read independently of the others."""

    file: str  # relative to the source
    part: str = ""  # the kind of rows in it, as the format names it
    start: int = 0  # bytes, or rows of Parquet
    end: int | None = None
    line: int = 1  # the number of the first line or row


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as the listing of its folder has it."""

    size: int
    modified: int | None  # in nanoseconds; None where the file system does not know


class SourceFiles:
    """The files of a source, listed once; it pickles with its listing, so that a worker need not list them again."""

    def __init__(
        self, path: str, name: str = "", images: str | None = None, columns: Sequence[tuple[str, str]] = (), captions: str = "apart"
    ):
        refuse_credentials(path)
        self.path, self.images = path, images
        self.columns, self.captions = tuple(columns), captions  # columns: roles with their columns, as the format table reads them
        self.splits: Mapping[str, str] = {}  # the new names of splits
        self.only_splits: tuple[str, ...] = ()  # those that are read, by their new names; none: all
        self.only_datasets: tuple[str, ...] = ()  # names or patterns of the data sets that are read; none: all
        self.uniir_texts = False  # whether the texts of M-BEIR are formatted as UniIR does it
        self.name = name or re.sub(r"\s+", "_", path.partition("?")[0].rstrip("/").rpartition("/")[2])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_opened", "_pictures", "sizes")}

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str, str]:
        """The file system, the folder in it, and the one file if the path is a file."""
        filesystem, root = self._filesystem(self.path)
        with self._as_refusal():
            info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise Refused(f"there is no corpus at {self.path!r}; give a folder, a file, or a URI such as s3://bucket/corpus")
        if info.is_file and not ("://" in self.path and self.path.endswith("/")):
            folder, _, file = root.rpartition("/")
            return filesystem, folder, file
        return filesystem, root, ""

    def _filesystem(self, path: str) -> tuple[pafs.FileSystem, str]:
        with self._as_refusal():
            if "://" in path:
                return filesystems.filesystem_of(path)
            return pafs.LocalFileSystem(), str(Path(path).expanduser().resolve())

    @contextmanager
    def _as_refusal(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a missing package, an unknown scheme, or any connection error of a file system
            reason = first_line(error)
            if isinstance(error, PermissionError) and (denied := _DENIED.search(reason)):
                raise Refused(
                    f"corpus {self.path!r} cannot be read whole: {denied[1]} is closed to this user; make it readable, move it elsewhere, "
                    "or give the folders that can be read as sources.path"
                ) from error
            raise Refused(
                f"corpus {self.path!r} cannot be reached ({reason}); give a folder or a URI such as s3://bucket/corpus"
            ) from error

    @property
    def given_root(self) -> str:
        """The path that file names are relative to, as the user gave it."""
        only = self._opened[2]
        return self.path.removesuffix(only).rstrip("/") or "." if only else self.path.rstrip("/")

    @property
    def root(self) -> str:
        """The folder that file names are relative to, in its file system."""
        return self._opened[1]

    @property
    def only(self) -> str:
        """The name of the file where the source is one file; empty for a folder."""
        return self._opened[2]

    # Listing

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of every file by its name, sorted by name, without hidden files."""
        return {name: file.size for name, file in self.listing.items()}

    @cached_property
    def listing(self) -> dict[str, ListedFile]:
        """Every file by its name, sorted by name, without hidden files and without what runs wrote into a storage among them."""
        filesystem, root, only = self._opened
        with self._as_refusal():
            found = [filesystem.get_file_info(f"{root}/{only}")] if only else filesystems.infos(filesystem, root)
        below = {self._name(info, root): info for info in found}
        storages = storages_among(below) if not only else set()
        named = {name: info for name, info in below.items() if info.is_file and not in_storage(name, storages)}
        seen = (name for name in sorted(named) if not any(step.startswith(".") for step in name.split("/")))
        return {name: ListedFile(named[name].size or 0, named[name].mtime_ns) for name in seen}

    def _name(self, info: pafs.FileInfo, root: str) -> str:
        """The name of a file below the root."""
        try:
            return str(info.path[len(root) :]).lstrip("/")
        except UnicodeDecodeError as error:  # by pyarrow, with the whole path
            name = error.object[len(root.encode()) :].lstrip(b"/").decode(errors="backslashreplace")
            raise Refused(f"corpus {self.path!r} has a file whose name is not UTF-8: {name}; rename it, or leave it out") from error

    def fingerprint(self, files: Iterable[str]) -> str:
        """The names, sizes and modification times of files, in one line."""
        filesystem, root, _ = self._opened
        versions = ((name, filesystems.version(filesystem, f"{root}/{name}", self.listing[name].modified)) for name in files)
        return "; ".join(f"{name} {self.sizes[name]} {version}" for name, version in versions)

    def files(self, *patterns: str) -> list[str]:
        """The files whose names, with the extension in lower case, fully match any of the regular expressions; all files without one."""
        compiled = [re.compile(pattern) for pattern in patterns]
        if not compiled:
            return [*self.sizes]
        named = ((name, _ENDING.sub(_lowered, name)) for name in self.sizes)
        return [name for name, lowered in named if any(pattern.fullmatch(lowered) for pattern in compiled)]

    def split(self, file: str) -> str:
        """The split in a file's name, or else in the last word of its folder's name; train where neither has one."""
        return split_of(f"{re.split(r'[-_.]', self._opened[1].rpartition('/')[2])[-1]}/{file}")

    def reads(self, split: str) -> bool:
        """Whether the rows of a split, by its name in the source, are read."""
        return not self.only_splits or self.splits.get(split, split) in self.only_splits

    def reads_dataset(self, *names: str) -> bool:
        """Whether a data set of these names is read."""
        return not self.only_datasets or any(fnmatchcase(name, pattern) for name in names for pattern in self.only_datasets)

    def source(self, file: str) -> str:
        """A file as rows name it: SOURCE/FILE."""
        return f"{self.name}/{file}"

    # Reading

    def open(self, file: str) -> pa.NativeFile:
        """Opens a file for random access."""
        filesystem, root, _ = self._opened
        return filesystem.open_input_file(f"{root}/{file}")

    def stream(self, file: str, start: int = 0) -> BinaryIO:
        """The bytes of a file from a position on, decompressed if its name ends in .gz or .tgz."""
        raw = self.open(file)
        if is_packed(file):
            assert not start, "a compressed file is read from its beginning"
            return BufferedReader(Decompressed(raw, self.source(file)), 1 << 20)
        if start:
            try:
                raw.seek(start)
                raw.read(1)  # a server's error comes with the first read
            except ValueError as error:
                raise Unreadable(f"{self.source(file)} cannot be read from byte {start} on ({error}); download it first") from error
        raw.seek(start)
        return BufferedReader(raw, 1 << 20)

    def shards(self, file: str, part: str = "") -> list[Shard]:
        """Pieces of whole lines of a text file; a compressed file, or one that is a single JSON value, is one piece."""
        if is_packed(file) or self.sizes[file] <= SHARD_BYTES or self.is_array(file):
            return [Shard(file, part)]
        pieces, start, line = [], 0, 1
        with self.open(file) as stream:
            position, seen = 0, 0
            while block := stream.read(min(4 << 20, SHARD_BYTES)):
                position += len(block)
                if position - start >= SHARD_BYTES and (cut := block.rfind(b"\n")) >= 0:
                    end = position - len(block) + cut + 1
                    pieces.append(Shard(file, part, start, end, line))
                    line += seen + block.count(b"\n", 0, cut + 1)
                    start, seen = end, block.count(b"\n", cut + 1)
                else:
                    seen += block.count(b"\n")
            if start < position:
                pieces.append(Shard(file, part, start, None, line))
        return pieces

    def lines(self, shard: Shard) -> Iterator[tuple[int, str | RowError]]:
        """The non-empty lines of a piece of a text file with their numbers, without line ends."""
        with self.stream(shard.file, shard.start) as stream:
            position, number = shard.start, shard.line
            while shard.end is None or position < shard.end:
                raw = stream.readline(LONGEST_LINE)
                if not raw:
                    return
                position += len(raw)
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
        """The JSON objects of a piece with their lines, one a line or the elements of one array; RowError for a value that is no object."""
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
        """The elements of a JSON array of any length, parsed one at a time from blocks of the file."""
        decode, text, position = json.JSONDecoder().raw_decode, "", 0
        line, opened = 1, False
        with self.stream(file) as stream:
            blocks = Blocks(self.source(file), stream)
            while True:
                gap = (_GAP if opened else _SPACE).match(text, position)
                assert gap is not None  # both patterns match the empty string too
                start = gap.end()
                line, position = line + text.count("\n", position, start), start
                if not opened and position < len(text):
                    opened, position = True, position + 1
                    continue
                if text.startswith("]", position):
                    return blocks.finish(text[position + 1 :])
                try:
                    element, end = decode(text, position) if position < len(text) else (None, position)
                except (ValueError, RecursionError) as error:
                    end = position
                    if blocks.ended or len(text) - position > LONGEST_LINE or not isinstance(error, json.JSONDecodeError):
                        words = f"line {line} is no JSON ({_why(error)}); repair or shorten the file"
                        raise Unreadable(f"{self.source(file)} {words}", line) from error
                # A number at the end of the text may continue in the next block.
                if end > position and (end < len(text) or blocks.ended):
                    yield line, element if isinstance(element, dict) else RowError("bad JSON", f"a {type(element).__name__} and no object")
                    line, position = line + text.count("\n", position, end), end
                    continue
                if blocks.ended:
                    raise Unreadable(f"{self.source(file)} ends inside its JSON array, at line {line}; it was cut off", line)
                text, position = (
                    text[position:] + blocks.more(len(text) - position),
                    0,
                )  # blocks grow with the element, so a long one is not parsed again for every block

    def tables(self, shard: Shard, columns: list[str] | None = None, rows: int = 256) -> Iterator[tuple[int, pa.Table]]:
        """The rows of a piece of a Parquet file in tables of bounded size, each with the number of its first row."""
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
        """Pieces of whole row groups of a Parquet file; an unreadable file is one piece, so that others are read before it is refused."""
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
        """The schema of a Parquet file, with its metadata."""
        with self._parquet(file) as parquet:
            return parquet.schema_arrow

    @contextmanager
    def _parquet(self, file: str) -> Iterator[pq.ParquetFile]:
        with self.open(file) as stream:
            try:
                yield pq.ParquetFile(stream)
            except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a server without range requests
                words = f"cannot be read as Parquet ({first_line(error)}); repair it or leave it out"
                raise Unreadable(f"{self.source(file)} {words}") from error

    def bytes(self, file: str, start: int, size: int) -> bytes:
        """Some bytes of a file."""
        with self.open(file) as stream:
            stream.seek(start)
            return stream.read(size)

    def picture(self, path: str) -> builtins.bytes:
        """The bytes of a picture's file, relative to `images` or else to the source's folder; RowError if there is none."""
        if not isinstance(path, str) or not path:
            raise RowError("bad row", "the path of a picture is empty or no text")
        if "\0" in path:
            raise RowError("bad row", f"the path of a picture has a null character: {path[:100]!r}")
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
    """Whether the name of a file has one of the endings, in upper or lower case."""
    return file.lower().endswith(endings)


def is_packed(file: str) -> bool:
    """Whether a file is compressed with gzip, by its name."""
    return is_ending(file, ".gz", ".tgz")


def _lowered(ending: re.Match[str]) -> str:
    return ending[0].lower()


def _why(error: Exception) -> str:
    """A short reason for which JSON cannot be parsed."""
    return "it is nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "msg", error)).partition(";")[0]


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RowError("bad JSON", _why(error))
    return value if isinstance(value, dict) else RowError("bad JSON", f"a {type(value).__name__} and no object")
