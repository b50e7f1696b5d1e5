"""Streams over the files of a source that name the file and line where they are damaged: text in blocks, and decompressed bytes."""

import codecs
import gzip
import zlib
from io import RawIOBase
from typing import Any, BinaryIO

from mirepoix.components.ingestion.formats.rows import Unreadable


class Blocks:
    """The text of a file, block by block; raises Unreadable where it is not UTF-8."""

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
        """Raises Unreadable if anything but white space follows the JSON value of a file, in `rest` (already read) or after it."""
        while not rest or rest.isspace():
            if self.ended:
                return
            rest = self.more()
        line = self.line - rest.lstrip().count("\n")
        words = f"goes on at line {line} after the end of its JSON; make it one value, or one object a line"
        raise Unreadable(f"{self.source} {words}", line)


class Decompressed(RawIOBase):
    """The decompressed bytes of a .gz file; raises Unreadable where they are damaged."""

    def __init__(self, packed: BinaryIO, source: str):
        self.file, self.source, self.lines = gzip.GzipFile(fileobj=packed), source, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self.file.read1(len(buffer))
        except (EOFError, OSError, zlib.error) as error:
            words = f"cannot be unpacked after line {self.lines} ({error}); repair it or leave it out"
            raise Unreadable(f"{self.source} {words}", self.lines + 1) from error
        self.lines += block.count(b"\n")
        buffer[: len(block)] = block
        return len(block)
