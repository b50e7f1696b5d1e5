"""Instructions of queries, by task, in several wordings: those of the query's source, or else the defaults."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mirepoix.models.item import Item

WORDINGS = "wordings.json"
"""The file of the pairs with the wording of each task that a release serves with."""
# The default wordings by task; the first is the one that a release serves with.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "t->t": ("Find a passage that answers.", "Give a passage with the answer.", "Which passage answers this?"),
    "t->i": ("Find a picture of this.", "Give a picture that shows this.", "Which picture shows this?"),
    "t->it": ("Find a picture with text on this.", "Give a picture and its text.", "Which picture with text fits?"),
    "t->v": ("Find a clip of this.", "Give a clip that shows this.", "Which clip shows this?"),
    "t->vt": ("Find a clip with text on this.", "Give a clip and its text.", "Which clip with text fits?"),
    "i->t": ("Find a passage on what is shown.", "Give a text that describes this.", "Which text fits this picture?"),
    "i->i": ("Find a picture of the same.", "Give another picture of it.", "Which picture shows it again?"),
    "i->it": ("Find a picture with text of the same.", "Give another picture of it and its text.", "Which picture with text shows it?"),
    "i->v": ("Find a clip of what is shown.", "Give a clip of it.", "Which clip shows what the picture shows?"),
    "i->vt": ("Find a clip with text of what is shown.", "Give a clip of it and its text.", "Which clip with text shows it?"),
    "it->t": ("Find a passage that answers on what is shown.", "Give a passage on this picture.", "Which passage answers for it?"),
    "it->i": ("Find a picture changed like this.", "Give a picture with that change.", "Which picture has the change?"),
    "it->it": ("Find a picture with text on what is shown.", "Give a picture and its text on it.", "Which picture with text answers?"),
    "it->v": ("Find a clip for this picture and text.", "Give a clip that fits both.", "Which clip goes with picture and text?"),
    "it->vt": ("Find a clip with text on what is shown.", "Give a clip and its text on the picture.", "Which clip with text answers?"),
    "v->t": ("Find a passage on what happens.", "Give a text that describes this clip.", "Which text fits this clip?"),
    "v->i": ("Find a picture of what happens.", "Give a picture of what the clip shows.", "Which picture shows what happens?"),
    "v->it": ("Find a picture with text on what happens.", "Give a picture of it and its text.", "Which picture with text fits the clip?"),
    "v->v": ("Find a clip of the same.", "Give another clip of it.", "Which clip shows it again?"),
    "v->vt": ("Find a clip with text of the same.", "Give another clip of it and its text.", "Which clip with text shows it again?"),
    "vt->t": ("Find a passage that answers on what happens.", "Give a passage on this clip.", "Which passage answers for the clip?"),
    "vt->i": ("Find a picture of the clip with this change.", "Give a picture that answers.", "Which picture fits clip and text?"),
    "vt->it": ("Find a picture with text that answers on the clip.", "Give a picture and its text on it.", "Which picture with text fits?"),
    "vt->v": ("Find a clip changed like this.", "Give a clip with that change.", "Which clip has the change?"),
    "vt->vt": ("Find a clip with text that answers on the clip.", "Give a clip and its text on it.", "Which clip with text answers it?"),
}


class Wordings:
    """The wordings of each task; those of a source, from the rows of its `prompts/`, take precedence over the defaults."""

    def __init__(self, prompts: Iterable[Mapping[str, str]] = (), defaults: Mapping[str, tuple[str, ...]] = INSTRUCTIONS):
        self._defaults = defaults
        self._by_task: dict[str, dict[str, list[str]]] = {}
        for row in prompts:
            self._by_task.setdefault(row["task"], {}).setdefault(row["source"], []).append(row["wording"])

    def of(self, query: Item, task: str) -> tuple[str, ...]:
        """The wordings for a query: those given for the longest prefix of its source or id, or else the defaults."""
        given = self._by_task.get(task, {})
        fitting = [source for source in given if query.source.startswith(source) or query.id.startswith(source)]
        return tuple(given[max(fitting, key=len)]) if fitting else self._defaults.get(task, ())

    def instructed(self, query: Item, task: str, seed: int, without: float = 0.0) -> Item:
        """The query with a wording of its task's instruction, drawn by seed and id; a share of `without` gets none.

        A query that already has an instruction keeps it.
        """
        wordings = self.of(query, task)
        if query.instruction or not wordings:
            return query
        draw = random.Random(f"{seed} {query.id}")
        return query if draw.random() < without else replace(query, instruction=draw.choice(wordings))

    def served(self) -> dict[str, str]:
        """The wording of each task that a release serves with: the first one of the shortest source prefix, or else the default."""
        first = {task: given[min(given, key=len)][0] for task, given in self._by_task.items()}
        return {task: wordings[0] for task, wordings in self._defaults.items()} | first
