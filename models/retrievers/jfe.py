"""JFE: one multimodal language model, in which pictures and words meet from the first layer on; and the arm in which they do not.

From the paper: one tower for queries and candidates of any modality; fusion from the first layer; first adaptation to retrieval, then
instruction tuning; the claim that the gain over late fusion grows with the need to fuse. Attention, pooling, prompt and positions are
not known: they are chosen here, and fields but for the prompt, which is one user turn: instruction, pictures, clip, text, each where
there is one, then the token that ends the turn. With the last layer's states h_1 .. h_L of that sequence,

    joint:  e(x) = p(x) / |p(x)|,  p = h_L (last) or the mean of h_1 .. h_L (mean)
    late:   e(x) = s / |s|,  s = p(pictures, clip) + p(instruction, text), each alone through the same tower, and only where it is there

so that both arms have the same weights, and agree on words alone and on pictures alone; an instruction is words. In both stages the
language model learns and the vision tower with its merger is frozen (chosen here).

Shapes: N items, S sequences of an item, R sequences of a batch, L tokens of a sequence, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.item import Item, worded
from mirepoix.models.options import option
from mirepoix.models.retrievers.qwen_vl import OneTower, OneTowerCollator, OneTowerConfig, TokenBatch, View

_SEQUENCES = {"joint": 1, "late": 2}


@dataclass(frozen=True)
class JfeConfig(OneTowerConfig):
    """How JFE reads an item; all chosen here."""

    attention: Literal["causal", "bidirectional"] = option("causal", "causal: a token attends to those before it; bidirectional: to all")
    pooling: Literal["last", "mean"] = option("last", "last: the state of the token that ends the turn; mean: of all tokens")
    fusion: Literal["joint", "late"] = option("joint", "joint: one sequence; late, the control: pictures and words apart, vectors summed")


class JfeCollator(OneTowerCollator):
    """Items as one user turn; under late fusion as one for what is seen, and one for what is said."""

    def __init__(self, config: JfeConfig, backbone: LoadedCheckpoint):
        super().__init__(config, backbone)
        self.head = self.structure("<|im_start|>user\n")
        self.tail = self.structure("<|im_end|>")

    def sequences(self, item: Item, views: Sequence[View]) -> list[list[list[int] | TokenBatch]]:
        if self.config.fusion == "joint":
            return [self._turn(item.instruction, views, item.text)]
        said = self._turn(item.instruction, (), item.text) if worded(item) else []
        return [self._turn("", views, "") if views else [], said]

    def _turn(self, instruction: str, views: Sequence[View], text: str) -> list[list[int] | TokenBatch]:
        instruction, text = instruction.strip(), text.strip()
        asked = TokenBatch(instruction, "\n" if instruction and (views or text) else "")
        return [self.head, asked, *(view.ids for view in views), TokenBatch("\n" + text if views and text else text), self.tail]


class Jfe(OneTower):
    """JFE over a Qwen-VL model; the same weights encode queries and candidates, what is seen and what is said."""

    architecture = "jfe"
    PROMPT = "user"
    Config = JfeConfig
    Collator = JfeCollator

    @property
    def causal(self) -> bool:
        return self.config.attention == "causal"

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, mm_token_type_ids: torch.Tensor, **seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (_SEQUENCES[self.config.fusion], -1)
        ids_NSL, mask_NSL, types_NSL = (told.unflatten(1, shape) for told in (input_ids, attention_mask, mm_token_type_ids))
        there_NS = mask_NSL.any(-1)
        mask_RL = mask_NSL[there_NS]
        states_RLD = self.states(ids_NSL[there_NS], mask_RL, types_NSL[there_NS], **seen).float()
        if self.config.pooling == "last":
            pooled_RD = states_RLD[:, -1]
        else:
            pooled_RD = states_RLD.masked_fill(mask_RL[:, :, None] == 0, 0.0).sum(1) / mask_RL.sum(1, keepdim=True)
        whole_ND = pooled_RD.new_zeros(len(there_NS), self.dimension).index_add(0, there_NS.nonzero()[:, 0], pooled_RD)
        rows_ND = F.normalize(whole_ND, dim=-1)
        return rows_ND[:, None], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device)
