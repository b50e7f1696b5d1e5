"""Sentences end where a reader says they do, in scripts with spaces and without."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.corpus.sentences import capped, display_width, join_sentences, opening, sentences, word_count


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. R. Jones in the U.S. army. It rained.", ["Dr. Smith met J. R. Jones in the U.S. army.", "It rained."]),
        ("Pi is 3.14 or so. Next e.g. this one.", ["Pi is 3.14 or so.", "Next e.g. this one."]),
        ('He said "Really?" Then he left.', ['He said "Really?"', "Then he left."]),
        ("Well... perhaps. Yes.", ["Well... perhaps.", "Yes."]),
        (
            "\u4eca\u65e5\u306f\u6674\u308c\u3002\u660e\u65e5\u306f\u96e8\uff01\u307b\u3093\u3068\uff1f",
            ["\u4eca\u65e5\u306f\u6674\u308c\u3002", "\u660e\u65e5\u306f\u96e8\uff01", "\u307b\u3093\u3068\uff1f"],
        ),
        ("\u300c\u672c\u5f53\uff1f\u300d\u306f\u3044\u3002", ["\u300c\u672c\u5f53\uff1f\u300d", "\u306f\u3044\u3002"]),
        (
            "\u092f\u0939 \u090f\u0915\u0964 \u092f\u0939 \u0926\u094b\u0964",
            ["\u092f\u0939 \u090f\u0915\u0964", "\u092f\u0939 \u0926\u094b\u0964"],
        ),
        ("A heading\n\nand its text. More.", ["A heading", "and its text.", "More."]),
        ("  spaces\tand\nlines.  Gone.  ", ["spaces and lines.", "Gone."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_a_text_is_cut_where_its_sentences_end(text, expected):
    assert sentences(text) == expected


@given(st.text(max_size=80))
def test_nothing_but_white_space_is_lost(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_an_opening_is_the_first_sentences():
    assert opening("One. Two. Three.", 2) == "One. Two."
    assert opening("\u4e00\u3002\u4e8c\u3002\u4e09\u3002", 2) == "\u4e00\u3002\u4e8c\u3002"
    assert opening("Just one", 2) == "Just one"


def test_texts_are_joined_by_a_space_where_their_script_has_one():
    assert join_sentences(["One.", "", "Two."]) == "One. Two."
    assert join_sentences(["\u4e00\u3002", "\u4e8c\u3002"]) == "\u4e00\u3002\u4e8c\u3002"
    assert join_sentences(["\u4e00\u3002", "Two."]) == "\u4e00\u3002 Two."


def test_a_long_text_keeps_the_sentences_that_fit_and_a_long_sentence_its_words():
    assert capped("One two. Three four. Five.", 20) == "One two. Three four."
    assert capped("word " * 10, 12) == "word word"
    assert capped("x" * 30, 12) == "x" * 12
    assert capped("short", 12) == "short"


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_capped_text_is_never_longer_than_asked(text, most):
    assert len(capped(text, most)) <= most


def test_a_wide_character_counts_as_two_columns_and_two_of_them_as_a_word():
    assert display_width("abc") == 3 and display_width("\u732b\u304c\u597d\u304d") == 8
    assert word_count("a small dog") == 3 and word_count("\u732b\u304c\u597d\u304d") == 2 and word_count("- . !") == 0
