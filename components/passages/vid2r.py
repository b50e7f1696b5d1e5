"""The rules of ViD2R, after MIRe: which answers of a visual dialogue can become passages, and what passage each becomes.

The rules stand in the paper's order. Their wordings are English, as its sources are; what is written in another language passes them
untouched, but for the shortest answers. Words and characters are counted so that Chinese, Japanese and Korean are not held to be short.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mirepoix.components.corpus.sentences import display_width, is_wide, join_sentences, opening, word_count
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import refuse_credentials

BM25 = "bm25"
HEURISTIC = "heuristic"
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


@dataclass(frozen=True)
class Vid2rConfig:
    """How concise answers become passages."""

    retriever: str = option(BM25, "what searches texts: bm25, or the folder or URI of a release, whose encoder it takes")
    fingerprint: str | None = option(None, "of the release, filled in when the run starts")
    found_within: int = option(3, "a sample is dropped if its question finds its own answer among the first so many; 0: none is")
    neighbours: int = option(3, "passages of the knowledge base that are put around an answer")
    sentences: int = option(2, "sentences that are taken of each of them")
    form: Literal["second", "titled"] = option("second", "second: D1 answer D2 D3; titled: title: answer text: D1 D2 D3")
    few_words: int = option(4, "an answer of so many words or fewer gets the nouns of its question in brackets")
    min_characters: int = option(30, "a shorter answer is dropped; a wide character counts as two")
    nouns: str = option(HEURISTIC, "how nouns are found: heuristic, or an installed spaCy model such as en_core_web_sm")
    lower_case: bool = option(True, "lower-case the answer, as the paper does; false: names keep their capitals")
    excluded: tuple[str, ...] = option(("VG_100K",), "samples with one of these in their source or id are dropped")
    negatives: bool = option(False, "other answers about the same picture are judged irrelevant")

    def __post_init__(self) -> None:
        refuse_credentials(self.retriever)
        refuse_unknown(self, "vid2r.")
        if min(self.found_within, self.few_words, self.min_characters) < 0:
            raise Refused("vid2r.found_within, few_words and min_characters must each be at least 0")
        if min(self.neighbours, self.sentences) < 1:
            raise Refused("vid2r.neighbours and sentences must each be at least 1")


class Answer(NamedTuple):
    """An answer that the rules let pass, and without the brackets that they gave it."""

    text: str
    bare: str


class Dropped(NamedTuple):
    """Why a sample is no passage."""

    reason: str  # one of REASONS
    detail: str = ""


_UNANSWERABLE = re.compile(
    r"\bunanswerable\b|\bnot answerable\b|\breading\b.*\bnot? (?:required|needed|necessary)\b|\bnot? (?:require|need)\w* (?:any )?reading\b"
)
# White space follows what ends a lead-in, or it is part of a word (no-one, sure-footed, No.1); long dashes stand without.
_PAUSE = r"\s*(?:[,.;:!\u2013\u2014-]+(?!\S)|[\u2013\u2014]+)\s*"
_LEADS = (
    re.compile(rf"^(?:yes|no|answerable){_PAUSE}", re.I),
    re.compile(rf"^(?:certainly|sure)(?:{_PAUSE}|\s+|$)", re.I),
    re.compile(r"^in (?:the|this) (?:image|scene|photo|picture)\b(?!-)[\s,:]*", re.I),
    re.compile(r"^the image (?:showcases|features|captures|depicts|shows|presents|displays)\b\s*", re.I),
)
_QUESTIONS = {
    "region caption": re.compile(
        r"\bbounding box\b|\b(?:descri\w+|caption\w*)\b[^.?]*\bregion\b|\bregion\b[^.?]*\b(?:descri\w+|caption\w*)\b", re.I
    ),
    "how many": re.compile(r"\bhow[\s-]+many\b", re.I),
    "what colour": re.compile(r"\bwhat\s+colou?rs?\b", re.I),
}


def text_key(text: str) -> str:
    """What an answer is called when all are searched: equal answers are one."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def ruled(
    question: str, answer: str, pictured: bool, origin: str, config: Vid2rConfig, nouns: Callable[[str], list[str]]
) -> Answer | Dropped:
    """What the rules make of an answer; `origin` is where it stood."""
    if not pictured:
        return Dropped("no picture")
    if folder := next((name for name in config.excluded if name in origin), None):
        return Dropped("excluded folder", folder)
    said = " ".join((answer.lower() if config.lower_case else answer).split())
    if _UNANSWERABLE.search(said.lower()):
        return Dropped("unanswerable", said[:200])
    if re.fullmatch(r"[\d\s.,]*\d[\d\s.,]*", said):
        return Dropped("only digits", said)
    for lead in _LEADS:
        said = lead.sub("", said, count=1)
    bare = said
    if said and word_count(said) <= config.few_words and (found := nouns(question)):
        said = f"{said.rstrip('.!?;, ')} ({', '.join(found)})"
    if not bare or display_width(said) < config.min_characters:
        return Dropped("too short", said)
    for reason, pattern in _QUESTIONS.items():
        if pattern.search(question):
            return Dropped(reason, question[:200])
    said, bare = (_capitalised(_without_clause(form, question)) for form in (said, bare))
    return Answer(said, bare) if bare else Dropped("too short", answer[:200])


def _without_clause(answer: str, question: str) -> str:
    """The answer without what it says again of the question: its first clause up to a comma."""
    clause, comma, _ = question.partition(",")
    clause = " ".join(clause.split())
    if not comma or not clause:
        return answer
    return re.sub(rf"(?<!\w){re.escape(clause)}(?!\w)[\s,]*", "", answer, count=1, flags=re.I).strip()


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def passage(answer: Answer, neighbours: Sequence[str], config: Vid2rConfig) -> str:
    """The answer as a passage between the openings of what the knowledge base says like it, itself in the second place."""
    told = [opening(text, config.sentences) for text in neighbours]
    if config.form == "titled":
        return join_sentences([f"title: {answer.bare} text:", *told])
    return join_sentences([*told[:1], _ended(answer.text), *told[1:]])


def _ended(text: str) -> str:
    """The text with a full stop, so that what follows is a sentence of its own."""
    if text[-1:] in ".!?\u3002\uff01\uff1f\u2026\u0964\u06d4\u061f":
        return text
    return text + ("\u3002" if is_wide(text[-1]) else ".")


# Words that are no nouns, or say nothing of what is asked; the questions of visual dialogues are made of few others.
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
    """The words of a question that may be nouns: all but function words, as there is no tagger; none where words are not set apart."""
    found = re.findall(r"[^\W\d_](?:[\w'\u2019-]*\w)?", question)
    kept = [word for word in found if word.lower() not in _FUNCTION_WORDS and len(word) > 1 and not any(map(is_wide, word))]
    return list(dict.fromkeys(kept))[:_MOST_NOUNS]


def noun_finder(name: str) -> Callable[[str], list[str]]:
    """What finds the nouns of a question."""
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
