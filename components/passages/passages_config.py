"""The settings of the passages stage."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.components.generation.writer_config import EndpointConfig, JudgeConfig, LocalConfig, SpendingConfig, WriterConfig
from mirepoix.components.passages.vid2r_config import BM25, Vid2rConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving import store


@dataclass(frozen=True)
class WrittenConfig:
    """Passages written by a language model."""

    of: Literal["triples", "captions"] = option("triples", "triples: of question, answer and evidence; captions: of a captioned picture")
    evidence: int = option(3, "most texts of a triple's evidence in its prompt")
    writer: WriterConfig = option(EndpointConfig, "the language model")
    judge: JudgeConfig = option(JudgeConfig, "lengths of prompts, and the rules by which answers are accepted")
    spending: SpendingConfig = option(SpendingConfig, "the budget, and where replies are cached")

    def __post_init__(self) -> None:
        refuse_unknown(self, "written.")
        if self.evidence < 0:
            raise Refused(f"written.evidence is {self.evidence}; give 0 or more")


@dataclass(frozen=True)
class PassagesConfig:
    """The passages that are added for training."""

    kind: Literal["none", "vid2r", "written"] = option(
        "none", "none: no passage; vid2r: of concise answers and their neighbours; written: by a language model"
    )
    vid2r: Vid2rConfig = option(Vid2rConfig, "passages made of concise answers")
    written: WrittenConfig = option(WrittenConfig, "passages written by a language model")

    def __post_init__(self) -> None:
        refuse_unknown(self, "passages.")


def outside(config: PassagesConfig) -> dict[str, str]:
    """The release or model folder that the stage reads besides the corpus, with its fingerprint; refused where it is missing."""
    writer = config.written.writer
    if config.kind == "vid2r" and config.vid2r.retriever != BM25:
        manifest = store.read_manifest(config.vid2r.retriever)
        if manifest is None:
            raise Refused(
                f"vid2r.retriever is {config.vid2r.retriever!r}, and there is no published release; give {BM25} or the folder or URI of one"
            )
        return {"release": manifest.digest}
    return writer.outside() if config.kind == "written" and isinstance(writer, LocalConfig) else {}
