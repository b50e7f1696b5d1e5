"""What a query asks for, by its task, in several wordings."""

import random
from dataclasses import replace

from mirepoix.models.item import Item

# What is wanted, by task; the first wording is the one that a release serves with.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "t->t": ("Find a passage that answers.", "Give a passage with the answer.", "Which passage answers this?"),
    "t->i": ("Find a picture of this.", "Give a picture that shows this.", "Which picture shows this?"),
    "t->it": ("Find a picture with text on this.", "Give a picture and its text.", "Which picture with text fits?"),
    "i->t": ("Find a passage on what is shown.", "Give a text that describes this.", "Which text fits this picture?"),
    "i->i": ("Find a picture of the same.", "Give another picture of it.", "Which picture shows it again?"),
    "it->t": ("Find a passage that answers on what is shown.", "Give a passage on this picture.", "Which passage answers for it?"),
    "it->i": ("Find a picture changed like this.", "Give a picture with that change.", "Which picture has the change?"),
    "it->it": ("Find a picture with text on what is shown.", "Give a picture and its text on it.", "Which picture with text answers?"),
}


def instructed(query: Item, task: str, seed: int, without: float = 0.0) -> Item:
    """The query with one wording of its task's instruction, drawn by seed and id, or, for a share of them, without any.

    A query that brings an instruction keeps it.
    """
    wordings = INSTRUCTIONS.get(task)
    if query.instruction or not wordings:
        return query
    draw = random.Random(f"{seed} {query.id}")
    return query if draw.random() < without else replace(query, instruction=draw.choice(wordings))
