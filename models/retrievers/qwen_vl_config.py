"""What UNITE and JFE share: the Qwen-VL models that they are built over, and the budgets of tokens, pixels and frames."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mirepoix.models.backbones.checkpoint_config import Kind
from mirepoix.models.encoder_config import EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class OneTowerConfig(EncoderConfig):
    """How a Qwen-VL model reads an item."""

    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"model": "multimodal"}
    FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    TOWERS = ("language", "vision")
    READS = Modality.TEXT | Modality.IMAGE | Modality.VIDEO
    BEFORE: ClassVar[dict[str, Any]] = {"resized_twice": False}

    positions: Literal["1d", "mrope"] = option("mrope", "1d counts tokens; mrope has a grid for pictures and clips, as the backbone does")
    max_length: int = option(2048, "most tokens of an item; only words are cut")
    max_pixels: int | None = option(None, "most pixels of a picture; null: as the backbone has it")
    min_pixels: int | None = option(None, "fewest pixels of a picture, a smaller one is enlarged; null: as the backbone has it")
    max_frame_pixels: int = option(240 * 320, "most pixels of a clip's frame, at most those of a picture")
    min_frame_pixels: int | None = option(
        None, "fewest pixels that a clip's frame is enlarged to after max_frame_pixels, as in UNITE's code; null: those of one token"
    )
    resized_twice: bool | None = option(
        False,
        "a picture is resized to whole tokens near its size, and then within min_pixels and max_pixels, as in UNITE's code; false: once",
    )
    max_frames: int | None = option(
        32,
        "most frames of a clip; of a longer one this many are read, evenly spaced from the first to the last; null: all; "
        "UNITE was trained with 4 to 12 and demonstrated with up to 32",
    )
    frames_per_second: float = option(
        1.0, "frame rate of clips, which items do not carry; mrope of Qwen2.5-VL and the timestamps of Qwen3-VL count seconds"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown(self)
        for name in ("min_pixels", "min_frame_pixels"):
            if (least := getattr(self, name)) and self.max_pixels and least > self.max_pixels:
                raise Refused(f"{name} is {least} and max_pixels {self.max_pixels}; give a {name} not above max_pixels")
        counts = ("max_length", "max_pixels", "min_pixels", "max_frame_pixels", "min_frame_pixels", "max_frames")
        for name in (*counts, "frames_per_second"):
            if (given := getattr(self, name)) is not None and not given > 0:
                raise Refused(f"{name} is {given}; give a number above 0")
