"""What a run asks of its corpus: pairs for its trainings, queries to measure by."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from mirepoix.components.pairs.pairs_config import PairsConfig


@dataclass(frozen=True)
class CorpusCheckConfig:
    """What a run asks of its corpus. It is made of the configs of other stages, and no part of what a user writes."""

    pairs: Mapping[str, PairsConfig] = field(default_factory=dict)  # by the stage that makes them
    passages: bool = False  # whether further pairs are made of triples
    evaluated: bool = True  # whether the run measures anything
    untrained: bool = False  # whether it measures an encoder that was trained on nothing, and so by queries of every split
    split: str | None = None  # of the headline

    @property
    def trained(self) -> bool:
        """Whether anything is trained."""
        return any(each.trained_tasks or each.adapt_captions for each in self.pairs.values())

    def without_evaluation(self) -> Self:
        """The same of a run that measures nothing; of one that trains nothing either and names no split, nothing more was asked anyway."""
        return replace(self, evaluated=False) if self.trained or self.split is not None else self
