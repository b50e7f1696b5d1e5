"""How MIRe reads an item, the sizes of its pooling, and a stage of its training."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mirepoix.models.backbones.checkpoint_config import Kind
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder_config import EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option, refuse_unknown

GUIDE = "Can you describe the primary elements in this image?"
FRAME = 3  # tokens around the words of an item: [CLS], the marker, [SEP]


@dataclass(frozen=True)
class MireTuning(Tuning):
    """What a stage of MIRe's training trains, reads and scores; the defaults are those of the published fine-tuning."""

    towers: tuple[str, ...] = option(("text", "pooling"), "towers that are trained; the others are frozen, the vision tower always")
    lora: Lora | None = option(None, "train adapters on them; null: all their weights")
    query_padding: Literal["mask", "none"] = option("mask", "mask: pad queries with [MASK], which then counts as text; none: do not")
    text_rows: bool = option(True, "score the text of queries that have pictures; false in the alignment stage")
    cached_pictures: int = option(
        0, "pictures whose features are cached in host memory, 150 kB each with CLIP ViT-B/32; 0: none", decides=False
    )
    query_length: int | None = option(None, "most tokens of a query here; null: as in search; alignment was published with 40")
    document_length: int | None = option(None, "most tokens of a document here; null: as in search; alignment was published with 400")

    def __post_init__(self) -> None:
        for name, least in (("cached_pictures", 0), ("query_length", FRAME + 1), ("document_length", FRAME + 1)):
            given = getattr(self, name)
            if given is not None and not given >= least:
                raise Refused(f"tuning.{name} is {given}; give at least {least}")
        refuse_unknown(self, "tuning.")


@dataclass(frozen=True)
class MireConfig(EncoderConfig):
    """How MIRe reads an item, and the sizes of its layers over the towers."""

    ARCHITECTURE = "mire"
    ENCODER = "mirepoix.models.retrievers.mire:Mire"
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"text": "text", "vision": "vision"}
    FAMILIES = ("bert_clip",)
    TOWERS = ("text", "pooling")
    READS = Modality.TEXT | Modality.IMAGE
    TUNING = MireTuning
    BEFORE: ClassVar[dict[str, Any]] = {"punctuation_rows": False}

    width: int = option(128, "width of a row")
    heads: int = option(12, "attentive rows of an item with pictures")
    global_tokens: int = option(16, "global rows of a picture")
    global_hidden: int = option(1024, "width between a picture's first state and its global rows")
    patch_hidden: int = option(3072, "width of a patch before keys and values are made of it")
    query_length: int = option(32, "most tokens of a query")
    document_length: int = option(180, "most tokens of a document")
    query_marker: str = option("[unused0]", "token of the text tower that marks a query; this one is ColBERT's")
    document_marker: str = option("[unused1]", "token of the text tower that marks a document; this one is ColBERT's")
    document_guide: str = option(GUIDE, "question that weights the patches of a document's pictures; worded as published")
    punctuation_rows: bool = option(
        True, "rows of a document's punctuation in search, as in the published index; in training there are none, as published"
    )

    def __post_init__(self) -> None:
        sizes = ("width", "heads", "global_tokens", "global_hidden", "patch_hidden")
        for name, least in [*dict.fromkeys(sizes, 1).items(), ("query_length", FRAME + 1), ("document_length", FRAME + 1)]:
            if not getattr(self, name) >= least:
                raise Refused(f"{name} is {getattr(self, name)}; give at least {least}")
