"""An intent is satisfied by the right modality, the right look and the right fact; drafts cover the eight families."""

import random
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from mirepoix.components.synthetic.drawing import ATTRIBUTES
from mirepoix.components.synthetic.entities import invent
from mirepoix.components.synthetic.queries import BOTH, IMAGE, TASKS, TEXT, Intent, Truth, drafts_of, queries_of
from mirepoix.components.synthetic.world_config import FACTS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

ENTITIES = invent({"train": 6, "validation": 0, "test_entity": 0, "test_combination": 0}, 0.0, random.Random(0))
ENTITY, OTHER = ENTITIES[:2]
PASSAGE = Item("passage", "Its food is rice.")
PICTURE = Item("picture", images=(b"...",))
PAGE = Item("page", "Its food is rice.", (b"...",))
GRANTING = {Intent(modality, entity.identity, "food"): ["c1"] for modality in (TEXT, BOTH) for entity in ENTITIES}


def test_an_intent_for_a_look_is_satisfied_by_every_item_of_its_modality_about_it():
    assert Intent(TEXT, ENTITY.identity).satisfied_by(PASSAGE, Truth(ENTITY, "food"))
    assert Intent(IMAGE, ENTITY.identity).satisfied_by(PICTURE, Truth(ENTITY))
    assert Intent(BOTH, ENTITY.identity).satisfied_by(PAGE, Truth(ENTITY, "food"))


@pytest.mark.parametrize("modality", [TEXT, IMAGE, BOTH])
def test_an_intent_is_not_satisfied_by_another_modality(modality):
    granted = [Intent(modality, ENTITY.identity).satisfied_by(item, Truth(ENTITY)) for item in (PASSAGE, PICTURE, PAGE)]

    assert granted == [modality == TEXT, modality == IMAGE, modality == BOTH]


def test_an_intent_is_not_satisfied_by_another_entity():
    assert not Intent(TEXT, ENTITY.identity).satisfied_by(PASSAGE, Truth(OTHER, "food"))


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_a_look_that_differs_in_one_attribute_is_another_look(attribute):
    other = next(word for word in ATTRIBUTES[attribute] if word != getattr(ENTITY.identity, attribute))

    assert not Intent(IMAGE, replace(ENTITY.identity, **{attribute: other})).satisfied_by(PICTURE, Truth(ENTITY))


def test_an_intent_for_a_fact_is_satisfied_only_where_that_fact_is_stated():
    satisfying = [kind for kind in (*FACTS, None) if Intent(TEXT, ENTITY.identity, "food").satisfied_by(PASSAGE, Truth(ENTITY, kind))]

    assert satisfying == ["food"]


def test_drafts_cover_the_eight_families_evenly():
    drafts = drafts_of(0, ENTITIES, 20, GRANTING)

    assert {task: len(found) for task, found in drafts.items()} == dict.fromkeys(TASKS, 20)


def test_a_draft_shows_a_picture_where_its_family_has_one_in_the_query():
    for task, drafts in drafts_of(0, ENTITIES, 20, GRANTING).items():
        asked = task.split("->")[0]
        assert all((draft.shown is not None) == ("i" in asked) for draft in drafts)
        assert all(bool(draft.text) == ("t" in asked) for draft in drafts)


def test_queries_are_only_about_stated_facts():
    for drafts in drafts_of(0, ENTITIES, 20, GRANTING).values():
        assert {draft.intent.fact for draft in drafts} <= {"food", None}


def test_a_question_shows_the_one_whom_it_is_about_and_a_modification_shows_another():
    drafts = drafts_of(0, ENTITIES, 20, GRANTING)

    assert all(draft.shown == draft.intent.identity for task in ("i->t", "i->i", "it->t", "it->it") for draft in drafts[task])
    for draft in drafts["it->i"]:
        changed = [name for name in ATTRIBUTES if getattr(draft.shown, name) != getattr(draft.intent.identity, name)]
        assert len(changed) == 1
        assert changed[0] in draft.text.split()
        assert draft.text.split()[-1] == getattr(draft.intent.identity, changed[0])


def test_more_queries_of_text_than_there_are_wordings_are_refused():
    with pytest.raises(Refused, match=r"^25 queries t->t of train are configured, its 6 entities allow 24; give fewer$"):
        drafts_of(0, ENTITIES, 25, GRANTING)


def test_families_take_turns():
    queries = list(queries_of(28, 0, {"train": drafts_of(0, ENTITIES, 3, GRANTING)}, lambda: None))

    assert [query.task for query in queries] == [*TASKS, *TASKS, *TASKS]
    assert [query.item.line for query in queries] == list(range(1, 25))


def test_each_query_has_a_pose_of_its_own():
    queries = list(queries_of(28, 0, {"train": drafts_of(0, ENTITIES, 20, GRANTING)}, lambda: None))
    pictures = [image for query in queries for image in query.item.images]

    assert len(set(pictures)) == len(pictures) == 5 * 20
    assert {Image.open(BytesIO(picture)).size for picture in pictures} == {(28, 28)}
