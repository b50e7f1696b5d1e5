"""Rules for texts that hold in any language; `violation` names the first rule that a text violates."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

_FILE_NAME = re.compile(
    r"[^\s/\\]{1,100}(?: [^\s/\\]{1,40}){0,3}\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|cr2|nef|mp4|mov|avi|webm|mkv)"
    r"|(?:img|dsc[nf]?|pict|gopr|mvi|vid)[_-]?\d{4,}[\d_-]*|p\d{7,}|(?:screenshot|scan|photo|image|untitled)[_-]\d{3,}[\d_-]*",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class TextRules:
    """Thresholds of the rules that captions, passages and questions are rejected by, in any language."""

    max_characters: int = option(50_000, "a longer text is rejected")
    judged_from: int = option(24, "a text with fewer characters, without spaces, is exempt from the rules on shares and repetitions")
    min_letters: float = option(
        0.25, "least share of letters among the characters of a text; below it, the text is mostly symbols or digits"
    )
    max_urls: float = option(0.6, "largest share of URLs among the characters of a text")
    max_replaced: float = option(0.02, "largest share of replacement characters (U+FFFD) in a text, which a wrong decoding leaves")
    max_run: int = option(24, "most times in a row that a letter or digit may repeat itself")
    max_repeated_lines: float = option(0.5, "largest share of lines that repeat an earlier one, of a text with 4 lines or more")
    max_repeated_phrases: float = option(
        0.6, "largest share of runs of 3 tokens that repeat an earlier one, of a text with 20 tokens or more"
    )
    mojibake: bool = option(False, "keep texts that were decoded with the wrong encoding, such as 'cafÃ© â€“ crÃ¨me'")
    file_names: bool = option(False, "keep texts that are the name of a file, such as IMG_1234.jpg")

    def __post_init__(self) -> None:
        for name in ("min_letters", "max_urls", "max_replaced", "max_repeated_lines", "max_repeated_phrases"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"text.{name} is {getattr(self, name)}; it is a share, give a number from 0 to 1")
        for name in ("max_characters", "judged_from", "max_run"):
            if getattr(self, name) < 1:
                raise Refused(f"text.{name} is {getattr(self, name)}; give 1 or more")

    def violation(self, raw: str, text: str, tokens: list[str]) -> str | None:
        """The first rule that a text violates, or None; given as it was read, cleaned, and as tokens."""
        if not text:
            return "empty text"
        if len(text) > self.max_characters:
            return "text too long"
        if _REPLACEMENT in text and text.count(_REPLACEMENT) > self.max_replaced * len(text):
            return "replacement characters"
        if not self.mojibake and not text.isascii() and _twice_encoded(raw):
            return "mojibake"
        if not self.file_names and _FILE_NAME.fullmatch(text):
            return "file name"
        if len(text) < self.judged_from:
            return None
        return self._violation_by_share(text, tokens)

    def _violation_by_share(self, text: str, tokens: list[str]) -> str | None:
        seen = "".join(text.split())
        if len(seen) < self.judged_from:
            return None
        if ("www." in text or "://" in text) and sum(map(len, _URL.findall(text))) > self.max_urls * len(seen):
            return "mostly URLs"
        if _run_beyond(self.max_run).search(seen):
            return "repeated character"
        letters = sum(map(str.isalpha, seen)) if seen.isascii() else sum(unicodedata.category(letter)[0] in "LM" for letter in seen)
        if letters < self.min_letters * len(seen):
            return "mostly symbols or digits"
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if len(lines) >= 4 and len(lines) - len(set(lines)) > self.max_repeated_lines * len(lines):
            return "repeated lines"
        if len(tokens) >= 20:
            runs = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
            if 1 - len(runs) / runs.total() > self.max_repeated_phrases:
                return "repeated phrases"
        return None


@cache
def _run_beyond(most: int) -> re.Pattern[str]:
    """A pattern for a letter or digit that repeats itself more than `most` times."""
    return re.compile(rf"([^\W_])\1{{{most},}}")


TEXT_REASONS = (
    "empty text",
    "text too long",
    "replacement characters",
    "mojibake",
    "file name",
    "mostly URLs",
    "repeated character",
    "mostly symbols or digits",
    "repeated lines",
    "repeated phrases",
)
"""The rules in the order in which they are checked."""
_WINDOWS = {ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)): byte for byte in range(256)}
_FOREIGN_RUN = re.compile("[" + re.escape("".join(chr(code) for code, byte in _WINDOWS.items() if byte > 127)) + "\x80-\x9f]{2,}")


def _twice_encoded(text: str) -> bool:
    """Whether UTF-8 was decoded as Windows-1252 or Latin-1: true if every run of non-ASCII letters is valid UTF-8 in these encodings.

    A single pair of letters may be a real text, so there must be more than one.
    """
    foreign = sum(not letter.isascii() for letter in text)
    length = runs = 0
    for run in _FOREIGN_RUN.findall(text):
        try:
            bytes(_WINDOWS.get(ord(letter), ord(letter)) for letter in run).decode()
        except UnicodeDecodeError:
            return False
        length, runs = length + len(run), runs + 1
    return 0 < length == foreign and (runs > 1 or length > 2)
