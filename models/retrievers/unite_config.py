"""How UNITE reads an item."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, Self

from mirepoix.models.options import option
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig

PUBLISHED = "UniteQwen2VL"
"""The model's class in the config.json of UNITE's published weights."""
FEWEST, MOST = 256 * 28 * 28, 1280 * 28 * 28
"""Pixels of a picture as UNITE was trained, and the fewest of a clip's frame."""


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
    resized_twice: bool | None = option(
        None,
        "a picture is resized to whole tokens near its size, and then within min_pixels and max_pixels, as in UNITE's code; false: once; "
        "null: as the checkpoint: twice where its config.json names UniteQwen2VL, and then min_pixels, max_pixels and min_frame_pixels, "
        "where they are null, are UNITE's too (256, 1280 and 256 x 28 x 28); once over any other",
    )

    def resolved(self, architectures: Collection[str]) -> Self:
        """The config with what `resized_twice` leaves to the checkpoint; `architectures` are the classes that its config.json names."""
        if self.resized_twice is not None:
            return self
        if PUBLISHED not in architectures:
            return replace(self, resized_twice=False)
        most = self.max_pixels or max(MOST, self.min_pixels or 0, self.min_frame_pixels or 0)
        fewest = min(FEWEST, most)
        return replace(
            self,
            resized_twice=True,
            max_pixels=most,
            min_pixels=self.min_pixels or fewest,
            min_frame_pixels=self.min_frame_pixels or fewest,
        )
