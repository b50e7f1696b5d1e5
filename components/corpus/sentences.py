"""Splits texts into sentences, in scripts with and without spaces, and measures texts with wide characters counted as two."""

import re
import unicodedata

_CLOSING = "\"'\u2019\u201d\u00bb)\\]\u300d\u300f\uff09\u3011"
# A sentence ends at a full stop of a script without spaces, or of Hindi, Urdu or Arabic; at a Latin full stop followed by white space and
# no lower-case letter; and at an empty line.
_END = re.compile(
    f"[\u3002\uff01\uff1f\uff61]+[{_CLOSING}]*"
    f"|[\u0964\u0965\u06d4\u061f\u1362\u104b]+[{_CLOSING}]*(?=\\s|$)"
    f"|[.!?\u2026]+[{_CLOSING}]*(?=\\s+[^\\s])"
    "|(?=\\n\\s*\\n)"
)
_ABBREVIATED = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|mr|mrs|ms|dr|st|prof|sr|jr|vs|no|nos|fig|ca|cf|al|inc|ltd|co|bzw|z\.\s?b|env|av|sra?)\.$",
    re.I,
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; the full stop of an abbreviation, an initial or a number is no end."""
    found, start = [], 0
    for end in _END.finditer(text):
        if end.start() < start or _is_within_sentence(text, start, end):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    found.append(text[start:])
    return [sentence for part in found if (sentence := " ".join(part.split()))]


def _is_within_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether a Latin full stop is within a sentence."""
    if not end[0] or end[0][0] not in ".!?\u2026":
        return False
    following = text[end.end() :].lstrip()[:1]
    return following.islower() or (end[0] == "." and _ABBREVIATED.search(text[start : end.end()]) is not None)


def opening(text: str, count: int) -> str:
    """The first sentences of a text."""
    return join_sentences(sentences(text)[:count])


def join_sentences(parts: list[str]) -> str:
    """Concatenates texts with a space between them, except between two wide characters."""
    whole = ""
    for part in filter(None, parts):
        tight = not whole or (is_wide(whole[-1]) and is_wide(part[0]))
        whole += part if tight else f" {part}"
    return whole


def capped(text: str, most: int) -> str:
    """The text, truncated to whole sentences of at most `most` characters together; a longer first sentence is cut between words."""
    if len(text) <= most:
        return text
    result = ""
    for sentence in sentences(text):
        longer = join_sentences([result, sentence])
        if len(longer) > most:
            break
        result = longer
    if result:
        return result
    cut = text[: most + 1].rsplit(None, 1)[0] if any(sign.isspace() for sign in text[: most + 1]) else text
    return cut[:most].rstrip()


def is_wide(sign: str) -> bool:
    """Whether a character is two columns wide (East Asian width W or F), as Chinese, Japanese and Korean ones are."""
    return unicodedata.east_asian_width(sign) in ("W", "F")


def display_width(text: str) -> int:
    """The length of a text in columns: a wide character carries about as much as two narrow ones."""
    return sum(2 if is_wide(sign) else 1 for sign in text)


def word_count(text: str) -> int:
    """The count of words: runs between spaces, and two wide characters as one word."""
    wide = sum(map(is_wide, text))
    narrow = "".join(" " if is_wide(sign) else sign for sign in text)
    return len(re.findall(r"\S*\w\S*", narrow)) + (wide + 1) // 2
