"""JFE: one multimodal language model with joint fusion from the first layer, and its late-fusion control.

From the paper: one tower for queries and candidates of any modality; fusion from the first layer; first adaptation to retrieval, then
instruction tuning; the claim that the gain over late fusion grows with the need to fuse. Attention, pooling, prompt and positions are
not known: they are chosen here, and fields but for the prompt, which is one user turn: instruction, pictures, clip, text, each where
there is one, then the token that ends the turn. With the last layer's states h_1 .. h_L of that sequence,

    joint:  e(x) = p(x) / |p(x)|,  p = h_L (last) or the mean of h_1 .. h_L (mean)
    late:   e(x) = s / |s|,  s = p(pictures, clip) + p(instruction, text), each alone through the same tower, and only where it is there

so that both arms have the same weights, and agree on words alone and on pictures alone; an instruction is words. In both stages the
language model is trained and the vision tower with its merger is frozen (chosen here).

Shapes: N items, S sequences of an item, R sequences of a batch, L tokens of a sequence, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.qwen_vl import OneTower, OneTowerCollator, TokenBatch

_SEQUENCES = {"joint": 1, "late": 2}


class JfeCollator(OneTowerCollator):
    """Turns each item into one user turn; under late fusion into one of pictures and clip, and one of words."""

    config: JfeConfig

    def __init__(self, config: JfeConfig, backbone: LoadedCheckpoint):
        super().__init__(config, backbone)
        self.head = self.structure("<|im_start|>user\n")
        self.tail = self.structure("<|im_end|>")

    def sequences(self, item: Item, views: Sequence[list[int]]) -> list[list[list[int] | TokenBatch]]:
        if self.config.fusion == "joint":
            return [self._turn(item.instruction, views, item.text)]
        words = self._turn(item.instruction, (), item.text) if worded(item) else []
        return [self._turn("", views, "") if views else [], words]

    def _turn(self, instruction: str, views: Sequence[list[int]], text: str) -> list[list[int] | TokenBatch]:
        instruction, text = instruction.strip(), text.strip()
        task = TokenBatch(instruction, "\n" if instruction and (views or text) else "")
        return [self.head, task, *views, TokenBatch("\n" + text if views and text else text), self.tail]


class Jfe(OneTower):
    """JFE over a Qwen-VL model; the same weights encode queries and candidates, in both fusions."""

    PROMPT = "user"
    Collator = JfeCollator
    config: JfeConfig

    @property
    def causal(self) -> bool:
        return self.config.attention == "causal"

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, mm_token_type_ids: torch.Tensor, **vision: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (_SEQUENCES[self.config.fusion], -1)
        ids_NSL, mask_NSL, types_NSL = (part.unflatten(1, shape) for part in (input_ids, attention_mask, mm_token_type_ids))
        real_NS = mask_NSL.any(-1)
        mask_RL = mask_NSL[real_NS]
        states_RLD = self.states(ids_NSL[real_NS], mask_RL, types_NSL[real_NS], **vision).float()
        if self.config.pooling == "last":
            pooled_RD = states_RLD[:, -1]
        else:
            pooled_RD = states_RLD.masked_fill(mask_RL[:, :, None] == 0, 0.0).sum(1) / mask_RL.sum(1, keepdim=True)
        whole_ND = pooled_RD.new_zeros(len(real_NS), self.dimension).index_add(0, real_NS.nonzero()[:, 0], pooled_RD)
        rows_ND = F.normalize(whole_ND, dim=-1)
        return rows_ND[:, None], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device)
