"""UniVL-DR: CLIP as it was published; the vector of an item is the sum of those of its picture and its words.

The paper's equations, with CLIP_img and CLIP_txt projected and not normalised:
    query, text document    e = CLIP_txt(words)
    picture document        e = CLIP_img(picture) + CLIP_txt(caption)
    score                   cos(e_query, e_document) / temperature
Stage 1 contrasts with all documents of a batch. Stage 2 is a softmax over a query's positive, one mined picture and one mined text, and
nothing else of the batch (`loss.in_batch=false`, `mine.balanced=true`), and reads captions that carry a generated query
(components/passages/verbalise.py). Both train all of CLIP, and its temperature.

UniIR's CLIP score fusion is this very encoder: e = m_t T(words) + m_v I(picture), with masks of what is there, for queries and documents
alike. Its training differs, and is not implemented here: queries carry instructions, and the only negatives are in-batch. It encodes a
missing modality as a black picture or an empty text, with a mask of 0; here it is left out, and the sum is the same.

The code of both reads text by OpenAI's tokenizer, which repairs it first (models/backbones/clip_text.py); transformers' tokenizer does not.

Chosen here: of several pictures the mean is added, so that a second one does not outweigh the words; an instruction comes before the
text, and is the words of a picture without text; text beyond CLIP's 77 tokens is cut.

Shapes: N items, T items with words, V pictures, L tokens, D width.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.backbones.clip_temperature import temperature_of
from mirepoix.models.backbones.clip_text import clean_text
from mirepoix.models.backbones.pictures import blank_pixels, patch_count, pixels
from mirepoix.models.backbones.plain_tokens import PlainTokens, most_tokens
from mirepoix.models.encoder import Encoder, Overlong, frozen, refuse_unread
from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig

NOBODY = -1  # whose a blank picture is
_PARTS = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}


class UniVLDRCollator:
    """Turns items into token ids and pixels, on the CPU; an item without words is an empty text with an attention mask of 0."""

    def __init__(self, config: UniVLDRConfig, tokenizer: Any, image_processor: Any, patches: int):
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.plain = PlainTokens(tokenizer)
        self.patches = patches

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, UniVLDRConfig)
        texts = [worded(item) for item in items]
        sequences = [self._tokens(text) for text in texts]
        length = max(map(len, sequences))
        pad, counts = self.tokenizer.pad_token_id, [len(ids) if text else 0 for ids, text in zip(sequences, texts, strict=True)]
        return {
            "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids in sequences]),
            "attention_mask": torch.tensor([[1] * count + [0] * (length - count) for count in counts]),
            **pixels(items, self.image_processor),
        }

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item's words, as the attention mask counts them, and the patches of its pictures."""
        items = (*queries, *documents)
        return [(len(self._tokens(text)) if (text := worded(item)) else 0) + self.patches * len(item.images) for item in items]

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        text, limit = worded(item), self.config.max_length
        # Cleaning makes at most 6 bytes of the 5 of an HTML entity.
        if 2 * most_tokens(text) + 2 <= limit or (tokens := len(self._plain(text)) + 2) <= limit:
            return None
        return Overlong(tokens, limit)

    def _tokens(self, text: str) -> list[int]:
        """Ids of a text in which control tokens are split into letters, as CLIP pools at the first end-of-text token."""
        return [self.tokenizer.bos_token_id, *self._plain(text)[: self.config.max_length - 2], self.tokenizer.eos_token_id]

    def _plain(self, text: str) -> list[int]:
        text = clean_text(text) if text and self.config.clean_text else text
        return self.plain(text) if text else []


class UniVLDR(Encoder):
    """UniVL-DR over a CLIP model; the same weights encode queries and documents."""

    config: UniVLDRConfig
    model: Any  # a CLIPModel of transformers
    temperature: float

    def __init__(self, config: UniVLDRConfig, model: LoadedCheckpoint):
        super().__init__(config, model=model)
        if lacks := [part for parts in _PARTS.values() for part in parts if not hasattr(model.model, part)]:
            kind = type(model.model).__name__
            raise Refused(f"the checkpoint ({kind}) has no {', '.join(lacks)}; univldr is built over CLIP: give a checkpoint of it")
        longest = model.model.config.text_config.max_position_embeddings
        if config.max_length > longest:
            raise Refused(f"max_length is {config.max_length}, and the checkpoint reads {longest}; give no more than that")
        self.tokenizer = model.tokenizer
        self.collator = UniVLDRCollator(config, model.tokenizer, model.image_processor, patch_count(model.model.config.vision_config))
        # A buffer, not a parameter: engines that shard parameters take none without a dimension.
        scale = model.model.logit_scale.detach()
        del model.model.logit_scale
        model.model.register_buffer("logit_scale", scale)
        # Where training starts if it learns the temperature; the learned parameter is in `LearnedTemperature`.
        self.temperature = temperature_of(scale)

    def save(self, folder: str | Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Saves as every retriever does, with a learned temperature as CLIP's own scale for readers that open the folder as a CLIP."""
        scale = self.model.logit_scale
        if temperature_of(scale) != self.temperature:
            scale = torch.full_like(scale, -math.log(self.temperature))
        super().save(folder, {**(self.state_dict() if state is None else state), "model.logit_scale": scale})

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {name: torch.nn.ModuleDict({part: getattr(self.model, part) for part in parts}) for name, parts in _PARTS.items()}

    @property
    def dimension(self) -> int:
        return int(self.model.config.projection_dim)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
        picture_vectors: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sums_ND = torch.zeros(len(input_ids), self.dimension, device=input_ids.device)
        worded_N = attention_mask.any(1)
        if worded_N.any():
            text_TD = self._text_vectors(input_ids[worded_N])
            sums_ND = sums_ND.index_put((worded_N,), text_TD)
        elif self.training:
            # Every rank must run the same towers in every micro-batch, or their collectives disagree: an empty text, times zero.
            sums_ND = sums_ND + 0.0 * self._text_vectors(input_ids[:1])
        if owners is not None or self.training:
            picture_VD = self._picture_vectors(pixel_values) if picture_vectors is None else picture_vectors
            owners_V = picture_VD.new_full((1,), NOBODY) if owners is None else owners
            own_NV = owners_V.eq(torch.arange(len(input_ids), device=owners_V.device)[:, None]).float()
            sums_ND = sums_ND + own_NV / own_NV.sum(1, keepdim=True).clamp(min=1) @ picture_VD
        rows_ND = F.normalize(sums_ND, dim=-1)
        return rows_ND[:, None], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device)

    def _text_vectors(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Projected vectors of texts; attention is causal and padding comes after the end, so no mask is needed."""
        text_TD: torch.Tensor = self.model.get_text_features(input_ids).pooler_output.float()
        return text_TD

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the vectors of its pictures in place of their pixels, where the vision tower is frozen."""
        if not frozen(self.towers["vision"]) or "picture_vectors" in batch or not ("owners" in batch or self.training):
            return batch
        with torch.no_grad():
            picture_VD = self._picture_vectors(batch.get("pixel_values"))
        return {name: tensor for name, tensor in batch.items() if name != "pixel_values"} | {"picture_vectors": picture_VD}

    def _picture_vectors(self, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Projected vectors of all pictures, in one call of the tower; of a blank one, which no item has, where there are none.

        In training, as every rank must run the same towers in every batch.
        """
        pictures = blank_pixels(self.model.config.vision_config, self.device) if pixel_values is None else pixel_values
        picture_VD: torch.Tensor = self.model.get_image_features(pictures).pooler_output.float()
        return picture_VD
