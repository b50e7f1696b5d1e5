"""Makes tiny random twins of published checkpoints: the same classes and files, with a tokenizer trained on the corpus."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mirepoix.models.backbones import two_tower_twins
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import quiet, saving
from mirepoix.models.backbones.twin_config import FAMILIES, Tiny
from mirepoix.models.backbones.twin_tokenizers import CLIP_LENGTH, bert_tokenizer, clip_tokenizer, qwen_tokenizer, t5_tokenizer
from mirepoix.models.errors import Refused


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` within the block, as they were after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def make_twin(folder: Path, family: str, texts: Iterable[str], config: Tiny, seed: int) -> dict[str, Checkpoint]:
    """Writes the twin of a family, with random weights from the seed; returns its checkpoints by the names of an encoder's parts."""
    if family not in FAMILIES:
        raise Refused(f"there is no twin of {family!r}; there are {', '.join(FAMILIES)}")
    with seeded(seed), quiet(), saving():
        return _MAKERS[family](Path(folder), texts, config)


def _qwen2_vl(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    vision = {"embed_dim": config.vision_width, "hidden_size": config.hidden_size, "mlp_ratio": 4}
    return _qwen(folder, texts, config, "qwen2_vl", vision=vision)


def _qwen2_5_vl(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    vision = {
        "hidden_size": config.vision_width,
        "out_hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.vision_width,
        "window_size": 2 * config.patch_size,  # each token of a small picture has a window of its own
        "fullatt_block_indexes": [config.vision_depth - 1],
    }
    return _qwen(folder, texts, config, "qwen2_5_vl", vision=vision)


def _qwen3_vl(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    vision = {
        "hidden_size": config.vision_width,
        "out_hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.vision_width,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    text = {"head_dim": config.hidden_size // config.heads}
    half = [0.5, 0.5, 0.5]
    return _qwen(folder, texts, config, "qwen3_vl", vision=vision, text=text, rope={"mrope_interleaved": True}, colours=(half, half))


def _qwen(
    folder: Path,
    texts: Iterable[str],
    config: Tiny,
    family: str,
    *,
    vision: dict[str, Any],
    text: Mapping[str, Any] = MappingProxyType({}),
    rope: Mapping[str, Any] = MappingProxyType({}),
    colours: tuple[list[float], list[float]] | None = None,
) -> dict[str, Checkpoint]:
    """The twin of a Qwen-VL model: the settings that all of them share, and one model's own towers, positions and image normalisation."""
    from transformers import AutoConfig, AutoModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = qwen_tokenizer(texts, config.vocabulary)
    token = tokenizer.convert_tokens_to_ids
    quarter = config.hidden_size // config.heads // 8
    backbone = AutoConfig.for_model(
        family,
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
                **rope,
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|endoftext|>"),
            "pad_token_id": token("<|endoftext|>"),
            **text,
        },
        vision_config={
            "depth": config.vision_depth,
            "num_heads": config.vision_heads,
            "patch_size": config.patch_size,
            "initializer_range": config.initializer_range,
            **vision,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    AutoModel.from_config(backbone).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    normal: dict[str, Any] = dict(zip(("image_mean", "image_std"), colours, strict=True)) if colours else {}
    # The fewest pixels are those of one token, so that a small picture is not enlarged.
    floor = (2 * config.patch_size) ** 2
    Qwen2VLImageProcessorPil(patch_size=config.patch_size, min_pixels=floor, max_pixels=config.max_pixels, **normal).save_pretrained(folder)
    return {"model": Checkpoint(folder)}


def _t5_clip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    from transformers import T5Config, T5Model

    tokenizer = t5_tokenizer(texts, config.vocabulary)
    start: dict[str, Any] = {"decoder_start_token_id": tokenizer.pad_token_id}  # which T5Config reads and does not list
    text = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.hidden_size,
        d_kv=config.hidden_size // config.heads,
        d_ff=config.intermediate_size,
        num_layers=config.layers,
        num_decoder_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **start,
    )
    T5Model(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return {"text": Checkpoint(folder / "text"), "vision": _clip_vision(folder / "vision", config)}


def _bert_clip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer(texts, config.vocabulary)
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(text, add_pooling_layer=False).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return {"text": Checkpoint(folder / "text"), "vision": _clip_vision(folder / "vision", config)}


def _clip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer(texts, config.vocabulary)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": CLIP_LENGTH,
        "initializer_range": config.initializer_range,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    both = CLIPConfig(text_config=text, vision_config=_clip_vision_sizes(config), projection_dim=config.hidden_size)
    CLIPModel(both).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _clip_image_processor(config).save_pretrained(folder)
    return {"model": Checkpoint(folder)}


def _clip_vision(folder: Path, config: Tiny) -> Checkpoint:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**_clip_vision_sizes(config))).save_pretrained(folder)
    _clip_image_processor(config).save_pretrained(folder)
    return Checkpoint(folder)


def _clip_vision_sizes(config: Tiny) -> dict[str, Any]:
    return {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_depth,
        "num_attention_heads": config.vision_heads,
        "image_size": config.side,
        "patch_size": config.patch_size,
        "initializer_range": config.initializer_range,
    }


def _clip_image_processor(config: Tiny) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": config.side}, crop_size={"height": config.side, "width": config.side})


_MAKERS: dict[str, Callable[[Path, Iterable[str], Tiny], dict[str, Checkpoint]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "t5_clip": _t5_clip,
    "bert_clip": _bert_clip,
    "clip": _clip,
    "siglip": two_tower_twins.siglip,
    "siglip2": two_tower_twins.siglip2,
    "chinese_clip": two_tower_twins.chinese_clip,
}
