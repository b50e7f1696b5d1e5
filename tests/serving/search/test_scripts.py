"""Scripts that are written without spaces between words."""

import re
import unicodedata

import pytest

from mirepoix.serving.search.scripts import HANGUL, SPACELESS, spaceless


@pytest.mark.parametrize("letter", ["漢", "ひ", "カ", "ㄅ", "ก", "ກ", "ཀ", "က", "ក"])
def test_letters_of_scripts_without_spaces_match(letter):
    assert re.fullmatch(f"[{spaceless()}]", letter)


@pytest.mark.parametrize("letter", ["a", "ж", "ع", "अ", "한", " "])
def test_letters_of_other_scripts_do_not(letter):
    assert not re.fullmatch(f"[{spaceless()}]", letter)
    assert bool(re.fullmatch(f"[{HANGUL}]", letter)) == unicodedata.name(letter).startswith("HANGUL")


def test_named_scripts_are_left_out():
    assert not re.fullmatch(f"[{spaceless('Bopomofo')}]", "ㄅ") and re.fullmatch(f"[{spaceless('Bopomofo')}]", "漢")
    with pytest.raises(AssertionError):
        spaceless("Klingon")


def test_no_character_is_in_two_scripts():
    every = "".join(map(chr, range(0x110000)))
    found = [sign for ranges in SPACELESS.values() for sign in re.findall(f"[{ranges}]", every)]
    assert len(found) == len(set(found)) > 90_000
