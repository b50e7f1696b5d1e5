"""How UniVL-DR reads an item."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mirepoix.models.backbones.checkpoint_config import Kind
from mirepoix.models.encoder_config import EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option


@dataclass(frozen=True)
class UniVLDRConfig(EncoderConfig):
    """How UniVL-DR reads an item."""

    ARCHITECTURE = "univldr"
    ENCODER = "mirepoix.models.retrievers.univldr:UniVLDR"
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"model": "multimodal"}
    FAMILIES = ("clip",)
    TOWERS = ("text", "vision")
    READS = Modality.TEXT | Modality.IMAGE
    TEMPERED = True
    BEFORE: ClassVar[dict[str, Any]] = {"clean_text": False}

    max_length: int = option(77, "most tokens of an item's words, its ends included; only text is cut")
    clean_text: bool = option(
        True,
        "repair text and unescape HTML in it, as OpenAI's own tokenizer of CLIP does; false: as transformers' tokenizer, which does not",
    )

    def __post_init__(self) -> None:
        if not self.max_length >= 3:
            raise Refused(f"max_length is {self.max_length}; give 3 or more: a beginning, a word, an end")
