"""Makes tiny random twins of published checkpoints: the same classes and files, with a tokenizer trained on the corpus."""

import contextlib
import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import quiet, without_library
from mirepoix.models.backbones.twin_config import FAMILIES, QWEN_TOKENS, Tiny
from mirepoix.models.errors import Refused

CLIP_TOKENS = ("<|startoftext|>", "<|endoftext|>")
BERT_TOKENS = ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
T5_TOKENS = ("<pad>", "</s>", "<unk>")
SIGNS = string.ascii_letters + string.digits + string.punctuation
CLIP_LENGTH = 77


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
    with seeded(seed), quiet(), without_library("deepspeed"):
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

    tokenizer = _qwen_tokenizer(texts, config.vocabulary)
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

    tokenizer = _t5_tokenizer(texts, config.vocabulary)
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

    tokenizer = _bert_tokenizer(texts, config.vocabulary)
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

    tokenizer = _clip_tokenizer(texts, config.vocabulary)
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
}


def _qwen_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
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
    trained.train_from_iterator(texts, _trainer(trainers.BpeTrainer, vocabulary, QWEN_TOKENS, pre_tokenizers.ByteLevel.alphabet()))
    model = _learnt(trained)
    merges: Any = [tuple(merge) for merge in model["merges"]]  # transformers annotates them as texts
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        additional_special_tokens=list(QWEN_TOKENS[1:]),
        model_max_length=32768,
    )


def _clip_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from transformers import CLIPTokenizer

    plain: Any = CLIPTokenizer()  # how text is split before entries are looked up
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trained.normalizer, trained.pre_tokenizer = plain._tokenizer.normalizer, plain._tokenizer.pre_tokenizer
    # Listed here because the trainer would number the word-final entries in a different order in each process.
    ends = tuple(f"{byte}</w>" for byte in alphabet)
    trained.train_from_iterator(
        texts, _trainer(trainers.BpeTrainer, vocabulary, (*CLIP_TOKENS, *ends), alphabet, end_of_word_suffix="</w>")
    )
    model = _learnt(trained)
    merges: Any = [tuple(merge) for merge in model["merges"]]  # transformers annotates them as texts
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CLIP_LENGTH)


def _bert_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from transformers import BertTokenizer

    plain: Any = BertTokenizer()
    texts = list(texts)
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = plain._tokenizer.normalizer, plain._tokenizer.pre_tokenizer
    # Listed here because the trainer would number the word-internal entries in a different order in each process.
    signs = sorted({*SIGNS, *(sign for text in texts for sign in trained.normalizer.normalize_str(text) if not sign.isspace())})
    inner = tuple(f"##{sign}" for sign in signs)
    trained.train_from_iterator(texts, _trainer(trainers.WordPieceTrainer, vocabulary, (*BERT_TOKENS, *inner), signs))
    return BertTokenizer(vocab=_learnt(trained)["vocab"], model_max_length=512)


def _t5_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """T5's unigram tokenizer over the entries of a BPE tokenizer, as the unigram trainer gives a different vocabulary in each process.

    The scores make the segmentation with the fewest entries the likeliest, and among these the one with the earliest entries.
    """
    from transformers import T5Tokenizer

    plain: Any = T5Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = plain._tokenizer.normalizer, plain._tokenizer.pre_tokenizer
    trained.train_from_iterator(texts, _trainer(trainers.BpeTrainer, vocabulary, T5_TOKENS, SIGNS))
    entries = _learnt(trained)["vocab"]
    scored = [(entry, -1.0 - rank / len(entries)) for rank, entry in enumerate(sorted(entries, key=entries.get))]
    return T5Tokenizer(vocab=[(entry, 0.0 if entry in T5_TOKENS else score) for entry, score in scored], extra_ids=0, model_max_length=512)


def _trainer(kind: Any, vocabulary: int, special: tuple[str, ...], alphabet: Iterable[str], **more: Any) -> Any:
    tokens = [AddedToken(token, special=True) for token in special]
    return kind(vocab_size=vocabulary, special_tokens=tokens, show_progress=False, initial_alphabet=list(alphabet), **more)


def _learnt(trained: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(trained.to_str())["model"]
    return model
