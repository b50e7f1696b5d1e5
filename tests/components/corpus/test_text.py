"""Texts are made plain, judged by rules that know no language, and cut into the same tokens whatever their case and punctuation."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mirepoix.components.corpus.text import CONTROL, clean, numbers, split_words
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.models.backbones.twins import make_twin
from tests.components.fixtures import SIZES

LONG = "Der Ruderer zieht das Boot am frühen Morgen über den stillen See, ehe die Stadt erwacht."


def violation(text, **rules):
    plain = clean(text)
    return TextRules(**rules).violation(text, plain, split_words(plain))


# Made plain


def test_unicode_is_composed_and_what_cannot_be_seen_is_dropped():
    assert clean("cafe\u0301") == "caf\u00e9"
    assert clean("a\x00b\x1bc\u200bd\ufeffe\u202ef") == "abcdef"
    assert clean("one\ttwo\r\nthree\rfour\x0bfive") == "one\ttwo\nthree\nfour\nfive"
    assert clean("  padded \n") == "padded"


def test_letters_that_only_join_others_stay():
    assert clean("می\u200cخواهم") == "می\u200cخواهم"
    assert clean("👩\u200d🚀") == "👩\u200d🚀"
    assert clean("क्\u200dष") == "क्\u200dष" and clean("❤\ufe0f") == "❤\ufe0f" and clean("ㄱ\u3164ㄴ") == "ㄱ\u3164ㄴ"
    assert [violation(text) for text in ("می\u200cخواهم", "क्\u200dष", "❤\ufe0f", "👩\u200d🚀", "\u0600")] == [None] * 5


@pytest.mark.parametrize(
    "text", ["\u3164\u3164", "\u2800\u2800", "\u034f", "\ufe0f", "\u200c\u200d", "\u115f\u1160", "\uffa0", " \u3164\n\u200d ", "\U000e0100"]
)
def test_a_text_of_which_nothing_is_seen_is_an_empty_one(text):
    assert clean(text) == "" and violation(text) == "empty text"


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|image_1|>", "<|eot_id|>",
        "<｜begin▁of▁sentence｜>", "<image>", "<video>", "<audio>", "</img>", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<bos>", "<eos>",
        "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "<extra_id_0>", "<unused7>", "<IMG_CONTEXT>",
        "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG_BREAK]", "[IMG_END]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[BEGIN_AUDIO]", "[sMASK]",
        "<sop>", "<eop>", "<loc0001>", "<seg012>", "<fake_token_around_image>", "<global-img>", "<row_1_col_2>", "<end_of_utterance>",
        "<think>", "</tool_call>", "<fim_prefix>", "<0x0A>", "[INST]", "[/INST]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[gMASK]",
    ],
)  # fmt: skip
def test_control_tokens_are_broken_and_remain_legible(token):
    plain = clean(f"a dog{token} runs")
    assert token not in plain and token.lower() not in plain.lower()
    assert plain.replace(" ", "") == f"adog{token}runs"


def test_a_token_within_a_token_or_made_by_dropping_a_letter_is_no_way_around():
    for text in ("<<s>>", "<|<s>|>", "<|im\x00_start|>", "<<SYS>>", "<|im_\u200bend|>", "[<|a|>INST]", "<\u00ad/s>"):
        assert not CONTROL.search(clean(text))


def test_text_that_only_resembles_a_token_is_kept():
    for text in ("Vec<T>", "[image 3]", "[a system]"):
        assert clean(text) == text
    for text in ("a < b and c > d", "[1] as shown in [2]", "x <- y -> z", "<3 you", "the <b>bold</b> one", "<p>text</p>"):
        assert clean(text) == text


PIECES = [*"<>[]|/s_aA \n\t\x00\u0301\u200b\u0338é｜", "im_start", "INST", "image", "pad", "SYS"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_cleaning_twice_is_cleaning_once(text):
    plain = clean(text)
    assert clean(plain) == plain
    assert not CONTROL.search(plain)


def test_no_tokenizer_of_a_backbone_reads_a_special_token_in_a_cleaned_text(tmp_path):
    make_twin(tmp_path, "qwen2_vl", ["a text to learn from"], SIZES, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    special = set(tokenizer.get_added_vocab())
    assert len(special) > 3
    for one, other in itertools.product(sorted(special), repeat=2):
        read = tokenizer.tokenize(clean(f"see {one}{other} here"))
        assert not special & set(read)


# Tokens


def test_case_punctuation_and_spaces_make_no_difference():
    assert split_words("The  CAT, (sat)!") == split_words("the cat sat") == ["the", "cat", "sat"]
    assert split_words("STRASSE") == split_words("straße")


def test_symbols_do_make_one():
    assert split_words("C++") != split_words("C") != split_words("C#")
    assert split_words("5 %") != split_words("5")


def test_scripts_without_spaces_are_cut_into_characters():
    assert split_words("红色汽车") == ["红", "色", "汽", "车"]
    assert split_words("red 汽车 2台") == ["red", "汽", "车", "2", "台"]
    assert len(split_words("รถสีแดง")) == 7


def numbered(text):
    return numbers(text, split_words(text))


def test_numbers_are_the_tokens_with_a_digit():
    assert numbered("weighs 5 kg, model X200; 2台") == ["5", "x200", "2"]
    assert numbered("weighs 5 kg") != numbered("weighs 7 kg")


@pytest.mark.parametrize(
    ("one", "other"),
    [("-5 degrees", "5 degrees"), ("it is (-5)", "it is (5)"), ("3.4", "3/4"), ("3-4", "3:4"), ("1,5", "15"), ("3.4", "3 4")],
)
def test_signs_and_characters_between_digits_count(one, other):
    assert numbered(one) != numbered(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("It is 5.", "it is 5"), ("5, or 7", "5 or 7"), ("2019\u20132020", "2019-2020"), ("covid-19", "covid 19"), ("a - 5", "a 5")],
)
def test_other_punctuation_beside_a_number_does_not(one, other):
    assert numbered(one) == numbered(other)


# Rules
