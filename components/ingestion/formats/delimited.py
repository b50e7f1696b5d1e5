"""Text tables with a header: their encoding, delimiter and columns are recognised from the beginning of the file.

    encoding     UTF-8; UTF-16 and UTF-32 by their byte order mark; UTF-16 without one by its zero bytes; else Windows-1252, or Latin-1
                 where a byte has no meaning in Windows-1252
    delimiter    , ; tab or |, by the one under which most rows have as many cells as the header; Excel's first line "sep=;" decides
    cells        quoted with ", with line breaks inside quotes; a .tsv is not quoted; a space after each delimiter is left out where the
                 header has it

No statistics of languages are used: other one-byte encodings (Cyrillic, Greek), Shift-JIS, GBK and Big5 are read as Windows-1252, with
wrong letters, and a notice names the encoding. A file that is UTF-8 apart from a few lines is read as UTF-8, and those lines are rejected.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import SHARD_BYTES, SourceFiles, is_ending

DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 100_000  # bytes at the beginning of a file by which it is recognised
BLOCK = 1 << 20
ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_UTF8 = "utf-8-sig"
_MARKS = {codecs.BOM_UTF8: _UTF8, codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"} | {
    codecs.BOM_UTF16_LE: "utf-16",  # after UTF-32, whose mark begins like this one
    codecs.BOM_UTF16_BE: "utf-16",
}
_NAMES = {_UTF8: "UTF-8", "cp1252": "Windows-1252", "latin-1": "Latin-1", "utf-32": "UTF-32"}
_SEPARATOR = re.compile("sep=([,;\t|])")
_CONTROL = re.compile("[\0-\x08\x0e-\x1a]")
_UNDECODED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Delimited:
    """How a text table is written, its header, and the rows at its beginning."""

    encoding: str  # as Python names it
    delimiter: str
    header: tuple[str, ...]  # without white space around the names; empty for an empty file
    rows: tuple[tuple[str, ...], ...] = ()  # those of the sample
    quoted: bool = True
    spaced: bool = False  # a space follows each delimiter
    named: bool = False  # the first line names the delimiter

    @property
    def encoding_name(self) -> str:
        return _NAMES.get(self.encoding, "UTF-16")

    @property
    def notice(self) -> str:
        """What a reader says about the encoding; empty for UTF-8."""
        return (
            ""
            if self.encoding == _UTF8
            else f"read as {self.encoding_name}, since it is not UTF-8; if letters are wrong, write it as UTF-8"
        )


def encoding_of(sample: bytes) -> str:
    """The encoding of the beginning of a text, as Python names it; the sample may end within a character."""
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return encoding
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample)
    undecoded = len(_UNDECODED.findall(text))
    if zeros := sample.count(0):
        high = sample[1::2].count(0)
        if undecoded or 10 * zeros > len(sample):
            return "utf-16-le" if 2 * high > zeros else "utf-16-be"
    if undecoded == 0 or undecoded < sum(not letter.isascii() for letter in text) - undecoded:
        return _UTF8
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def decoded(data: bytes) -> tuple[str, str]:
    """A short text and the name of its encoding; ValueError where it is no text."""
    encoding = encoding_of(data)
    return data.decode(encoding), Delimited(encoding, ",", ()).encoding_name


def recognise(tree: SourceFiles, file: str) -> Delimited:
    """The encoding, delimiter, header and first rows of a text table; Unreadable if it is damaged or no text."""
    with tree.stream(file) as stream:
        sample = stream.read(SAMPLE)
        whole = len(sample) < SAMPLE
        encoding, read = encoding_of(sample), len(sample)
        if sample.isascii() and encoding == _UTF8:  # the first other letter decides
            while read < SHARD_BYTES and (block := stream.read(BLOCK)):
                read += len(block)
                if not block.isascii():
                    encoding = encoding_of(block)
                    break
    try:
        text = codecs.getincrementaldecoder(encoding)(_errors(encoding)).decode(sample, final=whole)
    except UnicodeDecodeError:
        text = "\0"
    if _CONTROL.search(text):
        raise Unreadable(f"{tree.source(file)} is no text table: it has control characters or is cut off; leave it out")
    named = _SEPARATOR.fullmatch(text.partition("\n")[0].rstrip("\r"))
    if named:
        text = text.partition("\n")[2]
    found: list[tuple[float, int, Delimited]] = []
    for delimiter in named[1] if named else DELIMITERS:
        quoted = not (delimiter == "\t" and is_ending(file, ".tsv", ".tsv.gz"))
        header, *rows = _parsed(text, delimiter, quoted, whole)
        spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
        fitting = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        form = Delimited(encoding, delimiter, tuple(name.strip() for name in header), (), quoted, spaced, bool(named))
        found.append((fitting if len(header) > 1 else -1, len(header), form))
    form = max(found, key=lambda entry: entry[:2])[2]
    _, *rows = _parsed(text, form.delimiter, form.quoted, whole, form.spaced)
    return replace(form, rows=tuple(map(tuple, rows)))


def _errors(encoding: str) -> str:
    """How undecodable bytes are kept as surrogates, so that only their line is rejected."""
    return "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"


def _parsed(text: str, delimiter: str, quoted: bool, whole: bool, spaced: bool = False) -> list[list[str]]:
    """The header and the non-empty rows of a sample, without a last row that may be cut off; an empty header for an empty text."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced, **_quoting(quoted))
    rows: list[list[str]] = []
    try:
        rows += lines
    except csv.Error:
        whole = True
    if len(rows) > 1 and not whole:
        rows.pop()
    return [rows[0] if rows else [], *filter(None, rows[1:])]


def _quoting(quoted: bool) -> dict[str, Any]:
    return {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}


def records(tree: SourceFiles, file: str, form: Delimited) -> Iterator[tuple[int, dict[str, str] | RowError]]:
    """The rows of a table after its header as dicts by column, with the line that each begins at; RowError for a row that is damaged."""
    source, number = tree.source(file), 0
    try:
        with _lines(tree, file, form) as lines:
            for _ in range(1 + form.named):
                next(lines, None)
            number = lines.line_num
            for cells in lines:
                first, number = number + 1, lines.line_num
                if any(map(_UNDECODED.search, cells)):
                    yield first, RowError("bad row", f"the line is not {form.encoding_name}")
                elif len(cells) == len(form.header):
                    yield first, dict(zip(form.header, cells, strict=True))
                elif cells:
                    yield first, RowError("bad row", f"{len(cells)} cells for {len(form.header)} columns")
    except (csv.Error, UnicodeError) as error:
        words = f"cannot be read after line {number} ({error}); repair it, or write it as JSON lines"
        raise Unreadable(f"{source} {words}", number + 1) from error


@contextmanager
def _lines(tree: SourceFiles, file: str, form: Delimited) -> Iterator[Any]:
    """A csv.reader over a table."""
    with tree.stream(file) as stream, io.TextIOWrapper(stream, form.encoding, _errors(form.encoding), newline="") as text:
        yield csv.reader(text, delimiter=form.delimiter, skipinitialspace=form.spaced, **_quoting(form.quoted))
