"""How MARVEL reads an item, and a stage of its training."""

from dataclasses import dataclass

from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.options import option
from mirepoix.models.retrievers.t5_clip_config import T5ClipConfig, refuse_short


@dataclass(frozen=True)
class MarvelTuning(Tuning):
    """A step of MARVEL's training; the defaults are those of steps 2 and 3."""

    towers: tuple[str, ...] = option(("text", "projector"), "towers that are trained; the others are frozen; step 1: vision and projector")
    lora: Lora | None = option(None, "train adapters on them; null: all their weights, as published")
    text_length: int | None = option(None, "most tokens of a text in this training, 64 in step 1; null: as in search")

    def __post_init__(self) -> None:
        if self.text_length is not None:
            refuse_short("tuning.text_length", self.text_length)


@dataclass(frozen=True)
class MarvelConfig(T5ClipConfig):
    """How MARVEL reads an item."""

    ARCHITECTURE = "marvel"
    ENCODER = "mirepoix.models.retrievers.marvel:Marvel"
    TUNING = MarvelTuning

    text_length: int = option(128, "most tokens of an item's text, 'caption:' and the end among them; patches are never cut")

    def __post_init__(self) -> None:
        refuse_short("text_length", self.text_length)
