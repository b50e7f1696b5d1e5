"""The settings of hard-negative mining."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import Missing, read_manifest


@dataclass(frozen=True)
class MineConfig:
    """The settings of hard-negative mining."""

    negatives: int = option(2, "hard negatives of each pair")
    own: Literal["keep", "replace"] = option("keep", "negatives of the source; keep: they come first and count; replace: only mined ones")
    first: int = option(1, "first rank that is used; known answers are not ranked")
    last: int = option(100, "last rank that is used")
    margin: float | None = option(
        0.95, "highest score of a negative, as a share of the positive's (NV-Retriever; a loss has a margin of its own); null: any"
    )
    max_score: float | None = option(None, "highest score of a negative; null: any")
    strategy: Literal["top", "random"] = option("top", "top: the best remaining results; random: drawn from them by seed")
    balanced: bool = option(False, "as many texts as pictures or clips (MARVEL, UniVL-DR), filled up with the other where one is short")
    drop_likely_answers: bool = option(True, "leave out near-duplicates of an answer, and items with the text or the pictures of one")
    release: str | None = option(None, "folder or URI of a release whose encoder and index are used; null: those of this run")
    batch_size: int = option(256, "queries per search", decides=False)
    encode: EmbedConfig = option(EmbedConfig, "how the training queries are encoded")

    def __post_init__(self) -> None:
        for name in ("negatives", "first", "batch_size"):
            if getattr(self, name) < 1:
                raise Refused(f"mine.{name} is {getattr(self, name)}; give 1 or more")
        if self.last < self.first:
            raise Refused(f"mine.last is {self.last} and mine.first {self.first}; give a last rank that is not before the first")
        if self.margin is not None and not 0 < self.margin <= 1:
            raise Refused(
                f"mine.margin is {self.margin}; it is a share of the positive's score, give a number above 0 and up to 1, or null"
            )
        refuse_unknown(self, "mine.")


def fingerprint(release: str) -> str:
    """The digest of a published release; refused where there is none."""
    manifest = read_manifest(release)
    if manifest is None:
        raise Missing(f"mine.release is {release}, and there is no published release; give the folder or URI of one")
    return manifest.digest
