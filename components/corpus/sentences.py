"""Where sentences end, in scripts with spaces and without, and how long a text is when a wide character counts as two."""

import re
import unicodedata

_CLOSING = "\"'\u2019\u201d\u00bb)\\]\u300d\u300f\uff09\u3011"
# A full stop of a script without spaces, or of Hindi, Urdu and Arabic, ends a sentence by itself; a Latin one when a space and no small
# letter follow; an empty line does in any script.
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
    """The sentences of a text, in order; an abbreviation, an initial or a number with a point ends none."""
    found, start = [], 0
    for end in _END.finditer(text):
        if end.start() < start or _goes_on(text, start, end):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    found.append(text[start:])
    return [sentence for part in found if (sentence := " ".join(part.split()))]


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether a Latin point stands within a sentence."""
    if not end[0] or end[0][0] not in ".!?\u2026":
        return False
    following = text[end.end() :].lstrip()[:1]
    return following.islower() or (end[0] == "." and _ABBREVIATED.search(text[start : end.end()]) is not None)


def opening(text: str, count: int) -> str:
    """The first sentences of a text."""
    return join_sentences(sentences(text)[:count])


def join_sentences(parts: list[str]) -> str:
    """Texts behind each other, with a space between them unless both sides are written without."""
    whole = ""
    for part in filter(None, parts):
        tight = not whole or (is_wide(whole[-1]) and is_wide(part[0]))
        whole += part if tight else f" {part}"
    return whole


def capped(text: str, most: int) -> str:
    """The text, or as many of its sentences as so many characters hold; a first sentence that is longer is cut between words."""
    if len(text) <= most:
        return text
    kept = ""
    for sentence in sentences(text):
        longer = join_sentences([kept, sentence])
        if len(longer) > most:
            break
        kept = longer
    if kept:
        return kept
    cut = text[: most + 1].rsplit(None, 1)[0] if any(sign.isspace() for sign in text[: most + 1]) else text
    return cut[:most].rstrip()


def is_wide(sign: str) -> bool:
    """Whether a character is one of those that fill two columns, as Chinese, Japanese and Korean ones do."""
    return unicodedata.east_asian_width(sign) in ("W", "F")


def display_width(text: str) -> int:
    """The length of a text in columns: a wide character says about as much as two narrow ones."""
    return sum(2 if is_wide(sign) else 1 for sign in text)


def word_count(text: str) -> int:
    """Words between spaces; two wide characters count as one word."""
    wide = sum(map(is_wide, text))
    narrow = "".join(" " if is_wide(sign) else sign for sign in text)
    return len(re.findall(r"\S*\w\S*", narrow)) + (wide + 1) // 2
