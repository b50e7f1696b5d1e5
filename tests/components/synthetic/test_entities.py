"""Entities are unique, split as asked, and never leak a held-out combination; the language about them is regular."""

import itertools
import random
from collections import Counter

import pytest

from mirepoix.components.synthetic.drawing import ATTRIBUTES
from mirepoix.components.synthetic.entities import (
    captions,
    counterfactuals,
    descriptions,
    fact_passages,
    invent,
    neighbours,
    questions,
    retyped,
)
from mirepoix.components.synthetic.world_config import FACTS, SPLITS
from mirepoix.models.errors import Refused

SIZES = {"train": 60, "validation": 10, "test_entity": 14, "test_combination": 14}


@pytest.fixture(scope="module")
def entities():
    return invent(SIZES, 0.15, random.Random(0))


def differing(one, other):
    return [name for name in ATTRIBUTES if getattr(one, name) != getattr(other, name)]


def combinations(entities, *splits):
    return {entity.identity.combination for entity in entities if entity.split in splits}


def test_each_split_has_as_many_entities_as_asked_for(entities):
    assert Counter(entity.split for entity in entities) == SIZES


def test_no_two_entities_share_a_name_or_a_look(entities):
    assert len({entity.name for entity in entities}) == len(entities)
    assert len({entity.identity for entity in entities}) == len(entities)


def test_any_two_names_differ_in_two_syllables(entities):
    for one, other in itertools.combinations(entities, 2):
        ours, theirs = one.name.lower().split("-"), other.name.lower().split("-")
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) >= 2


def test_names_of_held_out_entities_are_made_of_syllables_of_trained_names(entities):
    syllables = {
        split: {part for entity in entities if entity.split == split for part in entity.name.lower().split("-")} for split in SPLITS
    }

    assert syllables["test_entity"] <= syllables["train"]
    assert syllables["test_combination"] <= syllables["train"]


def test_names_grow_longer_when_there_are_many():
    many = invent({"train": 2000, "validation": 0, "test_entity": 0, "test_combination": 0}, 0.0, random.Random(0))

    assert len({entity.name for entity in many}) == 2000
    assert {len(entity.name.split("-")) for entity in many} == {4}


@pytest.mark.parametrize("seed", range(5))
def test_held_out_combinations_belong_to_test_combination_alone(seed):
    entities = invent(SIZES, 0.15, random.Random(seed))

    assert not combinations(entities, "test_combination") & combinations(entities, "train", "validation", "test_entity")


@pytest.mark.parametrize("seed", range(5))
def test_combinations_of_held_out_entities_are_trained_on(seed):
    entities = invent(SIZES, 0.15, random.Random(seed))

    assert combinations(entities, "validation", "test_entity") <= combinations(entities, "train")


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.5])
def test_each_shape_and_each_colour_is_trained_on_however_much_is_held_out(share):
    entities = invent({"train": 200, "validation": 2, "test_entity": 2, "test_combination": 40}, share, random.Random(1))
    trained = combinations(entities, "train")

    assert {shape for shape, _ in trained} == set(ATTRIBUTES["shape"])
    assert {colour for _, colour in trained} == set(ATTRIBUTES["colour"])


def test_held_out_combinations_are_the_share_that_was_asked_for():
    entities = invent({"train": 200, "validation": 2, "test_entity": 2, "test_combination": 100}, 0.25, random.Random(1))

    assert len(combinations(entities, "test_combination")) == 16


def test_training_covers_combinations_before_it_repeats_one():
    entities = invent({"train": 216, "validation": 0, "test_entity": 0, "test_combination": 0}, 0.0, random.Random(0))

    assert len(combinations(entities, "train")) >= 60


@pytest.mark.parametrize("seed", range(10))
def test_every_split_of_two_or_more_has_something_to_modify(seed):
    entities = invent(dict.fromkeys(SPLITS, 2) | {"train": 8}, 0.1, random.Random(seed))

    assert {source.split for source, _, _ in neighbours(entities)} == set(SPLITS)


def test_every_entity_has_a_modification_where_their_number_is_even(entities):
    assert {source.name for source, _, _ in neighbours(entities)} == {entity.name for entity in entities}


