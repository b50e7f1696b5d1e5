"""MiMIC: words and pictures have separate encoders, and are fused only where one query of T5's decoder attends to both.

With the states of T5's encoder H_t = T5(words) and of CLIP's last layer, the class token's left out, H_v = W CLIP(picture) + b, the
decoder has one position, its start token. In each of its layers that state h, of norm n(h), reads by cross-attention

    fusion "joint"    h + A(n(h); [H_t ; H_v])                one softmax over the states of both
    fusion "sum"      h + A(n(h); H_t) + A(n(h); H_v)         a softmax over each, by the same weights

and e is the last state, made unit. A source that an item does not have is masked. No word ever attends to a patch, or a patch to a word.

In training, the vector of an item with both sources is mixed, with probability p, with that of one source m, text or vision at even odds:

    mix "interpolate"    e <- unit((1 - l) e + l e_m)
    mix "replace"        e <- e_m

with e_m read from the states that are there, the other source masked. Gradients flow through both.

From the abstract, and from what others wrote about the paper: the two encoders, the decoder with its one query, that single sources are
mixed in and captions dropped at random, 128 tokens of text, T5 and CLIP ViT-B/32, and a second round with negatives mined by the model of
the first. Chosen here, as the paper's text was not available: the joint softmax ("sum" is the other reading), both forms of the mix, its
probability and ratio, that patches of several pictures are concatenated, and that all towers are trained; a stage may freeze any. Caption
dropout is an augmentation of the data: `augment.document_captions` and `augment.query_captions` of a training.

Shapes: N items, L tokens, V pictures, P patches of a picture, S states of a source, D width of T5.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.backbones.pictures import pixels
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.encoder import Overlong, refuse_unread
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.mimic_config import MimicConfig, MimicTuning
from mirepoix.models.retrievers.t5_clip import T5Clip, TokenSequences, patches_of


class MimicCollator:
    """Turns items into token ids and pixels, on the CPU; an item without words has no tokens."""

    def __init__(self, config: MimicConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        self.words = TokenSequences(text.tokenizer, config.text_length)
        self.patches = patches_of(vision)
        self.image_processor = vision.image_processor

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, MimicConfig)
        batch = self.words.batch([self._ids(item) for item in items])
        if pictures := pixels(items, self.image_processor):
            batch |= pictures
            batch["places"] = torch.tensor([place for item in items for place in range(len(item.images))])
        return batch

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item's words, as the attention mask counts them, and the patches of its pictures."""
        return [len(self._ids(item)) + self.patches * len(item.images) for item in (*queries, *documents)]

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        text = worded(item)
        return self.words.overlong(text) if text else None

    def _ids(self, item: Item) -> list[int]:
        text = worded(item)
        return self.words(text) if text else []


class DecoderSource(NamedTuple):
    """States of the words, or of the patches, of all items, and a mask that is False on padding."""

    states_NSD: torch.Tensor
    mask_NS: torch.Tensor

    @property
    def present_N(self) -> torch.Tensor:
        return self.mask_NS.any(1)

    def additive_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """The additive attention mask, [N, 1, 1, S]."""
        scores_NS = torch.zeros(self.mask_NS.shape, dtype=dtype, device=self.mask_NS.device)
        return scores_NS.masked_fill(~self.mask_NS, torch.finfo(dtype).min)[:, None, None]

    def only(self, kept_N: torch.Tensor) -> "DecoderSource":
        """The same source, masked entirely for all but the kept items."""
        return DecoderSource(self.states_NSD, self.mask_NS & kept_N[:, None])


class Mimic(T5Clip):
    """MiMIC over a T5 and a CLIP vision tower; the same weights encode queries and documents."""

    config: MimicConfig

    def __init__(self, config: MimicConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        super().__init__(config, text, vision)
        self.collator = MimicCollator(config, text, vision)
        self.tuning = MimicTuning(mix_in=0.0)

    def tune(self, tuning: Tuning) -> Self:
        super().tune(tuning)
        assert isinstance(tuning, MimicTuning)  # any other was refused
        self.tuning = tuning
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        owners: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        **vision: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sources = []
        if self.training or attention_mask.any():
            states_NLD = self.text.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            sources.append(DecoderSource(states_NLD, attention_mask.bool()))
        if owners is not None and places is not None:
            sources.append(self._side_by_side(self.patches(**vision), owners, places, len(input_ids)))
        elif self.training:
            blank_NPD = self.patches(**vision).expand(len(input_ids), -1, -1)
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
        """The normalised state of the decoder's one query over the sources, [N, D]."""
        state_ND = self._summed(sources) if self.config.fusion == "sum" else self._joint(sources)
        return F.normalize(state_ND.float(), dim=-1)

    def _joint(self, sources: Sequence[DecoderSource]) -> torch.Tensor:
        states_NSD = torch.cat([source.states_NSD for source in sources], 1)
        state_ND: torch.Tensor = self.text.decoder(
            input_ids=self.start(len(states_NSD), states_NSD.device),
            encoder_hidden_states=states_NSD,
            encoder_attention_mask=torch.cat([source.mask_NS for source in sources], 1),
            use_cache=False,
        ).last_hidden_state[:, 0]
        return state_ND

    def _summed(self, sources: Sequence[DecoderSource]) -> torch.Tensor:
        """T5's decoder layer by layer, with a cross-attention to each source; those that an item lacks add nothing."""
        decoder, mask_NS = self.text.decoder, sources[0].mask_NS
        state_N1D = decoder.dropout(decoder.embed_tokens(self.start(len(mask_NS), mask_NS.device)))
        bias = None
        for block in decoder.block:
            own, cross, feed = block.layer
            state_N1D, bias, _ = own(state_N1D, position_bias=bias)
            query_N1D = cross.layer_norm(state_N1D)
            fused_N1D = torch.zeros_like(state_N1D)
            for source in sources:
                read_N1D, *_ = cross.EncDecAttention(
                    query_N1D, mask=source.additive_mask(query_N1D.dtype), key_value_states=source.states_NSD
                )
                fused_N1D = fused_N1D + read_N1D * source.present_N[:, None, None]
            state_N1D = feed(state_N1D + cross.dropout(fused_N1D))
        state_ND: torch.Tensor = decoder.dropout(decoder.final_layer_norm(state_N1D))[:, 0]
        return state_ND

    def _mixed(self, rows_ND: torch.Tensor, text: DecoderSource, vision: DecoderSource) -> torch.Tensor:
        """The rows, of which some with both sources are mixed with the row of one source.

        The rows of one source are computed even where none is mixed in, so that every rank runs the same modules.
        """
        drawn_2N = torch.rand(2, len(rows_ND)).to(rows_ND.device)
        mixed_N = (drawn_2N[0] < self.tuning.mix_in) & text.present_N & vision.present_N
        by_text_N = drawn_2N[1] < 0.5
        single_ND = self._read([text.only(by_text_N | ~mixed_N), vision.only(~by_text_N | ~mixed_N)])
        ratio = 1.0 if self.tuning.mix == "replace" else self.tuning.mix_ratio
        share_N1 = ratio * mixed_N[:, None].to(rows_ND.dtype)
        return F.normalize((1 - share_N1) * rows_ND + share_N1 * single_ND, dim=-1)
