"""How JFE reads an item; all chosen here."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.models.options import option
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig


@dataclass(frozen=True)
class JfeConfig(OneTowerConfig):
    """How JFE reads an item; all chosen here."""

    ARCHITECTURE = "jfe"
    ENCODER = "mirepoix.models.retrievers.jfe:Jfe"

    attention: Literal["causal", "bidirectional"] = option("causal", "causal: a token attends to those before it; bidirectional: to all")
    pooling: Literal["last", "mean"] = option("last", "last: the state of the token that ends the turn; mean: of all tokens")
    fusion: Literal["joint", "late"] = option("joint", "joint: one sequence; late, the control: pictures and words apart, vectors summed")
