"""Tiny random twins of SigLIP, SigLIP 2 and Chinese-CLIP: the same classes and files, with a tokenizer trained on the corpus."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twin_tokenizers import SIGLIP_LENGTH, bert_tokenizer, siglip2_tokenizer, siglip_tokenizer

SIGLIP2_PATCH = 16  # its processor in transformers reads no other
MOST_PATCHES = 256  # of a picture, as its processor in transformers has it whatever a folder says


def siglip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    """A SigLIP, with a tokenizer of sentencepiece."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = siglip_tokenizer(folder, texts, config.vocabulary)
    text = {**_text(config), "vocab_size": tokenizer.vocab_size, "max_position_embeddings": SIGLIP_LENGTH, "projection_size": None}
    text |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**_vision(config), "hidden_size": config.hidden_size, "intermediate_size": 4 * config.hidden_size, "image_size": config.side}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    side = {"height": config.side, "width": config.side}
    return _saved(folder, model, tokenizer, SiglipImageProcessorPil(size=side))


def siglip2(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    """A SigLIP 2 that reads pictures in their own shape, with Gemma's kind of tokenizer, which pads at the left."""
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    tokenizer = siglip2_tokenizer(texts, config.vocabulary)
    text = {**_text(config), "vocab_size": len(tokenizer), "max_position_embeddings": SIGLIP_LENGTH, "projection_size": config.hidden_size}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = {
        **_vision(config),
        "hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.hidden_size,
        "num_patches": MOST_PATCHES,
    }
    vision["patch_size"] = SIGLIP2_PATCH
    reader = Siglip2ImageProcessorPil(patch_size=SIGLIP2_PATCH, max_num_patches=MOST_PATCHES)
    return _saved(folder, Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), tokenizer, reader)


def chinese_clip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    """A Chinese-CLIP: a BERT for texts, whose first token is the vector, and CLIP's vision tower."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    tokenizer = bert_tokenizer(texts, config.vocabulary)
    text = {**_text(config), "vocab_size": len(tokenizer), "max_position_embeddings": 128, "pad_token_id": tokenizer.pad_token_id}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": config.initializer_range}
    vision = {**_vision(config), "image_size": config.side, "initializer_range": config.initializer_range}
    both = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=config.hidden_size)
    side = {"height": config.side, "width": config.side}
    return _saved(folder, ChineseCLIPModel(both), tokenizer, ChineseCLIPImageProcessorPil(size=side, crop_size=side))


def _text(config: Tiny) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
    }


def _vision(config: Tiny) -> dict[str, Any]:
    return {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_depth,
        "num_attention_heads": config.vision_heads,
        "patch_size": config.patch_size,
    }


def _saved(folder: Path, model: Any, tokenizer: Any, image_processor: Any) -> dict[str, Checkpoint]:
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    return {"model": Checkpoint(folder)}
