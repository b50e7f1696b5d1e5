"""The settings of an evaluation, and the names under which results are reported."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from mirepoix.components.evaluation.boards.board import MAIN, POOLS, Board, Pool
from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.scoring.measures import Measure, deepest, measure, measures
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

MEASURES = ("R@1", "R@5", "R@10", "Success@5", "RR@10", "nDCG@10")
"""The measures where neither the config nor a board names others."""
OWN_POOLS: tuple[Pool, ...] = ("universal", "target")
"""The pools where neither the config nor a board names others."""
SYSTEMS = ("trained", "untrained", "encoder")
"""Which encoder a result is of: that after the trainings of the run, that before them, or, without a training, the encoder as it came."""
FLOORS = ("bm25", "pixels", "chance")
"""Rankings that need no encoder, below which a trained one has learnt nothing of use: by words, by pixels, and by chance."""
Mean = Literal["tasks", "datasets", "queries"]


def released(systems: Container[str]) -> str:
    """Of the systems of a run, the one whose encoder is released."""
    return "trained" if "trained" in systems else "encoder"


def not_reached(averages: Mapping[str, float]) -> dict[str, list[str]]:
    """For each encoder the floors that it is below: rankings without an encoder, and for a trained one the encoder before training."""
    found = {}
    for system in (name for name in SYSTEMS if name in averages):
        floors = (*FLOORS, "untrained") if system == "trained" else FLOORS
        if below := [floor for floor in floors if floor in averages and averages[system] < averages[floor]]:
            found[system] = below
    return found


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, in which candidates, what the headline is, and how its interval is estimated."""

    split: str | None = option(
        None,
        "split of the headline, averaged over its tasks; null: test, else the first by name of test*, else the first by name, train last",
    )
    measure: str = option("R@5", "the headline's measure, by ir-measures' name; main: that of the board for each data set")
    pool: Pool | None = option(None, "the headline's pool; null: the first of the pools")
    draws: int = option(1000, "bootstrap samples for the interval of each average")
    measures: tuple[str, ...] = option(
        (),
        f"what is measured, as R@100, nDCG@10, nDCG(dcg='exp-log2')@5, RR@20, Success@1, P@5, AP@100; empty: the board's, or "
        f"{', '.join(MEASURES)}; beside them those of a board's rows; rankings are as deep as the deepest",
    )
    pools: tuple[Pool, ...] = option(
        (),
        "candidates that queries are searched in: universal, all; target, those of the modality that the task asks for; dataset, those "
        "of the query's data set; listed, those judged for the query; board, as the board says; empty: the board's, or "
        f"{', '.join(OWN_POOLS)}",
    )
    mean: Mean = option("tasks", "what averages are over: tasks, data sets (each with its tasks apart), or queries")
    board: str | None = option(None, f"the board whose protocol and table are used: {', '.join(BOARDS)}; null: none")
    ignore_same_id: bool = option(False, "a candidate with the id of the query is not ranked, as BEIR has it for ArguAna and Quora")
    floors: tuple[str, ...] = option(FLOORS, f"rankings without an encoder to compare with, of {', '.join(FLOORS)}")

    def __post_init__(self) -> None:
        refuse_unknown(self, "evaluate.")
        if self.board is not None and self.board not in BOARDS:
            raise Refused(f"evaluate.board is {self.board!r}; give one of {', '.join(BOARDS)}, or null")
        for pool in (*self.pools, *filter(None, [self.pool])):
            if pool not in POOLS:
                raise Refused(f"evaluate.pools has {pool!r}; give some of {', '.join(POOLS)}")
        if self.pool is not None and self.pool not in self.measured_pools:
            raise Refused(f"evaluate.pool is {self.pool!r}, and the pools that are measured are {', '.join(self.measured_pools)}")
        if "board" in self.pools and self.board is None:
            raise Refused("evaluate.pools has 'board', and no board is named; name one in evaluate.board")
        if self.measure == MAIN:
            if self.board is None:
                raise Refused("evaluate.measure is 'main', that of a board, and no board is named; name one in evaluate.board")
        elif (headline := measures([self.measure], "evaluate.measure")[0]) not in self.measured:
            given = ", ".join(each.name for each in self.measured)
            raise Refused(f"evaluate.measure is {headline.name}, and what is measured is {given}; name it in evaluate.measures too")
        if wrong := [floor for floor in self.floors if floor not in FLOORS]:
            raise Refused(f"evaluate.floors has {wrong[0]!r}; give some of {', '.join(FLOORS)}")
        if self.draws < 1:
            raise Refused(f"evaluate.draws is {self.draws}; give 1 or more")

    @property
    def public_board(self) -> Board | None:
        """The board whose protocol is used, if there is one."""
        return BOARDS[self.board] if self.board else None

    @property
    def measured(self) -> tuple[Measure, ...]:
        """The measures of every query; those of a board's rows are among them, whichever are named."""
        board = self.public_board
        rows = [row.measure for row in board.rows] if board else []
        return measures((*self.measures, *rows) if self.measures else board.measures if board else MEASURES, "evaluate.measures")

    @property
    def measured_pools(self) -> tuple[Pool, ...]:
        """The pools that are searched, that of the headline first."""
        board = self.public_board
        pools = tuple(dict.fromkeys(self.pools or (board.pools if board else OWN_POOLS)))
        return tuple(sorted(pools, key=lambda pool: pool != self.pool)) if self.pool in pools else pools

    @property
    def headline_measure(self) -> str:
        """The measure of the headline, by ir-measures' name, or `main`."""
        return MAIN if self.measure == MAIN else measure(self.measure).name

    @property
    def depth(self) -> int:
        """How deep rankings have to be."""
        return deepest(self.measured)
