"""The settings of an index of words."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

KIND = "bm25"


@dataclass(frozen=True)
class SparseConfig:
    """The parameters of BM25."""

    k1: float = option(1.2, "saturation of term frequency: the smaller, the less a repeated word adds")
    b: float = option(0.75, "length normalisation, from 0 (none) to 1 (full)")

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise Refused(f"bm25 has k1={self.k1} and b={self.b}; give a k1 of 0 or more and a b from 0 to 1")
