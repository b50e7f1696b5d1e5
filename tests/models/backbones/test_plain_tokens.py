"""Ids of words are kept and given again, up to a number of tokens."""

import copy
import pickle
from typing import Any

import pytest

from mirepoix.models.backbones import plain_tokens
from mirepoix.models.backbones.plain_tokens import PlainTokens, most_tokens


class Letters:
    """A tokenizer whose tokens are letters; it lists what it read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, text: str, **given: Any) -> dict[str, list[int]]:
        assert given == {"split_special_tokens": True, "add_special_tokens": False, "verbose": False}
        self.read.append(text)
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.setattr(plain_tokens, "KEPT", 8)
    return PlainTokens(Letters())


def test_a_text_is_read_once_while_it_is_kept_and_the_longest_unread_goes_first(tokens):
    assert tokens("abcd") == tokens("abcd") == [97, 98, 99, 100]
    tokens("efg")
    tokens("abcd")
    tokens("hi")  # more than eight tokens: "efg" goes
    tokens("abcd")
    assert tokens.tokenizer.read == ["abcd", "efg", "hi"]
    tokens("efg")
    assert tokens.tokenizer.read == ["abcd", "efg", "hi", "efg"]


def test_a_text_that_is_longer_than_all_that_is_kept_is_read_and_not_kept(tokens):
    assert len(tokens("abcdefghij")) == 10 == len(tokens("abcdefghij"))
    assert len(tokens.tokenizer.read) == 2
    tokens("ab")
    tokens("ab")
    assert len(tokens.tokenizer.read) == 3


def test_a_copy_keeps_nothing(tokens):
    tokens("ab")
    for other in (copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))):
        other("ab")
        assert other.tokenizer.read == ["ab", "ab"]


NASTY = [
    "",
    "a",
    "ﷺ" * 9,
    "ŉǰΐ" * 9,
    "각" * 9,
    "क़ख़ग़",
    "𝔸🍎👩‍👩‍👧",
    "ﬃ ﬆ",
    "İSTANBUL",
    "\x00\x7f\t\r\n",
    "  a   b  ",
    "<pad></s>[MASK]<|im_end|>",
    "雪の上",
    "e\u0301\u0327" * 5,
    "½㍿",
]


@pytest.mark.parametrize("family", ["qwen2_vl", "clip", "bert_clip", "t5_clip", "siglip", "siglip2"])
def test_no_tokenizer_makes_more_tokens_of_a_text_than_is_said(twin, family):
    from transformers import AutoTokenizer

    folder = next(iter(twin(family).values())).name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    around = len(tokenizer("")["input_ids"])
    for text in (*NASTY, *map("".join, zip(NASTY, reversed(NASTY), strict=True))):
        assert len(tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]) <= most_tokens(text), text
        assert len(tokenizer(text)["input_ids"]) <= most_tokens(text) + around, text


def test_the_bound_of_plain_ascii_is_near_its_length():
    assert most_tokens("a small red circle") == 19 and most_tokens("déjà") == 5 + 2 * 35
