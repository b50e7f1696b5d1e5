"""UniVL-DR: CLIP as it was published, and an item is the sum of its picture's and its words' vectors.

The paper's equations, with CLIP_img and CLIP_txt projected and not normalised:
    query, text document    e = CLIP_txt(words)
    picture document        e = CLIP_img(picture) + CLIP_txt(caption)
    score                   cos(e_query, e_document) / temperature
Stage 1 contrasts with all documents of a batch. Stage 2 is a softmax over a query's positive, one mined picture and one mined text, and
nothing else of the batch (`loss.in_batch=false`, `mine.balanced=true`), and reads captions that carry a generated query
(components/passages/verbalise.py). Both train all of CLIP, and its temperature.

UniIR's CLIP score fusion is this very encoder: e = m_t T(words) + m_v I(picture), with masks of what is there, for queries and documents
alike. What it trains differently is not in here: queries carry instructions, and a batch's other documents are the only negatives. It feeds
a modality that is missing as a black picture or an empty text, with a mask of 0; here it is left out, and the sum is the same.

Chosen here: of several pictures the mean is added, so that a second one does not outweigh the words; an instruction is read before the
text, and is what a picture without text has of words; text beyond CLIP's 77 tokens is cut.

Shapes: N items, T items with words, V pictures, L tokens, D width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import Kind, LoadedCheckpoint
from mirepoix.models.backbones.pictures import seen
from mirepoix.models.encoder import Encoder, EncoderConfig, refuse_unread
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, worded
from mirepoix.models.options import option

LOWEST_TEMPERATURE = 0.01  # CLIP bounds its scale by 100
_PARTS = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}


@dataclass(frozen=True)
class UniVLDRConfig(EncoderConfig):
    """How UniVL-DR reads an item."""

    max_length: int = option(77, "most tokens of an item's words, its ends included; only text is cut")

    def __post_init__(self) -> None:
        if not self.max_length >= 3:
            raise Refused(f"max_length is {self.max_length}; give 3 or more: a beginning, a word, an end")


class UniVLDRCollator:
    """Items to token ids and pixels, on the CPU; an item without words is an empty text that its attention mask leaves out."""

    def __init__(self, config: UniVLDRConfig, tokenizer: Any, image_processor: Any):
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, UniVLDR.READS, UniVLDR.architecture)
        texts = [worded(item) for item in items]
        sequences = [self._tokens(text) for text in texts]
        length = max(map(len, sequences))
        pad, counts = self.tokenizer.pad_token_id, [len(ids) if text else 0 for ids, text in zip(sequences, texts, strict=True)]
        return {
            "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids in sequences]),
            "attention_mask": torch.tensor([[1] * count + [0] * (length - count) for count in counts]),
            **seen(items, self.image_processor),
        }

    def _tokens(self, text: str) -> list[int]:
        """Ids of a text in which control tokens are only letters: the first end of a text is where CLIP pools."""
        ids = self.tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"] if text else []
        return [self.tokenizer.bos_token_id, *ids[: self.config.max_length - 2], self.tokenizer.eos_token_id]


class UniVLDR(Encoder):
    """UniVL-DR over a CLIP model; the same weights encode queries and documents."""

    architecture = "univldr"
    TOWERS = tuple(_PARTS)
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"model": "multimodal"}
    FAMILIES = ("clip",)
    READS = Modality.TEXT | Modality.IMAGE
    Config = UniVLDRConfig

    def __init__(self, config: UniVLDRConfig, model: LoadedCheckpoint):
        super().__init__(config, model=model)
        if lacks := [part for parts in _PARTS.values() for part in parts if not hasattr(model.model, part)]:
            kind = type(model.model).__name__
            raise Refused(f"the checkpoint ({kind}) has no {', '.join(lacks)}; univldr is built over CLIP: give a checkpoint of it")
        told = model.model.config.text_config
        if config.max_length > told.max_position_embeddings:
            raise Refused(
                f"max_length is {config.max_length}, and the checkpoint reads {told.max_position_embeddings}; give no more than that"
            )
        self.tokenizer = model.tokenizer
        self.collator = UniVLDRCollator(config, model.tokenizer, model.image_processor)
        # CLIP's own scale is no parameter here: an engine that shards them takes none without a dimension.
        scale = model.model.logit_scale.detach()
        del model.model.logit_scale
        model.model.register_buffer("logit_scale", scale)
        # What training goes on from, if it learns the temperature; what it learns is the trainer's.
        self.temperature = temperature_of(scale)

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """As every retriever is; a temperature that was learnt is CLIP's own scale to whoever opens the folder as a CLIP."""
        scale = self.model.logit_scale
        if temperature_of(scale) != self.temperature:
            scale = torch.full_like(scale, -math.log(self.temperature))
        super().save(folder, {**(self.state_dict() if state is None else state), "model.logit_scale": scale})

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {name: torch.nn.ModuleDict({part: getattr(self.model, part) for part in parts}) for name, parts in _PARTS.items()}

    @property
    def dimension(self) -> int:
        return self.model.config.projection_dim

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sums_ND = torch.zeros(len(input_ids), self.dimension, device=input_ids.device)
        worded_N = attention_mask.any(1)
        if worded_N.any():
            told_TD = self._read(input_ids[worded_N])
            sums_ND = sums_ND.index_put((worded_N,), told_TD)
        elif self.training:
            # Every rank must run the same towers in every micro-batch, or their collectives disagree: an empty text, times zero.
            sums_ND = sums_ND + 0.0 * self._read(input_ids[:1])
        if pixel_values is not None:
            seen_VD = self._look(pixel_values)
            own_NV = (owners == torch.arange(len(input_ids), device=owners.device)[:, None]).float()
            sums_ND = sums_ND + own_NV / own_NV.sum(1, keepdim=True).clamp(min=1) @ seen_VD
        elif self.training:
            vision = self.model.config.vision_config
            blank = torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size, device=input_ids.device)
            sums_ND = sums_ND + 0.0 * self._look(blank)
        rows_ND = F.normalize(sums_ND, dim=-1)
        return rows_ND[:, None], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device)

    def _read(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Projected vectors of texts; attention is causal and padding stands behind the end, so that nothing needs a mask."""
        return self.model.get_text_features(input_ids).pooler_output.float()

    def _look(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Projected vectors of pictures, in one call of the tower."""
        return self.model.get_image_features(pixel_values).pooler_output.float()


def temperature_of(scale: torch.Tensor) -> float:
    """What CLIP's own scale, the logarithm of one over it, tells of the temperature."""
    return max(LOWEST_TEMPERATURE, math.exp(-scale.item()))
