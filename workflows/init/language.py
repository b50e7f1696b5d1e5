"""The language of texts, as far as it decides which model reads them: English, Chinese, or another."""

import re
from collections import Counter
from collections.abc import Iterable

SCRIPTS = {
    "Japanese": re.compile(r"[\u3040-\u30ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Chinese": re.compile(r"[\u4e00-\u9fff]"),
    "Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]"),
    "Devanagari": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
}
FUNCTION_WORDS = {
    "English": "the of and with on is are to it from at by an two this that",
    "German": "der die das und mit auf ein eine einer einem einen im ist von vor zwei den dem am",
    "French": "le la les des du et avec sur un une dans est au aux deux devant",
    "Spanish": "el los las del y con sobre un una en es por dos al",
    "Italian": "il lo gli della di e con su un una nel due sul alla",
    "Portuguese": "o os as da do e com sobre um uma em no na dois",
    "Dutch": "de het een en met op van in is twee voor",
    "Polish": "i w z na się jest dwa do przed",
    "Swedish": "och med på en ett är av två som",
}
"""Words that nearly every text of the language has; those of several languages decide nothing."""
WORDS = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
LEAST = 3
"""Function words of another language than English by which a text is taken for it."""


def language_of(texts: Iterable[str]) -> str:
    """The language, or the script, of most texts; English where nothing says otherwise."""
    text = " ".join(texts)[:50_000]
    letters = {script: len(pattern.findall(text)) for script, pattern in SCRIPTS.items()}
    if letters["Japanese"]:  # is written with Chinese characters too
        letters["Japanese"] += letters.pop("Chinese")
    script = max(letters, key=lambda name: letters[name])
    if letters[script] > len(re.findall(r"[A-Za-zÀ-ɏ]", text)):
        return script
    seen = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    known = {language: sum(seen[word] for word in words) for language, words in WORDS.items()}
    best = max(known, key=lambda language: known[language])  # English is the first of equals
    return best if known[best] >= LEAST else "English"
