"""T5 and CLIP alone, opened from an encoder's folder by transformers' plain classes, and what a training step changes.

Shapes: L tokens, P patches, C width of the vision tower, D width of T5.
"""

import copy
from io import BytesIO

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPVisionModel, T5Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mirepoix.models.encoder import HEAD
from mirepoix.models.item import Item


class Plain:
    """A T5, a CLIP vision tower and a linear layer, with one item at a time and nothing padded."""

    def __init__(self, folder):
        self.t5 = T5Model.from_pretrained(folder / "text").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "text")
        self.clip = CLIPVisionModel.from_pretrained(folder / "vision").eval()
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / "vision")
        head = load_file(folder / HEAD)
        self.weight_DC, self.bias_D = head["projector.linear.weight"], head["projector.linear.bias"]

    def words(self, item: Item) -> str:
        return f"{item.instruction} {item.text}".strip()

    def ids(self, text: str, length: int = 128) -> list[int]:
        """With the end of the text, which T5's tokenizer sets itself."""
        return self.tokenizer(text, truncation=True, max_length=length)["input_ids"]

    def patches(self, item: Item) -> list[torch.Tensor]:
        """Each patch of each picture, in T5's width."""
        patches = []
        for encoded in item.images:
            pixels = self.processor(images=Image.open(BytesIO(encoded)).convert("RGB"), return_tensors="pt")["pixel_values"]
            hidden_states = self.clip(pixels, output_hidden_states=True).hidden_states
            for state_C in hidden_states[-1][0][1:]:
                patches.append(self.weight_DC @ state_C + self.bias_D)
        return patches


def learnt(encoder, tuning, items) -> set[str]:
    """The parameters that one step of a training changes, without weight decay and momentum: those alone that have a gradient."""
    encoder = copy.deepcopy(encoder).tune(tuning)
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    rows_NTD, _ = encoder(**encoder.training_collator(items, items))
    (rows_NTD * torch.randn_like(rows_NTD)).sum().backward()
    optimizer.step()
    return {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}


def of(encoder, *towers: str) -> set[str]:
    """The names of the towers' parameters."""
    own = {id(parameter) for tower in towers for parameter in encoder.towers[tower].parameters()}
    return {name for name, parameter in encoder.named_parameters() if id(parameter) in own}


def still(encoder) -> set[str]:
    """Weights that are trained with T5 and never change: its decoder reads one token, which attends to itself alone, whatever the input."""
    return {
        f"text.decoder.block.{number}.layer.0.SelfAttention.{part}.weight"
        for number in range(encoder.text.config.num_decoder_layers)
        for part in ("q", "k", *(["relative_attention_bias"] if number == 0 else []))
    }


def order(encoder, items) -> list[str]:
    """The modules with weights of their own that a training step over the items runs, forward and back, one after another."""
    ran = []

    def recorder(name):
        def hook(module, given, output):
            ran.append(name)
            if output.requires_grad:
                output.register_hook(lambda _: ran.append(f"{name}, back"))

        return hook

    weighty = [(name, module) for name, module in encoder.named_modules() if any(True for _ in module.parameters(recurse=False))]
    hooks = [module.register_forward_hook(recorder(name)) for name, module in weighty]
    rows_NTD, _ = encoder(**encoder.training_collator(items, items))
    (rows_NTD * torch.randn_like(rows_NTD)).sum().backward()
    for hook in hooks:
        hook.remove()
    return ran
