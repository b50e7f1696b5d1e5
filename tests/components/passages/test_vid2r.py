"""The rules of ViD2R keep an answer or drop it by name, in the paper's order, and put what is kept between its neighbours."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mirepoix.components.passages.vid2r import REASONS, Answer, Dropped, apply_rules, content_words, noun_finder, passage
from mirepoix.components.passages.vid2r_config import Vid2rConfig
from mirepoix.models.errors import Refused

CONFIG = Vid2rConfig()
LONG = "a brown dog sleeps in the green grass beside a wooden fence"


def rule(answer: str, question: str = "What is the dog doing?", pictured: bool = True, origin: str = "made/file", **changes):
    return apply_rules(question, answer, pictured, origin, replace(CONFIG, **changes), content_words)


@pytest.mark.parametrize(
    "reason, outcome",
    {
        "no picture": rule(LONG, pictured=False),
        "excluded folder": rule(LONG, origin="mix/VG_100K_2/12.jpg"),
        "unanswerable": rule("The question is Unanswerable from this picture alone"),
        "only digits": rule("1,204."),
        "too short": rule("Sleeping."),
        "region caption": rule(LONG, "Please provide a short description for this region: [0.1, 0.2, 0.4, 0.9]."),
        "how many": rule(LONG, "How many dogs are there?"),
        "what colour": rule(LONG, "What color is the dog?"),
    }.items(),
)
def test_each_rule_drops_what_it_is_for_by_its_name(reason, outcome):
    assert isinstance(outcome, Dropped) and outcome.reason == reason and reason in REASONS


def test_the_other_wordings_of_the_rules_are_known_too():
    assert rule("Reading is not required to answer that, it seems").reason == "unanswerable"
    assert rule(LONG, "What colours does the dog have?").reason == "what colour"
    assert rule(LONG, "What is the color of the dog's coat?").reason == "what colour"
    assert rule(LONG, "What are the colors of the dog's coat?").reason == "what colour"
    assert not isinstance(rule(LONG, "What is the dog that chews the color chart doing?"), Dropped)
    assert rule(LONG, "Which bounding box shows the dog?").reason == "region caption"
    assert rule(LONG, "How-many dogs are there?").reason == "how many"


def test_the_first_rule_in_the_papers_order_gives_the_reason():
    everything = {"answer": "12", "question": "How many?", "pictured": False, "origin": "VG_100K"}
    assert rule(**everything).reason == "no picture"
    assert rule(**{**everything, "pictured": True}).reason == "excluded folder"
    assert rule(**{**everything, "pictured": True, "origin": ""}).reason == "only digits"
    assert rule("Few words here", "How many dogs are there?").reason == "too short"


@pytest.mark.parametrize(
    "lead",
    [
        "Yes, ",
        "No. ",
        "answerable: ",
        "Certainly! ",
        "Sure, ",
        "In the image, ",
        "in this photo ",
        "The image showcases ",
        "Yes, certainly, in the scene, the image depicts ",
    ],
)
def test_lead_ins_are_taken_away(lead):
    assert rule(lead + LONG) == Answer("A" + LONG[1:], "A" + LONG[1:])


def test_a_word_that_only_begins_like_a_lead_in_stays():
    assert rule("Nobody is near the dog that sleeps in the grass").text.startswith("Nobody is near")
    assert rule("Yes men are shown around the table of the old king").text.startswith("Yes men")


@pytest.mark.parametrize(
    "answer",
    [
        "No-one is standing beside the old wooden fence",
        "Sure-footed goats climb on the old wooden fence",
        "No.1 is written on the shirt of the tall player",
        "Certainly-shaped stones lie beside the old fence",
        "In the picture-perfect town there is an old fence",
    ],
)
def test_a_word_or_a_number_that_a_lead_in_is_part_of_stays_whole(answer):
    assert rule(answer, lower_case=False).text == answer


@pytest.mark.parametrize("lead", ["No - ", "Yes- ", "Yes\u2014", "No \u2013 ", "Sure \u2014", "Certainly "])
def test_a_lead_in_ends_at_a_dash_or_at_a_sign_with_white_space(lead):
    assert rule(lead + LONG).text == "A" + LONG[1:]


@pytest.mark.parametrize(
    ("answer", "anywhere"),
    [
        ("the dog in the image sleeps on the grass of a park", "The dog sleeps on the grass of a park"),
        ("the dog sleeps on the grass of a park in this photo.", "The dog sleeps on the grass of a park."),
        ("a dog sleeps on the grass. yes, the image shows a park", "A dog sleeps on the grass. a park"),
        ("a child plays the old piano. It sounds in the whole house", "A child plays the old piano. It sounds in the whole house"),
        ("a sure-footed goat in the picture-perfect town climbs", "A sure-footed goat in the picture-perfect town climbs"),
    ],
)
def test_phrases_inside_an_answer_are_taken_out_where_this_is_asked_for(answer, anywhere):
    """As the published code, but for its blanks and for words that only end like such a phrase."""
    assert rule(answer, lower_case=False, phrases="anywhere").text == anywhere
    assert rule(answer, lower_case=False).text == "AT"[answer.startswith("t")] + answer[1:]
    with pytest.raises(Refused, match=r"vid2r.phrases is 'all'; give one of leading, anywhere"):
        replace(CONFIG, phrases="all")


def test_a_short_answer_gets_the_nouns_of_its_question_in_brackets():
    outcome = rule("Sleeping soundly.", "What is the dog near the wooden fence doing?", min_characters=10)
    assert outcome == Answer("Sleeping soundly (dog, wooden, fence)", "Sleeping soundly.")
    assert rule("Five words are not few", min_characters=1).text == "Five words are not few"
    assert rule("Four words are few", few_words=3, min_characters=1).text == "Four words are few"


def test_an_answer_that_is_nothing_but_a_lead_in_is_dropped():
    assert rule("Yes.", "Is the dog near the wooden fence of that old garden?").reason == "too short"


def test_the_first_clause_of_the_question_is_not_repeated():
    question = "In the living room, what stands on the table?"
    outcome = rule("in the living room, there is a vase with flowers on it", question)
    assert outcome.text == "There is a vase with flowers on it"
    assert rule(LONG, question).text == "A" + LONG[1:]


def test_an_answer_is_lower_cased_as_in_the_paper_unless_names_shall_stay():
    answer = "The Eiffel Tower stands behind the man in the coat"
    assert rule(answer).text == "The eiffel tower stands behind the man in the coat"
    assert rule(answer, lower_case=False).text == answer


def test_other_languages_pass_and_wide_characters_count_as_two():
    answer = "\u4e00\u53ea\u5728\u8349\u5730\u4e0a\u7761\u89c9\u7684\u5927\u9ec4\u72d7\u548c\u5b83\u7684\u670b\u53cb"
    assert rule(answer, "\u8fd9\u662f\u4ec0\u4e48\uff1f") == Answer(answer, answer)
    assert rule("Un chien brun dort dans l'herbe verte.", "Que fait le chien ?").text == "Un chien brun dort dans l'herbe verte."


def test_words_of_the_question_that_say_nothing_are_no_nouns():
    assert content_words("What is the Eiffel Tower in this picture made of?") == ["Eiffel", "Tower", "made"]
    assert content_words("\u8fd9\u662f\u4ec0\u4e48\uff1f") == []
    assert len(content_words(" ".join(f"word{letter}" for letter in "abcdefghij"))) == 6


NEIGHBOURS = ("Dogs sleep a lot. They dream. They bark.", "Grass is green. It grows.", "A fence is a wall.")


def test_the_answer_is_second_among_the_openings_of_its_neighbours():
    text = passage(Answer("A dog sleeps", "A dog"), NEIGHBOURS, CONFIG)
    assert text == "Dogs sleep a lot. They dream. A dog sleeps. Grass is green. It grows. A fence is a wall."
    assert (
        passage(Answer("It sleeps!", ""), NEIGHBOURS, replace(CONFIG, sentences=1))
        == "Dogs sleep a lot. It sleeps! Grass is green. A fence is a wall."
    )


def test_the_titled_form_has_the_answer_in_front_and_no_brackets():
    text = passage(Answer("Sleeping (dog)", "Sleeping"), NEIGHBOURS[:2], replace(CONFIG, form="titled"))
    assert text == "Title: Sleeping content: Dogs sleep a lot. They dream. Grass is green. It grows."


def test_an_answer_without_neighbours_is_alone_and_chinese_is_joined_without_spaces():
    assert passage(Answer("A dog sleeps", ""), [], CONFIG) == "A dog sleeps."
    chinese = passage(Answer("\u72d7\u5728\u7761\u89c9", ""), ["\u4e00\u3002\u4e8c\u3002\u4e09\u3002", "\u56db\u3002"], CONFIG)
    assert chinese == "\u4e00\u3002\u4e8c\u3002\u72d7\u5728\u7761\u89c9\u3002\u56db\u3002"


def test_nouns_are_those_of_spacy_where_its_model_is_named(monkeypatch):
    def load(name: str, exclude: list[str]):
        assert name == "en_core_web_sm"
        return lambda text: [SimpleNamespace(text=word, pos_="NOUN" if word == "dog" else "VERB") for word in text.split()]

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    assert noun_finder("en_core_web_sm")("the dog runs after the dog") == ["dog"]
    assert noun_finder("heuristic") is content_words


def test_spacy_or_a_model_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(Refused, match="spaCy is not installed; install it with that model, or give heuristic"):
        noun_finder("en_core_web_sm")

    def load(name: str, exclude: list[str]):
        raise OSError("no such model")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(Refused, match="spaCy has no such model here"):
        noun_finder("xx")
