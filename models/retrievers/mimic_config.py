"""How MiMIC reads an item, and a stage of its training."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.models.retrievers.t5_clip_config import T5ClipConfig, refuse_short


@dataclass(frozen=True)
class MimicTuning(Tuning):
    """A stage of MiMIC's training."""

    towers: tuple[str, ...] = option(("text", "vision", "projector"), "towers that are trained; the others are frozen; all: chosen here")
    lora: Lora | None = option(None, "train adapters on them; null: all their weights")
    mix_in: float = option(
        0.2, "share of the items with words and pictures whose vector is mixed with that of words or pictures alone; chosen here"
    )
    mix: Literal["interpolate", "replace"] = option(
        "interpolate", "the vector is interpolated with that of one source (interpolate), or replaced by it (replace)"
    )
    mix_ratio: float = option(0.5, "weight of the one source in interpolate, from 0 to 1; chosen here")

    def __post_init__(self) -> None:
        refuse_unknown(self, "tuning.")
        for name in ("mix_in", "mix_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"tuning.{name} is {getattr(self, name)}; it is a share, give a number from 0 to 1")


@dataclass(frozen=True)
class MimicConfig(T5ClipConfig):
    """How MiMIC reads an item."""

    ARCHITECTURE = "mimic"
    ENCODER = "mirepoix.models.retrievers.mimic:Mimic"
    TUNING = MimicTuning

    fusion: Literal["joint", "sum"] = option(
        "joint", "the decoder attends to words and patches in one softmax (joint), or in one each and adds them (sum)"
    )
    text_length: int = option(128, "most tokens of an item's text, the end among them; patches are never cut")

    def __post_init__(self) -> None:
        refuse_unknown(self)
        refuse_short("text_length", self.text_length)
