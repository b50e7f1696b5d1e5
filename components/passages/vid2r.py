"""The rules of ViD2R, after MIRe: which answers of a visual dialogue become passages, and the passage made of each.

The rules are in the paper's order. Their patterns are English, as its sources are; texts in other languages pass them unchanged, except for
very short answers. Words and characters are counted so that Chinese, Japanese and Korean texts do not count as short.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mirepoix.components.corpus.sentences import display_width, is_wide, join_sentences, opening, word_count
from mirepoix.components.passages.vid2r_config import HEURISTIC, Vid2rConfig
from mirepoix.models.errors import Refused

REASONS = {
    "no picture": "the dialogue is about no picture",
    "excluded folder": "the picture comes from a folder that is left out",
    "unanswerable": "the answer says that there is none, or that nothing has to be read",
    "only digits": "the answer is a number",
    "too short": "too little is left of the answer, even with the nouns of the question",
    "region caption": "the question asks for the caption of a region, or for the region of a caption",
    "how many": "the question asks for a number",
    "what colour": "the question asks for a colour",
    "found by text": "a search with the question alone finds the answer: the picture is not needed",
}


class Answer(NamedTuple):
    """An answer that passes the rules, with and without the nouns that they append in brackets."""

    text: str
    bare: str


class Dropped(NamedTuple):
    """The reason why no passage is made of a sample."""

    reason: str  # one of REASONS
    detail: str = ""


_UNANSWERABLE = re.compile(
    r"\bunanswerable\b|\bnot answerable\b|\breading\b.*\bnot? (?:required|needed|necessary)\b|\bnot? (?:require|need)\w* (?:any )?reading\b"
)
# Punctuation after a lead-in must be followed by white space, or it is part of a word (no-one, sure-footed, No.1), except for long dashes.
_PAUSE = r"\s*(?:[,.;:!\u2013\u2014-]+(?!\S)|[\u2013\u2014]+)\s*"
_LEADS = (
    re.compile(rf"^(?:yes|no|answerable){_PAUSE}", re.I),
    re.compile(rf"^(?:certainly|sure)(?:{_PAUSE}|\s+|$)", re.I),
    re.compile(r"^in (?:the|this) (?:image|scene|photo|picture)\b(?!-)[\s,:]*", re.I),
    re.compile(r"^the image (?:showcases|features|captures|depicts|shows|presents|displays)\b\s*", re.I),
)
# The same phrases inside an answer, as the published code takes them out; it has no word boundaries ("piano. It" becomes "pia it" there).
_PHRASES = (
    re.compile(r"\b(?:yes|no|answerable)[,.!](?!\S)|\b(?:certainly|sure)[!.](?!\S)", re.I),
    re.compile(r"\bin (?:the|this) (?:image|scene|photo|picture)\b(?!-),?", re.I),
    re.compile(r"\bthe image (?:showcases|features|captures|depicts|shows|presents|displays)\b", re.I),
)
_QUESTIONS = {
    "region caption": re.compile(
        r"\bbounding box\b|\b(?:descri\w+|caption\w*)\b[^.?]*\bregion\b|\bregion\b[^.?]*\b(?:descri\w+|caption\w*)\b", re.I
    ),
    "how many": re.compile(r"\bhow[\s-]+many\b", re.I),
    "what colour": re.compile(r"\bwhat\s+(?:(?:is|are)\s+the\s+)?colou?rs?\b", re.I),
}


def text_key(text: str) -> str:
    """The id of an answer in the index of answers; equal answers have one id."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def apply_rules(
    question: str, answer: str, pictured: bool, origin: str, config: Vid2rConfig, nouns: Callable[[str], list[str]]
) -> Answer | Dropped:
    """The answer after the rules, or why it is dropped; `origin` is its source and id."""
    if not pictured:
        return Dropped("no picture")
    if folder := next((name for name in config.excluded if name in origin), None):
        return Dropped("excluded folder", folder)
    text = " ".join((answer.lower() if config.lower_case else answer).split())
    if _UNANSWERABLE.search(text.lower()):
        return Dropped("unanswerable", text[:200])
    if re.fullmatch(r"[\d\s.,]*\d[\d\s.,]*", text):
        return Dropped("only digits", text)
    for lead in _LEADS:
        text = lead.sub("", text, count=1)
    if config.phrases == "anywhere":
        for phrase in _PHRASES:
            text = phrase.sub("", text)
        text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    bare = text
    if text and word_count(text) <= config.few_words and (found := nouns(question)):
        text = f"{text.rstrip('.!?;, ')} ({', '.join(found)})"
    if not bare or display_width(text) < config.min_characters:
        return Dropped("too short", text)
    for reason, pattern in _QUESTIONS.items():
        if pattern.search(question):
            return Dropped(reason, question[:200])
    text, bare = (_capitalised(_without_clause(form, question)) for form in (text, bare))
    return Answer(text, bare) if bare else Dropped("too short", answer[:200])


