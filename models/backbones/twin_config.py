"""The families of published models that have tiny random twins, and the sizes of a twin."""

import math
from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "t5_clip", "bert_clip", "clip", "siglip", "siglip2", "chinese_clip")
SCALED = ("clip", "siglip", "siglip2", "chinese_clip")
"""Those with a scale (`logit_scale`), and so a temperature of their own."""
QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True)
class Tiny:
    """Sizes of a random twin that a CPU trains in minutes."""

    family: str | None = option(None, "family of published models that it is a twin of; null: the retriever's default")
    vocabulary: int = option(1200, "largest vocabulary of the tokenizer that is trained on the corpus")
    hidden_size: int = option(128, "width of the language model or text tower")
    layers: int = option(2, "layers of the language model or text tower; of an encoder-decoder, of each half")
    heads: int = option(4, "attention heads of the language model or text tower; the width of a head must divide by 4")
    intermediate_size: int = option(384, "width of the language model's feed-forward layers")
    vision_depth: int = option(2, "layers of the vision tower")
    vision_width: int = option(96, "width of the vision tower")
    vision_heads: int = option(4, "attention heads of the vision tower")
    patch_size: int = option(14, "pixels along the side of a patch")
    initializer_range: float = option(
        0.05,
        "spread of the random weights, but T5's and all of CLIP's except embeddings go by width; 0.02 trains slowly",
    )
    max_pixels: int = option(56 * 56, "pictures are scaled down to this many pixels; for CLIP to a square of them")

    def __post_init__(self) -> None:
        if self.family not in (None, *FAMILIES):
            raise Refused(f"tiny.family is {self.family!r}; give one of {', '.join(FAMILIES)}, or null")
        if self.hidden_size % (4 * self.heads):
            raise Refused(f"hidden_size {self.hidden_size} with {self.heads} heads; give a hidden_size that is a multiple of 4 x heads")
        if self.vision_width % (4 * self.vision_heads):
            raise Refused(f"vision_width {self.vision_width} with {self.vision_heads} heads; give a multiple of 4 x vision_heads")
        if self.vocabulary < 256 + len(QWEN_TOKENS):
            raise Refused(f"vocabulary {self.vocabulary} is too small; {256 + len(QWEN_TOKENS)} bytes and special tokens must fit")
        if math.isqrt(self.max_pixels) < self.patch_size:
            raise Refused(f"max_pixels {self.max_pixels} with patch_size {self.patch_size}; a picture must hold at least one patch")

    @property
    def side(self) -> int:
        """Pixels along a picture of the one size that a CLIP tower takes."""
        return math.isqrt(self.max_pixels) // self.patch_size * self.patch_size
