"""The temperature that a CLIP was trained with: its logit_scale is the logarithm of the temperature's inverse.

It is read as it is. CLIP's own training kept the scale at 100 or below, but neither its public code nor that of MARVEL, UniVL-DR and UniIR,
which train it on, bounds it.
"""

import math
from typing import Any

import torch

from mirepoix.models.backbones.adapter import adapter_folder, base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import quiet

SCALE = "logit_scale"


def temperature_of(scale: torch.Tensor) -> float:
    """The temperature of CLIP's scale."""
    return math.exp(-scale.item())


def published_temperature(checkpoint: Checkpoint) -> float | None:
    """The temperature of a CLIP's checkpoint, or of the one under an adapter; None where it has none. No other weight is loaded."""
    if (adapter := adapter_folder(checkpoint)) is not None:
        return published_temperature(base_of(checkpoint, adapter))
    from transformers import AutoConfig, PreTrainedModel

    class Scale(PreTrainedModel):
        def __init__(self, config: Any):
            super().__init__(config)
            self.logit_scale = torch.nn.Parameter(torch.zeros(()))
            finish: Any = self.post_init  # transformers gives it no types
            finish()

    pinned: dict[str, Any] = {"revision": checkpoint.revision}
    load: Any = Scale.from_pretrained  # with `output_loading_info` it returns two values, which its annotation leaves out
    with quiet():
        config = AutoConfig.from_pretrained(str(checkpoint.name), trust_remote_code=checkpoint.trust_remote_code, **pinned)
        scale, notes = load(str(checkpoint.name), config=config, dtype=torch.float32, output_loading_info=True, **pinned)
    return None if SCALE in notes["missing_keys"] else temperature_of(scale.logit_scale.detach())
