"""What MARVEL and MiMIC are both built over: a T5, the patches of a CLIP vision tower, and a linear layer from their width to its own.

Shapes: N items, L tokens, V pictures, P patches of a picture, C width of the vision tower, D width of T5.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from mirepoix.models.backbones.checkpoints import Kind, LoadedCheckpoint
from mirepoix.models.encoder import Encoder, EncoderConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

SHORTEST = 2  # a token of text, and the end


class TokenSequences:
    """Text as T5 reads it: at most `length` tokens, the last of them the end of the text; control tokens in it are only letters."""

    def __init__(self, tokenizer: Any, length: int):
        self.tokenizer = tokenizer
        self.length = length
        self.end = tokenizer.eos_token_id
        # T5's vocabulary of words holds control tokens too, so splitting these off as special ones is not enough. "<unk>" is no structure.
        special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.letters = {
            number: tokenizer.convert_tokens_to_ids(list(token)) for number, token in special.items() if number != tokenizer.unk_token_id
        }

    def __call__(self, text: str) -> list[int]:
        ids = self.tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        spelt = [letter for number in ids for letter in self.letters.get(number, (number,))]
        return [*spelt[: self.length - 1], self.end]

    def batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Token ids side by side, padded at the end, [N, L], and which of them are real; at least one column."""
        length = max(1, *map(len, sequences))
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([[*ids, *[pad] * (length - len(ids))] for ids in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in sequences]),
        }


def refuse_short(name: str, length: int) -> None:
    """Refuses a budget of tokens that no text fits in."""
    if not length >= SHORTEST:
        raise Refused(f"{name} is {length}; give at least {SHORTEST}: a token of text, and the end")


class Projector(torch.nn.Module):
    """From the width of the vision tower to that of T5."""

    def __init__(self, width: int, dimension: int):
        super().__init__()
        self.linear = torch.nn.Linear(width, dimension)

    def forward(self, states_VPC: torch.Tensor) -> torch.Tensor:
        return self.linear(states_VPC)


class T5Clip(Encoder):
    """A retriever whose vector is the state that T5's decoder has for its start token alone."""

    TOWERS = ("text", "vision", "projector")
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"text": "text", "vision": "vision"}
    FAMILIES = ("t5_clip",)
    READS = Modality.TEXT | Modality.IMAGE

    def __init__(self, config: EncoderConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        for name, part, kind in (("text", text, "t5"), ("vision", vision, "clip_vision_model")):
            if part.model.config.model_type != kind:
                given = part.model.config.model_type
                raise Refused(f"{self.architecture}'s {name} tower is a {kind}, and the checkpoint holds a {given}; give another")
        super().__init__(config, text=text, vision=vision)
        self.projector = Projector(vision.model.config.hidden_size, self.dimension)

    @property
    def dimension(self) -> int:
        return self.text.config.d_model

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        """The vision tower without its last norm, which the patches do not go through."""
        vision = torch.nn.ModuleList([self.vision.embeddings, self.vision.pre_layrnorm, self.vision.encoder])
        return {"text": self.text, "vision": vision, "projector": self.projector}

    def patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The pictures' patches in T5's width, [V, P, D]: states of the vision tower's last layer without that of its class token."""
        states_VPC = self.vision(pixel_values).last_hidden_state[:, 1:]
        return self.projector(states_VPC)

    def blank(self, device: torch.device) -> torch.Tensor:
        """A picture of nothing, run in training where there is none: every rank must run the same modules in every micro-batch."""
        told = self.vision.config
        return torch.zeros(1, told.num_channels, told.image_size, told.image_size, device=device)

    def start(self, count: int, device: torch.device) -> torch.Tensor:
        """What the decoder begins with, [N, 1]: of T5 that is the padding token."""
        return torch.full((count, 1), self.text.config.pad_token_id, device=device)


def patches_of(vision: LoadedCheckpoint) -> int:
    """How many patches a picture has."""
    told = vision.model.config
    return (told.image_size // told.patch_size) ** 2
