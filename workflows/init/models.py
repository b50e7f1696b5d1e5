"""Published models that `init` proposes: their sizes, which are those of their config.json, and what follows from these.

Parameters, download and operations are computed, not copied; a test compares them with those of transformers' own classes. Licences are
those of the model's page, or of the code that it was published with where the page names none.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tower:
    """One transformer: as its config.json has it."""

    layers: int
    width: int
    inner: int  # width of its feed-forward layers
    heads: int
    tokens: int  # that it reads of one item: patches and a class token, or the most of a text
    vocabulary: int = 0
    patch: int = 0  # pixels of a side

    @property
    def operations(self) -> float:
        """Multiplications and additions for one item of full length: the linear layers, attention, and the cutting into patches."""
        linear = 2 * self.tokens * (4 * self.width**2 + 2 * self.width * self.inner)
        attention = 4 * self.tokens**2 * self.width
        return self.layers * (linear + attention) + 2 * self.tokens * 3 * self.patch**2 * self.width

    def activation_bytes(self, items: int) -> float:
        """What a backward pass keeps of so many items in float32: twice the float16 bytes of Korthikanti et al. (2022), section 4."""
        each = self.tokens * self.width * (34 + 5 * self.heads * self.tokens / self.width)
        return 2.0 * items * self.layers * each


@dataclass(frozen=True)
class Model:
    """A published model."""

    id: str
    parameters: int
    text: Tower
    vision: Tower | None
    reads: str  # what it is for, in words
    licence: str
    vector: int  # width
    files: int = 1  # copies of the weights that a download has
    padded: bool = False  # whether every text is padded to the full length, and not to the longest of its batch

    @property
    def bytes(self) -> int:
        """Of its weights, which are published in float32."""
        return 4 * self.parameters

    @property
    def download(self) -> int:
        return self.files * self.bytes

    def text_operations(self, tokens: float) -> float:
        """Multiplications and additions for one text of a batch whose longest has so many tokens."""
        return self.text.operations if self.padded else replace(self.text, tokens=min(self.text.tokens, max(1, round(tokens)))).operations


CLIP_TEXT = Tower(12, 512, 2048, 8, 77, 49408)
CLIP_B32 = Model(
    "openai/clip-vit-base-patch32",
    151_277_313,
    CLIP_TEXT,
    Tower(12, 768, 3072, 12, 50, patch=32),
    "pictures and English texts",
    "MIT (OpenAI's repository)",
    512,
)
CLIP_L14 = Model(
    "openai/clip-vit-large-patch14",
    427_616_513,
    Tower(12, 768, 3072, 12, 77, 49408),
    Tower(24, 1024, 4096, 16, 257, patch=14),
    "pictures and English texts; better, and slower",
    "MIT (OpenAI's repository)",
    768,
)
SIGLIP_MULTILINGUAL = Model(
    "google/siglip-base-patch16-256-multilingual",
    370_626_050,
    Tower(12, 768, 3072, 12, 64, 250_000),
    Tower(12, 768, 3072, 12, 256, patch=16),
    "pictures and texts in many languages",
    "Apache-2.0",
    768,
    padded=True,
)
CHINESE_CLIP = Model(
    "OFA-Sys/chinese-clip-vit-base-patch16",
    188_262_913,
    Tower(12, 768, 3072, 12, 52, 21_128),
    Tower(12, 768, 3072, 12, 197, patch=16),
    "pictures and Chinese texts",
    "MIT (its repository)",
    512,
    files=2,  # a checkpoint of its own code lies beside that of transformers
)
MINILM = Model(
    "sentence-transformers/all-MiniLM-L6-v2",
    22_713_216,
    Tower(6, 384, 1536, 12, 256, 30_522),
    None,
    "English texts alone",
    "Apache-2.0",
    384,
)
MINILM_MULTILINGUAL = Model(
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    117_653_760,
    Tower(12, 384, 1536, 12, 128, 250_037),
    None,
    "texts alone, in many languages",
    "Apache-2.0",
    384,
)
MODELS = (CLIP_B32, CLIP_L14, SIGLIP_MULTILINGUAL, CHINESE_CLIP, MINILM, MINILM_MULTILINGUAL)
LIBRARY = "sentence_transformers"
"""The module that opens the models of texts alone; an extra."""
