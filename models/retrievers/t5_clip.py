"""What MARVEL and MiMIC share: a T5, the patches of a CLIP vision tower, and a linear layer that projects patches to T5's width.

Shapes: N items, L tokens, V pictures, P patches of a picture, C width of the vision tower, D width of T5.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import LoadedCheckpoint
from mirepoix.models.backbones.clip_temperature import SCALE, published_temperature
from mirepoix.models.backbones.pictures import blank_pixels, patch_count
from mirepoix.models.backbones.plain_tokens import PlainTokens, most_tokens
from mirepoix.models.encoder import Encoder, Overlong, frozen
from mirepoix.models.encoder_config import EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.t5_clip_config import T5ClipConfig


class TokenSequences:
    """Text as T5 reads it: at most `length` tokens, the last of them the end of the text; control tokens in it are split into letters."""

    def __init__(self, tokenizer: Any, length: int):
        self.tokenizer = tokenizer
        self.plain = PlainTokens(tokenizer)
        self.length = length
        self.end = tokenizer.eos_token_id
        # T5's unigram vocabulary holds control tokens too, so `split_special_tokens` alone does not split them. "<unk>" is no structure.
        special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.letters = {
            number: tokenizer.convert_tokens_to_ids(list(token)) for number, token in special.items() if number != tokenizer.unk_token_id
        }

    def __call__(self, text: str) -> list[int]:
        return [*self._spelt(text)[: self.length - 1], self.end]

    def overlong(self, text: str) -> Overlong | None:
        """Whether a text has more tokens than are read, the end of the text among them."""
        if most_tokens(text) < self.length or (tokens := len(self._spelt(text)) + 1) <= self.length:
            return None
        return Overlong(tokens, self.length)

    def _spelt(self, text: str) -> list[int]:
        return [letter for number in self.plain(text) for letter in self.letters.get(number, (number,))]

    def batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Token ids padded at the end, and their attention mask, both [N, L]; at least one column."""
        length = max(1, *map(len, sequences))
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([[*ids, *[pad] * (length - len(ids))] for ids in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in sequences]),
        }


class Projector(torch.nn.Module):
    """From the width of the vision tower to that of T5."""

    def __init__(self, width: int, dimension: int):
        super().__init__()
        self.linear = torch.nn.Linear(width, dimension)

    def forward(self, states_VPC: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.linear(states_VPC)
        return projected


class T5Clip(Encoder):
    """A retriever whose vector is the state of T5's decoder for its start token."""

    config: T5ClipConfig
    text: Any  # a T5Model of transformers
    vision: Any  # a CLIPVisionModel of transformers

    def __init__(self, config: T5ClipConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        for name, part, kind in (("text", text, "t5"), ("vision", vision, "clip_vision_model")):
            if part.model.config.model_type != kind:
                given = part.model.config.model_type
                raise Refused(f"{config.ARCHITECTURE}'s {name} tower is a {kind}, and the checkpoint holds a {given}; give another")
        super().__init__(config, text=text, vision=vision)
        self.projector = Projector(vision.model.config.hidden_size, self.dimension)

    @classmethod
    def build(cls, checkpoints: Mapping[str, Checkpoint], config: EncoderConfig) -> Self:
        """Over a whole CLIP, with the temperature that this was trained with: where training starts if it learns the temperature."""
        encoder = super().build(checkpoints, config)
        if SCALE in encoder.parts["vision"].unread:
            encoder.temperature = published_temperature(checkpoints["vision"])
        return encoder

    @property
    def dimension(self) -> int:
        return int(self.text.config.d_model)

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        """The vision tower without its last norm, which the patches do not go through."""
        vision = torch.nn.ModuleList([self.vision.embeddings, self.vision.pre_layrnorm, self.vision.encoder])
        return {"text": self.text, "vision": vision, "projector": self.projector}

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the states of its pictures' patches in place of their pixels, where the vision tower is frozen."""
        if not frozen(self.vision) or "patch_states" in batch or not ("pixel_values" in batch or self.training):
            return batch
        with torch.no_grad():
            states_VPC = self._patch_states(batch.get("pixel_values"))
        return {name: tensor for name, tensor in batch.items() if name != "pixel_values"} | {"patch_states": states_VPC}

    def patches(self, pixel_values: torch.Tensor | None = None, patch_states: torch.Tensor | None = None) -> torch.Tensor:
        """The pictures' patches in T5's width, [V, P, D], from their pixels or from what `precomputed` made of these.

        Those of a blank picture where there is neither, which is run in training: every rank must run the same modules in every batch.
        """
        states_VPC = self._patch_states(pixel_values) if patch_states is None else patch_states
        patches_VPD: torch.Tensor = self.projector(states_VPC)
        return patches_VPD

    def _patch_states(self, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """States of the vision tower's last layer without that of its class token, [V, P, C]."""
        pictures = blank_pixels(self.vision.config, self.device) if pixel_values is None else pixel_values
        states_VPC: torch.Tensor = self.vision(pictures).last_hidden_state[:, 1:]
        return states_VPC

    def start(self, count: int, device: torch.device) -> torch.Tensor:
        """The decoder's start token, [N, 1]: in T5 it is the padding token."""
        return torch.full((count, 1), self.text.config.pad_token_id, device=device)


def patches_of(vision: LoadedCheckpoint) -> int:
    """How many patches a picture has."""
    return patch_count(vision.model.config)
