"""Scripts that are written without spaces between words, as ranges for the brackets of a regular expression."""

SPACELESS = {
    "Thai, Lao": "\u0e00-\u0eff",
    "Tibetan": "\u0f00-\u0fff",
    "Burmese": "\u1000-\u109f",
    "Khmer": "\u1780-\u17ff",
    "Tai Le, New Tai Lue": "\u1950-\u19df",
    "Burmese, extended": "\ua9e0-\ua9ff\uaa60-\uaa7f",
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "Han marks and numerals": "\u3005-\u3007\u3021-\u3029",
    "Han radicals": "\u2e80-\u2fdf",
    "kana": "\u3040-\u30ff\u31f0-\u31ff",
    "kana repeat marks": "\u3031-\u303f",
    "kana, half width": "\uff66-\uff9f",
    "kana, historic": "\U0001b000-\U0001b16f",
    "Bopomofo": "\u3100-\u312f",
}
HANGUL = "\u1100-\u11ff\uac00-\ud7af"
"""Korean is written with spaces, but agglutinative: a word and its particles are one run of letters."""


def spaceless(*without: str) -> str:
    """The ranges of all of these scripts except the named ones."""
    assert set(without) <= set(SPACELESS), without
    return "".join(ranges for name, ranges in SPACELESS.items() if name not in without)
