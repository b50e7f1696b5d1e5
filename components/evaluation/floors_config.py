"""The settings of the floors: those of an evaluation that decide their values."""

from dataclasses import dataclass
from typing import Self

from mirepoix.components.evaluation.boards.board import Pool
from mirepoix.components.evaluation.evaluate_config import FLOORS, EvaluateConfig
from mirepoix.models.options import option


@dataclass(frozen=True)
class FloorsConfig:
    """Which rankings without an encoder are measured, and how; no headline, so that another one computes nothing anew."""

    floors: tuple[str, ...] = option(FLOORS, "which rankings")
    measures: tuple[str, ...] = option((), "as evaluate.measures")
    pools: tuple[Pool, ...] = option((), "as evaluate.pools")
    board: str | None = option(None, "as evaluate.board")
    ignore_same_id: bool = option(False, "as evaluate.ignore_same_id")
    trained: bool = option(True, "whether queries of the split train are trained on, and not measured")

    @classmethod
    def of(cls, config: EvaluateConfig, trained: bool) -> Self:
        """The settings of the floors of an evaluation."""
        measures, pools = tuple(each.name for each in config.measured), tuple(sorted(config.measured_pools))
        return cls(config.floors, measures, pools, config.board, config.ignore_same_id, trained)

    def evaluation(self) -> EvaluateConfig:
        """An evaluation with these settings, whose headline is any."""
        return EvaluateConfig(
            measure=self.measures[0], measures=self.measures, pools=self.pools, board=self.board, ignore_same_id=self.ignore_same_id
        )
