"""The settings of image verbalisation."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.components.generation.writer_config import EndpointConfig, JudgeConfig, LocalConfig, SpendingConfig, WriterConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

WORDING = "Write one query that somebody types who looks for this picture: it asks for what the picture shows and what the caption tells."


@dataclass(frozen=True)
class VerbaliseConfig:
    """The settings of image verbalisation: queries appended to the captions of pictures."""

    kind: Literal["none", "written"] = option("none", "none: texts are unchanged; written: a language model writes the queries")
    wording: str = option(WORDING, "the instruction to the language model")
    pictures: int = option(1, "most pictures of a candidate in the prompt; 0: none, for text-only models")
    picture_pixels: int = option(512 * 512, "pictures with more pixels are scaled down for the prompt")
    writer: WriterConfig = option(EndpointConfig, "the language model; only endpoints accept pictures")
    judge: JudgeConfig = option(lambda: JudgeConfig(max_characters=300), "lengths of prompts, and the rules by which answers are accepted")
    spending: SpendingConfig = option(SpendingConfig, "the budget, and where replies are cached")

    def __post_init__(self) -> None:
        refuse_unknown(self, "verbalise.")
        if self.pictures < 0 or self.picture_pixels < 1:
            raise Refused("verbalise.pictures must be at least 0, picture_pixels at least 1")
        if not self.wording.strip():
            raise Refused("verbalise.wording is empty; give the instruction to the language model")
        if self.kind == "written" and self.pictures and not isinstance(self.writer, EndpointConfig):
            raise Refused(
                f"verbalise.pictures is {self.pictures}, and a {type(self.writer).__name__} accepts text only; "
                "set verbalise.pictures=0, or serve the model behind an endpoint and set verbalise.writer=EndpointConfig"
            )


def outside(config: VerbaliseConfig) -> dict[str, str]:
    """The fingerprint of the model folder that the stage opens; refused where the folder is missing."""
    return config.writer.outside() if config.kind == "written" and isinstance(config.writer, LocalConfig) else {}