def _without_clause(answer: str, question: str) -> str:
    """The answer without a repetition of the question's first clause, up to a comma."""
    clause, comma, _ = question.partition(",")
    clause = " ".join(clause.split())
    if not comma or not clause:
        return answer
    return re.sub(rf"(?<!\w){re.escape(clause)}(?!\w)[\s,]*", "", answer, count=1, flags=re.I).strip()


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def passage(answer: Answer, neighbours: Sequence[str], config: Vid2rConfig) -> str:
    """The passage of an answer: its neighbours' first sentences, with the answer in second place or as a title."""
    openings = [opening(text, config.sentences) for text in neighbours]
    if config.form == "titled":
        return join_sentences([f"Title: {answer.bare} content:", *openings])
    return join_sentences([*openings[:1], _ended(answer.text), *openings[1:]])


def _ended(text: str) -> str:
    """The text with a full stop if it has no final punctuation, so that it is a sentence of its own."""
    if text[-1:] in ".!?\u3002\uff01\uff1f\u2026\u0964\u06d4\u061f":
        return text
    return text + ("\u3002" if is_wide(text[-1]) else ".")


# Words that are not nouns, or not specific to a question; in questions of visual dialogues, most other words are nouns.
_FUNCTION = (
    "a an the this that these those it its he she they them his her their we you your i me my our us there here "
    "is are was were be been being am do does did done has have had having can could may might must shall should will would "
    "what which who whom whose when where why how many much "
    "of in on at by for with from to into onto over under near next between behind above below about around along across through during "
    "and or but if not no nor as than then so also too very more most some any each every all both other such only just "
    "show shows shown showing see seen seeing look looks looking visible appear appears describe describes tell name explain give provide "
    "identify list mention based according using use used called known likely possible happening doing going wearing holding "
    "image picture photo photograph scene please answer question short brief detail details"
)
_FUNCTION_WORDS = frozenset(_FUNCTION.split())
_MOST_NOUNS = 6


def content_words(question: str) -> list[str]:
    """The likely nouns of a question without a tagger: all words but function words; none in scripts written without spaces."""
    words = re.findall(r"[^\W\d_](?:[\w'\u2019-]*\w)?", question)
    likely = [word for word in words if word.lower() not in _FUNCTION_WORDS and len(word) > 1 and not any(map(is_wide, word))]
    return list(dict.fromkeys(likely))[:_MOST_NOUNS]


def noun_finder(name: str) -> Callable[[str], list[str]]:
    """The function that finds the nouns of a question."""
    if name == HEURISTIC:
        return content_words
    try:
        import spacy
    except ImportError as error:
        raise Refused(f"vid2r.nouns is {name!r} and spaCy is not installed; install it with that model, or give {HEURISTIC}") from error
    try:
        tagger = spacy.load(name, exclude=["ner", "lemmatizer"])
    except OSError as error:
        raise Refused(f"vid2r.nouns is {name!r}, and spaCy has no such model here; install it, or give {HEURISTIC}") from error
    return lambda question: list(dict.fromkeys(token.text for token in tagger(question) if token.pos_ in ("NOUN", "PROPN")))
