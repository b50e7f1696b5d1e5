"""Normalises untrusted texts and splits them into tokens, in any script.

clean           Unicode in composed form, no invisible characters, no control tokens of a chat template
split_words     tokens; the same for texts that differ only in case, spaces and punctuation
numbers         the tokens with digits
"""

import re
import unicodedata

from mirepoix.serving.search.scripts import spaceless

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
"""Control tokens of chat templates and tokenizers; look-alikes in angle brackets match too, which does no harm."""
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_VISIBLE = re.compile(
    r"[^\s\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Visible characters. The others are joiners, variation selectors and fillers, which a text may need beside visible ones."""
_SPACELESS = re.compile(f"[{spaceless('Bopomofo')}]")
"""Characters of scripts without spaces between words, of which each is a token."""
_JOINT = re.compile(r"(?<=\d)[.,:/\u2010-\u2015\u2212-](?=\d)|(?<![^\s(])[\u2212-](?=\d)")
_JOINTS, _DASH = {".": "\u01c0", ",": "\u01c1", ":": "\u01c2", "/": "\u01c3"}, "\u0298"
"""Rare letters that replace joints between digits, so that these remain in one token."""


class _Plain(dict[int, str | int]):
    """A translation table before splitting: a letter or digit is kept, a symbol is surrounded by spaces, anything else is a space."""

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
    """The text in Unicode's composed form (NFC), without invisible characters and control tokens.

    Joiners and similar characters are kept in a text with visible characters; a text of nothing else becomes empty.

    Control tokens are broken by spaces inside their brackets, so that a reader still sees them: "<|im_end|>" becomes "< |im_end| >".
    """
    text = _composed(_INVISIBLE.sub("", _LINE_END.sub("\n", _composed(text)))).strip()
    if not text.isascii() and not _VISIBLE.search(text):
        return ""
    if "<" not in text and "[" not in text:
        return text
    while (broken := CONTROL.sub(_with_spaces, text)) != text:
        text = broken
    return text


def _with_spaces(found: re.Match[str]) -> str:
    opening, name, closing = filter(None, found.groups())
    return f"{opening} {name} {closing}"


def split_words(text: str) -> list[str]:
    """The tokens of a text, case-folded and without punctuation; in scripts without spaces, each character is a token."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_PLAIN).split()


def numbers(text: str, tokens: list[str]) -> list[str]:
    """The tokens with digits, in order, with signs and the characters between digits: "3.4", "3-4" and "-3 4" differ.

    Texts that differ in a number are not near-duplicates.
    """
    if not any(map(str.isdigit, text)):
        return []
    if _JOINT.search(text):
        tokens = split_words(_JOINT.sub(lambda joint: _JOINTS.get(joint[0], _DASH), text))
    return [token for token in tokens if any(map(str.isdigit, token))]
