"""Instructions: wordings for every task, those of the source before the defaults, drawn by seed and id alone."""

import random

import pytest

from mirepoix.components.pairs.instructions import INSTRUCTIONS, Wordings
from mirepoix.components.synthetic.queries import TASKS
from mirepoix.models.item import Item, Modality

KINDS = ("t", "i", "it", "v", "vt")


def test_every_task_of_the_field_has_several_wordings_of_its_own():
    assert set(INSTRUCTIONS) == {f"{asks}->{finds}" for asks in KINDS for finds in KINDS} > set(TASKS)
    assert all(len(set(wordings)) == len(wordings) >= 3 for wordings in INSTRUCTIONS.values())
    assert all(Modality.of_letters(letters).letters == letters for letters in KINDS)
    first = [wordings[0] for wordings in INSTRUCTIONS.values()]
    assert len(set(first)) == len(first), "the first wording, which is served, identifies the task"


def test_a_querys_wording_depends_on_its_id_alone():
    queries = [Item(f"q{n}", text="star ?") for n in range(60)]
    wordings = [Wordings().instructed(query, "t->i", seed=3).instruction for query in queries]
    assert set(wordings) == set(INSTRUCTIONS["t->i"])
    random.Random(0).shuffle(queries)
    assert {query.id: Wordings().instructed(query, "t->i", seed=3).instruction for query in queries} == {
        f"q{n}": w for n, w in enumerate(wordings)
    }


def test_a_query_with_an_instruction_keeps_it():
    query = Item("q", text="star ?", instruction="My own words.")
    assert Wordings().instructed(query, "t->i", seed=0) is query


def test_a_query_of_a_task_without_wordings_gets_no_instruction():
    assert Wordings().instructed(Item("q", text="star ?"), "iv->t", seed=0).instruction == ""


PROMPTS = [
    {"task": "t->i", "wording": "Anybody's.", "source": ""},
    {"task": "t->i", "wording": "Coco's first.", "source": "coco"},
    {"task": "t->i", "wording": "Coco's second.", "source": "coco"},
    {"task": "t->i", "wording": "The captions'.", "source": "coco/captions"},
    {"task": "t->t", "wording": "The fourth's.", "source": "4:"},
]


@pytest.mark.parametrize(
    ("query", "task", "wordings"),
    [
        (Item("q", source="web/a"), "t->i", ("Anybody's.",)),
        (Item("q", source="coco/train.jsonl"), "t->i", ("Coco's first.", "Coco's second.")),
        (Item("q", source="coco/captions.jsonl"), "t->i", ("The captions'.",)),
        (Item("4:17", source="mbeir/a"), "t->t", ("The fourth's.",)),
        (Item("14:7", source="mbeir/a"), "t->t", INSTRUCTIONS["t->t"]),
        (Item("q", source="coco/a"), "i->t", INSTRUCTIONS["i->t"]),
    ],
)
def test_wordings_of_the_longest_matching_source_prefix_take_precedence_over_the_defaults(query, task, wordings):
    assert Wordings(PROMPTS).of(query, task) == wordings


def test_all_wordings_of_a_source_are_drawn():
    queries = [Item(f"q{n}", text="x", source="coco/a") for n in range(60)]
    found = {Wordings(PROMPTS).instructed(query, "t->i", seed=0).instruction for query in queries}
    assert found == {"Coco's first.", "Coco's second."}


def test_served_is_a_wording_that_was_trained_with():
    ours = {task: wordings[0] for task, wordings in INSTRUCTIONS.items()}
    assert Wordings().served() == ours
    assert Wordings(PROMPTS).served() == ours | {"t->i": "Anybody's.", "t->t": "The fourth's."}
