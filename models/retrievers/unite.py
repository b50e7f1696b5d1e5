"""UNITE: one multimodal language model encodes everything; the last token of a one-word-summary prompt is the vector.

From the paper's code: e(x) = h_L / |h_L|, where h_1 .. h_L are the last layer's states under causal attention and token L is the
end-of-text of an opened assistant turn; queries and candidates share weights and prompt; positions count tokens ("1d"), though the
backbone has a grid for pictures. A second family of prompts ("raw") does not ask for a word. In both stages the vision tower with its
merger is frozen, and adapters of the language model are trained.

Different from the published code: only words are cut, and at their end, where the code truncates the whole sequence, placeholders of
pictures included; the request names modalities in a fixed order, sentence, image, video, where the code follows the keys of a record;
pictures, then the clip, come before the words, where the code has them wherever a text marks their place. Over a Qwen-VL pictures and
frames are resized once; over UNITE's published weights, and where `resized_twice` and `min_frame_pixels` are set, as its code does. Chosen
here: padding never counts as a position; an instruction comes before the text and adds no modality; a line ends after pictures
(`newline_after_pictures`).

Shapes: B items, L tokens, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.qwen_vl import OneTower, OneTowerCollator, TokenBatch, named
from mirepoix.models.retrievers.unite_config import UniteConfig

SYSTEM = "You are a helpful assistant."


class UniteCollator(OneTowerCollator):
    """Turns each item into one sequence with UNITE's prompt."""

    config: UniteConfig

    def __init__(self, config: UniteConfig, backbone: LoadedCheckpoint):
        super().__init__(config, backbone)
        self.head = self.structure(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        self.tail = self.structure("<|im_end|>\n<|im_start|>assistant\n<|endoftext|>")

    def sequences(self, item: Item, views: Sequence[list[int]]) -> list[list[list[int] | TokenBatch]]:
        text = worded(item, "\n")
        request = f"\nSummary above {named(item.modality)} in one word:" if self.config.prompt == "summary" else ""
        words = TokenBatch("\n" + text if views and text and self.config.newline_after_pictures else text, request)
        return [[self.head, *views, words, self.tail]]


class Unite(OneTower):
    """UNITE over a Qwen-VL model; the same weights encode queries and candidates."""

    PROMPT = f"system\n{SYSTEM}\nuser\nassistant\nSummary above sentence and image in one word:"
    Collator = UniteCollator
    config: UniteConfig

    def __init__(self, config: UniteConfig, model: LoadedCheckpoint):
        super().__init__(config.resolved(model.model.config.architectures or ()), model)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, mm_token_type_ids: torch.Tensor, **vision: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states_BLD = self.states(input_ids, attention_mask, mm_token_type_ids, **vision)
        rows_BD = F.normalize(states_BLD[:, -1].float(), dim=-1)
        return rows_BD[:, None], torch.ones(len(rows_BD), 1, dtype=torch.bool, device=rows_BD.device)
