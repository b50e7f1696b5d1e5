"""What MARVEL and MiMIC share: a T5 and a CLIP vision tower that they are built over, and the fewest tokens of a text."""

from dataclasses import dataclass
from typing import ClassVar

from mirepoix.models.backbones.checkpoint_config import Kind
from mirepoix.models.encoder_config import EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

SHORTEST = 2  # a token of text, and the end


@dataclass(frozen=True)
class T5ClipConfig(EncoderConfig):
    """A retriever over a T5 and a CLIP vision tower."""

    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"text": "text", "vision": "vision"}
    FAMILIES = ("t5_clip",)
    TOWERS = ("text", "vision", "projector")
    READS = Modality.TEXT | Modality.IMAGE
    TEMPERED = None  # a whole CLIP does, a vision tower alone does not


def refuse_short(name: str, length: int) -> None:
    """Refuses a budget of tokens that no text fits in."""
    if not length >= SHORTEST:
        raise Refused(f"{name} is {length}; give at least {SHORTEST}: a token of text, and the end")
