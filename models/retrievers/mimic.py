"""MiMIC: words and pictures are read by encoders of their own, and meet only where one query of T5's decoder attends to both.

With the states of T5's encoder H_t = T5(words) and of CLIP's last layer, the class token's left out, H_v = W CLIP(picture) + b, the
decoder has one position, its start token. In each of its layers that state h, of norm n(h), reads by cross-attention

    fusion "joint"    h + A(n(h); [H_t ; H_v])                one softmax over the states of both
    fusion "sum"      h + A(n(h); H_t) + A(n(h); H_v)         a softmax over each, by the same weights

and e is the last state, made unit. A source that an item does not have is left out. No word ever attends to a patch, or a patch to a word.

In training, an item of both sources is with probability p mixed with itself seen through one source m, text or vision with even chances:

    mix "interpolate"    e <- unit((1 - l) e + l e_m)
    mix "replace"        e <- e_m

with e_m read from the states that are there, the other source masked. Gradients flow through both.

From the abstract, and what others noted of the paper: the two encoders, the decoder with its one query, that single sources are mixed in
and captions dropped at random, 128 tokens of text, T5 and CLIP ViT-B/32, and a second round with negatives that the model of the first
finds. Chosen here, as the paper's text was not at hand: the joint softmax ("sum" is the other reading), both forms of the mix, its
probability and ratio, patches of several pictures beside each other, and that all towers learn; a stage may freeze any. Caption dropout is
a step of the data: `augment.document_captions` and `augment.query_captions` of a training.

Shapes: N items, L tokens, V pictures, P patches of a picture, S states of a source, D width of T5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.backbones.pictures import seen
from mirepoix.models.backbones.tuning import Lora, Tuning
from mirepoix.models.encoder import EncoderConfig, refuse_unread
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, worded
from mirepoix.models.options import option, refuse_unknown
from mirepoix.models.retrievers.t5_clip import T5Clip, TokenSequences, refuse_short


@dataclass(frozen=True)
class MimicConfig(EncoderConfig):
    """How MiMIC reads an item."""

    fusion: Literal["joint", "sum"] = option(
        "joint", "the decoder attends to words and patches in one softmax (joint), or in one each, added (sum)"
    )
    text_length: int = option(128, "most tokens of an item's text, the end among them; patches are never cut")

    def __post_init__(self) -> None:
        refuse_unknown(self)
        refuse_short("text_length", self.text_length)


@dataclass(frozen=True)
class MimicTuning(Tuning):
    """A stage of MiMIC's training."""

    towers: tuple[str, ...] = option(("text", "vision", "projector"), "towers that learn; the others are frozen; all: chosen here")
    lora: Lora | None = option(None, "they learn through adapters; null: in full")
    mix_in: float = option(0.2, "share of the items with words and pictures whose vector is mixed with that of one of these; chosen here")
    mix: Literal["interpolate", "replace"] = option(
        "interpolate", "it is drawn towards that of one source (interpolate), or replaced by it (replace)"
    )
    mix_ratio: float = option(0.5, "how far interpolate draws it, from 0 to 1; chosen here")

    def __post_init__(self) -> None:
        refuse_unknown(self, "tuning.")
        for name in ("mix_in", "mix_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"tuning.{name} is {getattr(self, name)}; it is a share, give a number from 0 to 1")


class MimicCollator:
    """Items to token ids and pixels, on the CPU; an item without words has no tokens."""

    def __init__(self, config: MimicConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        self.words = TokenSequences(text.tokenizer, config.text_length)
        self.image_processor = vision.image_processor

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, Mimic.READS, Mimic.architecture)
        texts = [worded(item) for item in items]
        batch = self.words.batch([self.words(text) if text else [] for text in texts])
        if pictures := seen(items, self.image_processor):
            batch |= pictures
            batch["places"] = torch.tensor([place for item in items for place in range(len(item.images))])
        return batch


class DecoderSource(NamedTuple):
    """States of the words, or of the patches, of all items, and which of them are there."""

    states_NSD: torch.Tensor
    mask_NS: torch.Tensor

    @property
    def here_N(self) -> torch.Tensor:
        return self.mask_NS.any(1)

    def barred(self, dtype: torch.dtype) -> torch.Tensor:
        """What is added to an attention's scores so that only what is there is read, [N, 1, 1, S]."""
        scores_NS = torch.zeros(self.mask_NS.shape, dtype=dtype, device=self.mask_NS.device)
        return scores_NS.masked_fill(~self.mask_NS, torch.finfo(dtype).min)[:, None, None]

    def of(self, kept_N: torch.Tensor) -> "DecoderSource":
        """For the kept items alone; the others have none of it."""
        return DecoderSource(self.states_NSD, self.mask_NS & kept_N[:, None])


class Mimic(T5Clip):
    """MiMIC over a T5 and a CLIP vision tower; the same weights encode queries and documents."""

    architecture = "mimic"
    Config = MimicConfig
    Tuning = MimicTuning

    def __init__(self, config: MimicConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        super().__init__(config, text, vision)
        self.collator = MimicCollator(config, text, vision)
        self.tuning = MimicTuning(mix_in=0.0)

    def tune(self, tuning: MimicTuning) -> "Mimic":
        super().tune(tuning)
        self.tuning = tuning
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sources = []
        if self.training or attention_mask.any():
            states_NLD = self.text.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            sources.append(DecoderSource(states_NLD, attention_mask.bool()))
        if pixel_values is not None:
            sources.append(self._side_by_side(self.patches(pixel_values), owners, places, len(input_ids)))
        elif self.training:
            blank_NPD = self.patches(self.blank(input_ids.device)).expand(len(input_ids), -1, -1)
            sources.append(DecoderSource(blank_NPD, blank_NPD.new_zeros(blank_NPD.shape[:2], dtype=torch.bool)))
        rows_ND = self._read(sources)
        if self.training and self.tuning.mix_in:
            rows_ND = self._mixed(rows_ND, *sources)
        return rows_ND[:, None], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device)

    @staticmethod
    def _side_by_side(patches_VPD: torch.Tensor, owners_V: torch.Tensor, places_V: torch.Tensor, count: int) -> DecoderSource:
        """Each item's patches, picture after picture."""
        size, most = patches_VPD.shape[1], int(places_V.max()) + 1
        states_NKPD = patches_VPD.new_zeros(count, most, *patches_VPD.shape[1:])
        states_NKPD[owners_V, places_V] = patches_VPD
        mask_NK = torch.zeros(count, most, dtype=torch.bool, device=patches_VPD.device)
        mask_NK[owners_V, places_V] = True
        return DecoderSource(states_NKPD.flatten(1, 2), mask_NK.repeat_interleave(size, 1))

    def _read(self, sources: Sequence[DecoderSource]) -> torch.Tensor:
        """What the decoder's one query makes of the sources, unit, [N, D]."""
        state_ND = self._summed(sources) if self.config.fusion == "sum" else self._joint(sources)
        return F.normalize(state_ND.float(), dim=-1)

    def _joint(self, sources: Sequence[DecoderSource]) -> torch.Tensor:
        states_NSD = torch.cat([source.states_NSD for source in sources], 1)
        return self.text.decoder(
            input_ids=self.start(len(states_NSD), states_NSD.device),
            encoder_hidden_states=states_NSD,
            encoder_attention_mask=torch.cat([source.mask_NS for source in sources], 1),
            use_cache=False,
        ).last_hidden_state[:, 0]

    def _summed(self, sources: Sequence[DecoderSource]) -> torch.Tensor:
        """T5's decoder, its layers one by one, with an attention to each source; absent ones add nothing."""
        decoder, mask_NS = self.text.decoder, sources[0].mask_NS
        state_N1D = decoder.dropout(decoder.embed_tokens(self.start(len(mask_NS), mask_NS.device)))
        bias = None
        for block in decoder.block:
            own, cross, feed = block.layer
            state_N1D, bias, _ = own(state_N1D, position_bias=bias)
            asked_N1D = cross.layer_norm(state_N1D)
            found_N1D = torch.zeros_like(state_N1D)
            for source in sources:
                read_N1D, *_ = cross.EncDecAttention(asked_N1D, mask=source.barred(asked_N1D.dtype), key_value_states=source.states_NSD)
                found_N1D = found_N1D + read_N1D * source.here_N[:, None, None]
            state_N1D = feed(state_N1D + cross.dropout(found_N1D))
        return decoder.dropout(decoder.final_layer_norm(state_N1D))[:, 0]

    def _mixed(self, rows_ND: torch.Tensor, text: DecoderSource, vision: DecoderSource) -> torch.Tensor:
        """Rows of items with both sources, some of them drawn towards what one source alone makes.

        It is read whatever was drawn, so that every rank runs the same modules.
        """
        drawn_2N = torch.rand(2, len(rows_ND)).to(rows_ND.device)
        mixed_N = (drawn_2N[0] < self.tuning.mix_in) & text.here_N & vision.here_N
        by_text_N = drawn_2N[1] < 0.5
        single_ND = self._read([text.of(by_text_N | ~mixed_N), vision.of(~by_text_N | ~mixed_N)])
        ratio = 1.0 if self.tuning.mix == "replace" else self.tuning.mix_ratio
        share_N1 = ratio * mixed_N[:, None].to(rows_ND.dtype)
        return F.normalize((1 - share_N1) * rows_ND + share_N1 * single_ND, dim=-1)
