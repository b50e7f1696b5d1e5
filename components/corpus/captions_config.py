"""The settings of a benchmark on missing captions."""

import re
from dataclasses import dataclass
from typing import Literal

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class CaptionsConfig:
    """Of whose pictures captions are removed, and of how many."""

    of: Literal["documents", "queries"] = option("documents", "the items whose text beside a picture is removed: documents, or queries")
    rates: tuple[float, ...] = option(RATES, "shares of these items that have lost it; each is measured as a data set of its own")

    def __post_init__(self) -> None:
        refuse_unknown(self, "captions.")
        if not self.rates or len(set(self.rates)) != len(self.rates) or not all(0 <= rate <= 1 for rate in self.rates):
            raise Refused(f"captions.rates is {', '.join(map(str, self.rates)) or 'empty'}; give shares from 0 to 1, each once")


def at_rate(dataset: str, rate: float) -> str:
    """The name of a data set of which this share has lost its captions, as WebQA+ 0.25."""
    return f"{dataset}+ {rate:g}"


def whole_of(dataset: str) -> str:
    """The data set of whose captions a share is missing in this one; itself where none is."""
    return re.sub(r"\+ [\d.]+$", "", dataset)