def test_every_attribute_is_modified_in_training(entities):
    assert {attribute for source, attribute, _ in neighbours(entities) if source.split == "train"} == set(ATTRIBUTES)


def test_neighbours_are_all_pairs_of_a_split_that_differ_in_one_attribute(entities):
    found = {(source.name, attribute, target.name) for source, attribute, target in neighbours(entities)}
    expected = {
        (one.name, differing(one.identity, other.identity)[0], other.name)
        for one, other in itertools.permutations(entities, 2)
        if one.split == other.split and len(differing(one.identity, other.identity)) == 1
    }

    assert found == expected


def test_every_entity_has_a_fact_of_every_kind(entities):
    for entity in entities:
        assert all(entity.facts[kind] in values for kind, values in FACTS.items())


def test_too_many_entities_for_the_looks_there_are_is_refused():
    with pytest.raises(Refused, match=r"^900 entities of test_combination need .* room for 518; lower entities$"):
        invent({"train": 10, "validation": 2, "test_entity": 2, "test_combination": 900}, 0.05, random.Random(0))


def test_a_crowded_world_still_has_unique_entities():
    entities = invent({"train": 10, "validation": 0, "test_entity": 0, "test_combination": 500}, 0.05, random.Random(0))

    assert len({entity.identity for entity in entities}) == 510


def test_no_word_of_the_language_means_two_things():
    words = [word for values in (*ATTRIBUTES.values(), *FACTS.values()) for word in values] + list(ATTRIBUTES) + list(FACTS)

    assert len(words) == len({word.lower() for word in words})


@pytest.mark.parametrize("illustrated", [False, True])
def test_a_passage_names_the_entity_describes_it_and_states_one_fact(entities, illustrated):
    for entity in entities:
        for kind, text in fact_passages(entity, 5, illustrated, random.Random(0)):
            words = text.replace(",", "").replace(".", "").split()
            assert entity.name in words
            assert all(getattr(entity.identity, name) in words for name in ATTRIBUTES)
            assert [other for other in FACTS if other in words] == [kind]
            assert entity.facts[kind] in words
            assert len(words) <= 25


def test_the_first_passages_state_different_facts_and_no_two_have_one_wording(entities):
    stated = fact_passages(entities[0], 20, False, random.Random(0))

    assert sorted(kind for kind, _ in stated[:5]) == sorted(FACTS)
    assert len({text for _, text in stated}) == 20


def test_passages_with_and_without_a_picture_are_worded_differently(entities):
    bare = {text for _, text in fact_passages(entities[0], 20, False, random.Random(0))}
    illustrated = {text for _, text in fact_passages(entities[0], 20, True, random.Random(0))}

    assert not bare & illustrated


def test_captions_name_and_describe(entities):
    for text in captions(entities[0]):
        assert entities[0].name in text
        assert any(wording in text for wording in entities[0].identity.wordings())


def test_a_question_about_a_picture_says_nothing_of_whom_it_is_about(entities):
    for kind in FACTS:
        for text in questions(kind, "this") + questions(kind, "this", to_see=True):
            assert kind in text
            assert not any(word in text.split() for values in ATTRIBUTES.values() for word in values)


def test_queries_are_short_and_worded_in_several_ways(entities):
    wordings = [
        questions("food", entities[0].name),
        questions("food", entities[0].name, to_see=True),
        descriptions(entities[0]),
        descriptions(entities[0], to_read=True),
        counterfactuals("colour", "green"),
    ]
    for texts in wordings:
        assert len(set(texts)) == len(texts) >= 4
        assert all(len(text.split()) <= 15 for text in texts)


def test_texts_of_different_families_are_never_the_same(entities):
    assert not set(questions("food", "this")) & set(questions("food", "this", to_see=True))
    assert not set(descriptions(entities[0])) & set(descriptions(entities[0], to_read=True))


@pytest.mark.parametrize("seed", range(20))
def test_a_retyped_text_differs_only_in_case_spaces_and_punctuation(entities, seed):
    _, text = fact_passages(entities[0], 1, False, random.Random(0))[0]
    other = retyped(text, random.Random(seed))

    def letters(text):
        return [letter for letter in text.lower() if letter.isalpha()]

    assert other != text
    assert letters(other) == letters(text)
