"""Each rule for a text rejects by its name, and takes good texts of any language."""

import pytest

from mirepoix.components.corpus.text import clean, split_words
from mirepoix.components.curation.text_rules import TEXT_REASONS, TextRules
from mirepoix.components.synthetic.world import generate
from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.models.errors import Refused

LONG = "Der Ruderer zieht das Boot am frühen Morgen über den stillen See, ehe die Stadt erwacht."


def violation(text, **rules):
    plain = clean(text)
    return TextRules(**rules).violation(text, plain, split_words(plain))


@pytest.mark.parametrize(
    "text",
    [
        "a red car", "word", "x", "7", "1984", "$5", "C++", "?", "🙂", "🙂🙂🙂", "Ok!", "No.", "St. John's", "AAAA", "www.example.org",
        "红色汽车", "一辆红色的汽车停在路边。", "سيارة حمراء", "รถสีแดง", "Привет, мир", "नमस्ते दुनिया", "Ünïcödé", "«CAFÉ» À MIDI…",
        "naïve – œuvre",         "E = mc² and a² + b² = c², as everybody knows by now", "Flight LH123, 07:45–09:10, gate A23, seat 14C",
        LONG,
    ],
)  # fmt: skip
def test_short_captions_single_words_and_any_language_pass(text):
    assert violation(text) is None


def test_nothing_of_the_generated_world_is_rejected():
    world = generate(WorldConfig(entities=48, image_size=28, train_queries=20, evaluation_queries=8, near_duplicates=0.5), seed=2)
    texts = {item.text for item in [*world.corpus, *(query.item for query in world.queries)] if item.text}
    assert len(texts) > 300
    assert {violation(text) for text in texts} == {None}


BROKEN = {
    "empty text": " \x00\u200b ",
    "text too long": "word " * 10_001,
    "replacement characters": "the \ufffd\ufffd car",
    "mojibake": "cafÃ© â€“ crÃ¨me",
    "file name": "IMG_1234.jpg",
    "mostly URLs": "see https://example.org/a/very/long/path?with=query www.example.org/more",
    "repeated character": "looooooooooooooooooooooooooooong",
    "mostly symbols or digits": "### 0000-1111 *** 2222 //// 3333 === 4444",
    "repeated lines": "click here to subscribe\n" * 5 + "the end of it",
    "repeated phrases": "buy it now " * 12,
}


@pytest.mark.parametrize("reason", TEXT_REASONS)
def test_each_rule_rejects_by_its_name(reason):
    assert violation(BROKEN[reason]) == reason


@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("mojibake", ["â€œquotedâ€\x9d", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "è‡ªè¡Œè½¦", "l'Ã©tÃ©"]),
        ("file name", ["DSC00012", "photo-1.png", "a dog (2).JPEG", "Screenshot_2024-01-02.png", "IMG_20240101_120000", "image_001"]),
        ("repeated phrases", ["好看好看" * 10]),
        ("mostly symbols or digits", ["١٢٣٤٥٦٧٨٩٠" * 3, "♥♥★★♦♦" * 5]),
    ],
)
def test_a_rule_strikes_in_other_guises(reason, texts):
    assert [violation(text) for text in texts] == [reason] * len(texts)


@pytest.mark.parametrize("text", ["photo 2020", "the file is here", "scan of a page", "image 3 of 5", "img", "P. 1200"])
def test_a_caption_is_not_taken_for_a_file_name(text):
    assert violation(text) is None


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (BROKEN["text too long"], {"max_characters": 60_000, "max_repeated_phrases": 1.0}),
        (BROKEN["replacement characters"], {"max_replaced": 0.5}),
        (BROKEN["mojibake"], {"mojibake": True}),
        (BROKEN["file name"], {"file_names": True}),
        (BROKEN["mostly URLs"], {"max_urls": 1.0}),
        (BROKEN["repeated character"], {"max_run": 100}),
        (BROKEN["mostly symbols or digits"], {"min_letters": 0.0}),
        (BROKEN["repeated lines"], {"max_repeated_lines": 1.0, "max_repeated_phrases": 1.0}),
        (BROKEN["repeated phrases"], {"max_repeated_phrases": 1.0}),
        (BROKEN["repeated phrases"], {"judged_from": 1000}),
    ],
)
def test_every_threshold_moves_its_rule(text, rules):
    assert violation(text) is not None
    assert violation(text, **rules) is None


@pytest.mark.parametrize("rules", [{"min_letters": 1.5}, {"max_urls": -0.1}, {"max_run": 0}, {"judged_from": 0}])
def test_a_threshold_out_of_range_is_refused(rules):
    with pytest.raises(Refused, match=f"text.{next(iter(rules))} is"):
        TextRules(**rules)
