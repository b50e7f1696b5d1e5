"""The settings of ViD2R, which makes passages of the concise answers of visual dialogues."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import refuse_credentials

BM25 = "bm25"
HEURISTIC = "heuristic"


@dataclass(frozen=True)
class Vid2rConfig:
    """The settings of ViD2R."""

    retriever: str = option(BM25, "search of texts: bm25, or the folder or URI of a release, whose encoder is used")
    found_within: int = option(3, "a sample is dropped if its question finds its own answer in so many results; 0: none is dropped")
    neighbours: int = option(3, "passages of the knowledge base that are put around an answer")
    sentences: int = option(2, "first sentences that are used of each of them")
    form: Literal["second", "titled"] = option("second", "second: D1 answer D2 D3; titled: Title: answer content: D1 D2 D3")
    few_words: int = option(4, "the nouns of the question are appended in brackets to an answer of at most so many words")
    min_characters: int = option(30, "a shorter answer is dropped; a wide character counts as two")
    nouns: str = option(HEURISTIC, "how nouns are found: heuristic, or an installed spaCy model such as en_core_web_sm")
    lower_case: bool = option(True, "lower-case the answer, as the paper does; false: names keep their capitals")
    phrases: Literal["leading", "anywhere"] = option(
        "leading", "'yes,', 'in the image', 'the image shows' and the like are taken out where an answer begins, or anywhere, as published"
    )
    excluded: tuple[str, ...] = option(("VG_100K",), "samples with one of these in their source or id are dropped")
    negatives: bool = option(False, "other answers about the same picture are judged irrelevant")

    def __post_init__(self) -> None:
        refuse_credentials(self.retriever)
        refuse_unknown(self, "vid2r.")
        if min(self.found_within, self.few_words, self.min_characters) < 0:
            raise Refused("vid2r.found_within, few_words and min_characters must each be at least 0")
        if min(self.neighbours, self.sentences) < 1:
            raise Refused("vid2r.neighbours and sentences must each be at least 1")
