"""The settings of an evaluation, and the names under which results are reported."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal, get_args

from mirepoix.components.evaluation.metrics import MEASURES
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

Pool = Literal["universal", "target"]
POOLS: tuple[Pool, ...] = get_args(Pool)
SYSTEMS = ("trained", "untrained", "encoder")
"""Which encoder a result is of: that after the trainings of the run, that before them, or, without a training, the encoder as it came."""


def released(systems: Container[str]) -> str:
    """Of the systems of a run, the one whose encoder is released."""
    return "trained" if "trained" in systems else "encoder"


@dataclass(frozen=True)
class EvaluateConfig:
    """What the headline is, and how its interval is estimated."""

    split: str | None = option(
        None,
        "split of the headline, averaged over its tasks; null: test, else the first by name of test*, else the first by name, train last",
    )
    measure: str = option("recall@5", f"the headline's measure, one of {', '.join(MEASURES)}")
    pool: Pool = option("universal", "the headline's pool: universal or target")
    draws: int = option(1000, "bootstrap samples for the interval of each average")

    def __post_init__(self) -> None:
        refuse_unknown(self, "evaluate.")
        if self.measure not in MEASURES:
            raise Refused(f"evaluate.measure is {self.measure!r}; give one of {', '.join(MEASURES)}")
        if self.draws < 1:
            raise Refused(f"evaluate.draws is {self.draws}; give 1 or more")
