"""Texts that an encoder does not read whole are cut at the end as it cuts them, at the start, or refused; whoever asked is told."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.encoder import Encoder, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.truncation import cut
from tests.serving.fixtures import drawing

LIMIT = 220
WORDS = " ".join(f"word{n}" for n in range(200))
PICTURE = drawing("disc", 0.2)


@pytest.fixture(scope="module")
def encoder(encoder_folder) -> Encoder:
    """Its tokens are about bytes; prompts and all, it reads 220 of them."""
    encoder = load_encoder(encoder_folder)
    encoder.collator.config = replace(encoder.collator.config, max_length=LIMIT)
    return encoder


def tokens(encoder: Encoder, item: Item) -> int:
    (length,) = encoder.collator.lengths((), [item])
    return length


def test_what_is_cut_at_the_end_is_left_to_the_encoder_and_said(encoder):
    items = [Item("input[0]", "short"), Item("input[1]", WORDS), Item("input[2]", images=(PICTURE,))]
    found = cut(encoder.collator, items, "document", "end")
    assert found.items == items
    whole = encoder.collator.overlong(items[1], "document").tokens
    assert found.notes == ["", f"input[1] has {whole} tokens and {LIMIT} are read; its end was cut", ""] and whole > LIMIT


@pytest.mark.parametrize(
    "item", [Item("text", WORDS), Item("text", WORDS, instruction="Find it."), Item("text", WORDS, (PICTURE,), instruction="Find it.")]
)
def test_what_is_cut_at_the_start_keeps_the_longest_end_that_fits_with_instruction_and_picture(encoder, item):
    (short,), (note,) = cut(encoder.collator, [item], "query", "start")
    assert WORDS.endswith(" " + short.text) and short == replace(item, text=short.text)
    one_more = replace(item, text=WORDS[WORDS.rindex(" ", 0, -len(short.text) - 1) + 1 :])
    assert encoder.collator.overlong(short, "query") is None and encoder.collator.overlong(one_more, "query") is not None
    assert tokens(encoder, short) <= LIMIT == tokens(encoder, item) and note.endswith(f"{LIMIT} are read; its start was cut")


def test_what_may_not_be_cut_is_refused_by_name_with_its_tokens_and_the_limit(encoder):
    whole = encoder.collator.overlong(Item("x", WORDS), "document").tokens
    with pytest.raises(Refused, match=rf"^input\[1\] has {whole} tokens and {LIMIT} are read; shorten it, or .*\"truncate\": \"end\""):
        cut(encoder.collator, [Item("input[0]", "short"), Item("input[1]", WORDS)], "document", "none")


@pytest.mark.parametrize("truncate", ["end", "start", "none"])
def test_what_fits_is_left_as_it_is(encoder, truncate):
    items = [Item("a", "short"), Item("b", "words", (PICTURE,)), Item("c", images=(PICTURE,)), Item("d", "a word", instruction="Find it.")]
    assert cut(encoder.collator, items, "document", truncate) == (items, [""] * 4)


@pytest.mark.parametrize("text", ["雪の上の赤い円" * 60, "x" * 700, "안녕하세요 " * 90, "🍎🍏" * 90, "!?" * 300, "\n\n" + "a b\n" * 300])
def test_a_text_of_any_script_is_cut_at_the_start(encoder, text):
    (short,), notes = cut(encoder.collator, [Item("text", text)], "document", "start")
    assert text.endswith(short.text) and "its start was cut" in notes[0]
    assert LIMIT - 40 < tokens(encoder, short) <= LIMIT and encoder.collator.overlong(short, "document") is None


def test_where_not_even_a_word_fits_the_end_is_cut(encoder):
    item = Item("text", WORDS, instruction="Find this. " * 60)
    found = cut(encoder.collator, [item], "document", "start")
    assert found.items == [item] and found.notes[0].endswith("its end was cut")


def test_texts_that_are_surely_short_are_not_tokenized(encoder, monkeypatch):
    encoder.collator.config = replace(encoder.collator.config, max_length=2048)
    try:
        monkeypatch.setattr(encoder.collator, "plain", lambda text: pytest.fail(f"{text!r} was tokenized"))
        assert cut(encoder.collator, [Item("a", WORDS), Item("b", "snow ☃ and déjà vu", instruction="Find it.")], "query").notes == ["", ""]
    finally:
        encoder.collator.config = replace(encoder.collator.config, max_length=LIMIT)


def test_to_cut_at_the_start_little_more_is_tokenized_than_is_read(encoder, monkeypatch):
    read, plain = [], encoder.collator.plain
    monkeypatch.setattr(encoder.collator, "plain", lambda text: read.append(len(text)) or plain(text))
    cut(encoder.collator, [Item("text", WORDS * 20)], "query", "start")
    assert sum(length > 4 * LIMIT for length in read) == 1 and len(read) < 40


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=400), instruction=st.text(max_size=40))
def test_whatever_the_text_the_rest_of_it_fits(encoder, text, instruction):
    item = Item("text", text, instruction=instruction)
    for truncate in ("start", "end"):
        (short,), notes = cut(encoder.collator, [item], "document", truncate)
        assert text.endswith(short.text) and bool(notes[0]) == (encoder.collator.overlong(item, "document") is not None)
        assert encoder.collator.overlong(short, "document") is None or (notes[0].endswith("its end was cut"))
