"""Texts of strangers: made plain, judged by rules that know no language, and known again when they are nearly equal.

TextRules       thresholds of the rules; `fault` names the first rule that a text breaks
clean           Unicode in composed form, no invisible characters, no control tokens of a chat template
words           a text's tokens, whatever its script; the same for texts that differ in case, spaces and punctuation only
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

_TOKENS = (
    r"s|pad|unk|bos|eos|eod|mask|cls|sep|image|images|img|video|vid|audio|point|box|ref|quad|object|patch|start|end|sys|user|human|gpt"
    r"|assistant|system|tools?|tool_\w{1,32}|think|answer|sop|eop|slice|unit|im_\w{1,16}|(?:loc|seg)\d{3,4}"
    r"|\w{1,16}_(?:start|end|pad|token|soft_token|content|of_turn|of_image)|row_\d{1,2}_col_\d{1,2}|global-img|fake_token_around_image"
    r"|(?:start|end|begin|image|video|audio|vision|fim|extra|unused|reserved|special|box|file|repo|img|bos|eos|pad|unk)_\w{1,32}"
    r"|start_of_\w{1,16}|end_of_\w{1,16}|unused\d{1,5}|0x[0-9a-f]{2}"
)
_BRACKETED = (
    r"inst|cls|sep|pad|[gs]?mask|unk|bos|eos|sop|eop|img|image|video|audio|begin_audio|transcribe|img_\w{1,16}|unused\d{1,5}"
    r"|(?:available_)?tools?|tool_\w{1,16}|system_prompt|model_settings|think|args|call_id|prefix|middle|suffix"
)
CONTROL = re.compile(
    rf"(<)([|｜][^<>]{{1,64}}?[|｜])(>)|(<)(<\s?/?sys\s?>)(>)|(<)(/?(?:{_TOKENS})\s?/?)(>)"
    rf"|(\[)(/?(?:{_BRACKETED}))(\])",
    re.IGNORECASE,
)
"""What some chat template or tokenizer takes as a token of its own; a look-alike in angle brackets is rewritten too, which hurts nobody."""
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SEEN = re.compile(
    r"[^\s\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""What is seen by itself. The others join letters, choose between their shapes or stand empty in their places, which a text may need."""
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
"""Scripts that are written without spaces between words: each character is a token."""
_FILE_NAME = re.compile(
    r"[^\s/\\]{1,100}(?: [^\s/\\]{1,40}){0,3}\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|cr2|nef|mp4|mov|avi|webm|mkv)"
    r"|(?:img|dsc[nf]?|pict|gopr|mvi|vid)[_-]?\d{4,}[\d_-]*|p\d{7,}|(?:screenshot|scan|photo|image|untitled)[_-]\d{3,}[\d_-]*",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_REPLACEMENT = "\ufffd"
_JOINT = re.compile(r"(?<=\d)[.,:/\u2010-\u2015\u2212-](?=\d)|(?<![^\s(])[\u2212-](?=\d)")
_JOINTS, _DASH = {".": "\u01c0", ",": "\u01c1", ":": "\u01c2", "/": "\u01c3"}, "\u0298"
"""Letters of few languages, so that they stay in a token."""


class _Plain(dict[int, str | int]):
    """What a character becomes before a text is cut into tokens: itself, itself alone, or a space."""

    def __missing__(self, code: int) -> str | int:
        letter = chr(code)
        kind = unicodedata.category(letter)
        if _SPACELESS.match(letter) and kind[0] in "LMN":
            made: str | int = f" {letter} "
        elif kind[0] in "LMN":
            made = code
        else:
            made = f" {letter} " if kind[0] == "S" or letter in "#%&@‰" else " "  # C is not C++, and 5 is not 5 %
        self[code] = made
        return made


_PLAIN = _Plain()


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean(text: str) -> str:
    """The text in Unicode's composed form, without what cannot be seen, and without a token that a template gives a meaning to.

    Joiners and the like stay where something is seen beside them; a text of nothing else is empty.

    A token is broken by spaces inside its brackets, so that a reader still sees what stood there: "<|im_end|>" becomes "< |im_end| >".
    """
    text = _composed(_INVISIBLE.sub("", _LINE_END.sub("\n", _composed(text)))).strip()
    if not text.isascii() and not _SEEN.search(text):
        return ""
    if "<" not in text and "[" not in text:
        return text
    while (broken := CONTROL.sub(_broken, text)) != text:
        text = broken
    return text


def _broken(found: re.Match[str]) -> str:
    opening, name, closing = filter(None, found.groups())
    return f"{opening} {name} {closing}"


def split_words(text: str) -> list[str]:
    """The tokens of a text, without case and punctuation; a script without spaces is cut into its characters."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_PLAIN).split()


def numbers(text: str, tokens: list[str]) -> list[str]:
    """The tokens with a digit in them, in their order, with signs and what stands between digits: "3.4", "3-4" and "-3 4" are not the same.

    Texts that disagree in one of these say different things.
    """
    if not any(map(str.isdigit, text)):
        return []
    if _JOINT.search(text):
        tokens = split_words(_JOINT.sub(lambda joint: _JOINTS.get(joint[0], _DASH), text))
    return [token for token in tokens if any(map(str.isdigit, token))]


@dataclass(frozen=True)
class TextRules:
    """What a caption, a passage or a question must not be; no rule knows a language."""

    max_characters: int = option(50_000, "a longer text is rejected")
    judged_from: int = option(24, "characters, without spaces, from which a text is judged by shares of them and by its repetitions")
    min_letters: float = option(
        0.25, "least share of letters among the characters of a text; below it, the text is mostly symbols or digits"
    )
    max_urls: float = option(0.6, "largest share of URLs among the characters of a text")
    max_replaced: float = option(0.02, "largest share of replacement characters in a text, which stand where its encoding was lost")
    max_run: int = option(24, "most times that a letter or digit may follow itself")
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

    def fault(self, raw: str, text: str, tokens: list[str]) -> str | None:
        """The first rule that a text breaks, given as it came, cleaned, and in tokens."""
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
        return self._fault_by_share(text, tokens)

    def _fault_by_share(self, text: str, tokens: list[str]) -> str | None:
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
    """A letter or digit that follows itself more often than so."""
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
"""The rules in the order in which they strike."""

_WINDOWS = {ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)): byte for byte in range(256)}
_FOREIGN_RUN = re.compile("[" + re.escape("".join(chr(code) for code, byte in _WINDOWS.items() if byte > 127)) + "\x80-\x9f]{2,}")


def _twice_encoded(text: str) -> bool:
    """Whether UTF-8 was read as Windows-1252 or Latin-1: all that is not ASCII must be so, and more than one pair of letters."""
    foreign = sum(not letter.isascii() for letter in text)
    length = runs = 0
    for run in _FOREIGN_RUN.findall(text):
        try:
            bytes(_WINDOWS.get(ord(letter), ord(letter)) for letter in run).decode()
        except UnicodeDecodeError:
            return False
        length, runs = length + len(run), runs + 1
    return 0 < length == foreign and (runs > 1 or length > 2)
