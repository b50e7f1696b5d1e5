"""How UNITE reads an item."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.models.options import option
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig


@dataclass(frozen=True)
class UniteConfig(OneTowerConfig):
    """How UNITE reads an item."""

    ARCHITECTURE = "unite"
    ENCODER = "mirepoix.models.retrievers.unite:Unite"

    positions: Literal["1d", "mrope"] = option("1d", "1d counts tokens, as in the published vectors; mrope has a grid for pictures")
    prompt: Literal["summary", "raw"] = option(
        "summary", "summary asks for one word, naming the modalities, before the pooled token; raw does not"
    )
    newline_after_pictures: bool = option(
        True, "a line ends between pictures or a clip and the words behind them; false: as in the published demonstration"
    )
