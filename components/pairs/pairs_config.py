"""The pairs of each training stage, and how often those of a source and task occur in an epoch."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

ENTRY = re.compile(r"(?P<source>.*?)(?::(?P<task>[^:]*->[^:]*|\*))?=(?P<weight>[^=]*)", re.S)
FORM = "write SOURCE:TASK=WEIGHT or SOURCE=WEIGHT with * for any, such as coco:t->i=2 or *:it->t=0.5"


@dataclass(frozen=True)
class Weight:
    """How often a pair occurs in an epoch if its source and task match: 1 once, 0.5 every second pair, 0 never."""

    source: str
    task: str
    weight: float

    def matches(self, group: tuple[str, str]) -> bool:
        return fnmatchcase(group[0], self.source) and fnmatchcase(group[1], self.task)


def parsed(entry: str) -> Weight:
    """The weight that an entry of the config gives; refused where it is malformed."""
    match = ENTRY.fullmatch(entry.strip())
    if match is None or not match["source"]:
        raise Refused(f"mixture has the entry {entry!r}; {FORM}")
    try:
        weight = float(match["weight"])
    except ValueError:
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise Refused(f"mixture has the entry {entry!r}, whose weight is {match['weight']!r}; give a number of 0 or more")
    return Weight(match["source"], match["task"] or "*", weight)


@dataclass(frozen=True)
class PairsConfig:
    """The pairs of each training stage."""

    adapt_tasks: tuple[str, ...] | None = option(
        ("t->t", "t->i", "i->t"),
        "tasks of the adaptation stage, as far as the corpus has them; empty: all; null: no adaptation",
    )
    adapt_captions: bool = option(
        False,
        "adapt on captions as queries for their picture or clip instead of on tasks (MARVEL); held-out items are left out",
    )
    adapt_instructions: bool = option(False, "give the adaptation stage's queries instructions too")
    without_instruction: float = option(
        0.1, "share of training queries without an instruction, as searches without a target have none; 1: no query has any, in serving too"
    )
    wordings: Literal["all", "source"] = option(
        "all", "instructions of queries: all, those of the source, and of tasks for which it has none our own; source: its own alone"
    )
    instruct_tasks: tuple[str, ...] | None = option(
        (), "tasks of the instruction stage, as far as the corpus has them; empty: all; null: no instruction tuning"
    )
    mixture: tuple[str, ...] = option(
        (),
        "how often pairs occur in an epoch: SOURCE:TASK=WEIGHT with * for any, such as coco:t->i=2 or *:it->t=0.5; the last match wins",
    )

    @property
    def trained_tasks(self) -> dict[str, tuple[str, ...]]:
        """The tasks of each store of pairs that is made of judged queries; empty where none is."""
        asked = {"adapt": None if self.adapt_captions else self.adapt_tasks, "instruct": self.instruct_tasks}
        return {store: tasks for store, tasks in asked.items() if tasks is not None}

    def __post_init__(self) -> None:
        refuse_unknown(self, "pairs.")
        if not 0 <= self.without_instruction <= 1:
            raise Refused(f"without_instruction is {self.without_instruction}; it is a share, give a number from 0 to 1")
        for entry in self.mixture:
            parsed(entry)
