"""Backbones by name or folder, opened through transformers' own Auto classes, and tiny random twins with the same classes and files."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True)
class TinyQwen2VL:
    """Sizes of a random Qwen2-VL that a CPU trains in minutes."""

    vocabulary: int = option(1200, "most entries of the tokenizer that is trained on the corpus")
    hidden_size: int = option(128, "width of the language model, and of its vectors")
    layers: int = option(2, "layers of the language model")
    heads: int = option(4, "attention heads of the language model; the width of a head must divide by 4")
    intermediate_size: int = option(384, "width of the language model's feed-forward layers")
    vision_depth: int = option(2, "layers of the vision tower")
    vision_width: int = option(96, "width of the vision tower")
    vision_heads: int = option(4, "attention heads of the vision tower")
    patch_size: int = option(14, "pixels along the side of a patch; four patches make one token")
    initializer_range: float = option(0.05, "spread of the random weights; the 0.02 of large models is slow to learn from at this width")
    max_pixels: int = option(56 * 56, "pictures are scaled down to this many pixels")

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.heads):
            raise Refused(f"hidden_size {self.hidden_size} with {self.heads} heads; give a hidden_size that is a multiple of 4 x heads")
        if self.vision_width % (4 * self.vision_heads):
            raise Refused(f"vision_width {self.vision_width} with {self.vision_heads} heads; give a multiple of 4 x vision_heads")
        if self.vocabulary < 256 + len(SPECIAL_TOKENS):
            raise Refused(f"vocabulary {self.vocabulary} is too small; {256 + len(SPECIAL_TOKENS)} bytes and special tokens must fit")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` within the block, as they were after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def make_tiny(folder: Path, texts: Iterable[str], config: TinyQwen2VL, seed: int) -> None:
    """Writes a random Qwen2-VL into `folder`, with a byte-level BPE tokenizer trained on `texts`: the files of a hub checkpoint."""
    from transformers import Qwen2VLConfig, Qwen2VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = _train_tokenizer(texts, config.vocabulary)
    token = tokenizer.convert_tokens_to_ids
    quarter = config.hidden_size // config.heads // 8
    backbone = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "max_position_embeddings": 32768,
            "initializer_range": config.initializer_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [config.hidden_size // config.heads // 2 - 2 * quarter, quarter, quarter],
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|endoftext|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": config.vision_depth,
            "embed_dim": config.vision_width,
            "hidden_size": config.hidden_size,
            "num_heads": config.vision_heads,
            "mlp_ratio": 4,
            "patch_size": config.patch_size,
            "initializer_range": config.initializer_range,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    with _seeded(seed):
        model = Qwen2VLModel(backbone)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The pixel budget's floor is one token's worth of patches, so that a small picture stays small.
    Qwen2VLImageProcessorPil(
        patch_size=config.patch_size, min_pixels=(2 * config.patch_size) ** 2, max_pixels=config.max_pixels
    ).save_pretrained(folder)


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    with quiet():
        model = json.loads(trained.to_str())["model"]
        return Qwen2Tokenizer(
            vocab=model["vocab"],
            merges=[tuple(merge) for merge in model["merges"]],
            additional_special_tokens=list(SPECIAL_TOKENS[1:]),
            model_max_length=32768,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars, and without its notices of what is not needed here (torchvision)."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def open_backbone(name: str | Path, revision: str | None = None) -> tuple[torch.nn.Module, Any, Any]:
    """The model, tokenizer and image processor of a checkpoint folder or hub id; pictures go through Pillow, without torchvision."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        with quiet():
            model, notes = AutoModel.from_pretrained(str(name), revision=revision, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(str(name), revision=revision)
            image_processor = AutoImageProcessor.from_pretrained(str(name), revision=revision, backend="pil")
    except (OSError, ValueError) as error:  # transformers' own refusals: not there, not complete, not of a known kind
        raise Refused(_unusable(name, error)) from error
    absent = sorted(notes["missing_keys"])
    if absent:
        raise Refused(
            f"checkpoint {name} lacks {len(absent)} weights ({', '.join(absent[:3])}, ...): it would be half random; give a complete one"
        )
    return model, tokenizer, image_processor


def _unusable(name: str | Path, error: Exception) -> str:
    if Path(name).is_dir():
        return f"backbone folder {name} cannot be opened: {str(error).splitlines()[0]}; it needs config.json, weights, tokenizer"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return (
        f"backbone {name!r} is neither a folder here nor a model that the hub gave{offline}; give an existing folder, a hub id, or 'tiny'"
    )
