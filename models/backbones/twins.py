"""Tiny random twins of published checkpoints: the same classes and files, with a tokenizer trained on the corpus."""

import contextlib
import json
import math
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mirepoix.models.backbones.checkpoints import Checkpoint, quiet
from mirepoix.models.errors import Refused
from mirepoix.models.options import option

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CLIP_TOKENS = ("<|startoftext|>", "<|endoftext|>")
BERT_TOKENS = ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
T5_TOKENS = ("<pad>", "</s>", "<unk>")
SIGNS = string.ascii_letters + string.digits + string.punctuation
CLIP_LENGTH = 77


@dataclass(frozen=True)
class Tiny:
    """Sizes of a random twin that a CPU trains in minutes."""

    family: str | None = option(None, "which published models it is a twin of; null: the first that the retriever is built over")
    vocabulary: int = option(1200, "most entries of the tokenizer that is trained on the corpus")
    hidden_size: int = option(128, "width of the language model or text tower")
    layers: int = option(2, "layers of the language model or text tower; of an encoder-decoder, of each half")
    heads: int = option(4, "attention heads of the language model or text tower; the width of a head must divide by 4")
    intermediate_size: int = option(384, "width of the language model's feed-forward layers")
    vision_depth: int = option(2, "layers of the vision tower")
    vision_width: int = option(96, "width of the vision tower")
    vision_heads: int = option(4, "attention heads of the vision tower")
    patch_size: int = option(14, "pixels along the side of a patch")
    initializer_range: float = option(
        0.05, "spread of the random weights but T5's and, its embeddings apart, CLIP's, which go by width; 0.02 is slow to learn from here"
    )
    max_pixels: int = option(56 * 56, "pictures are scaled down to this many pixels; for CLIP to a square of them")

    def __post_init__(self) -> None:
        if self.family not in (None, *FAMILIES):
            raise Refused(f"tiny.family is {self.family!r}; give one of {', '.join(FAMILIES)}, or null")
        if self.hidden_size % (4 * self.heads):
            raise Refused(f"hidden_size {self.hidden_size} with {self.heads} heads; give a hidden_size that is a multiple of 4 x heads")
        if self.vision_width % (4 * self.vision_heads):
            raise Refused(f"vision_width {self.vision_width} with {self.vision_heads} heads; give a multiple of 4 x vision_heads")
        if self.vocabulary < 256 + len(QWEN_TOKENS):
            raise Refused(f"vocabulary {self.vocabulary} is too small; {256 + len(QWEN_TOKENS)} bytes and special tokens must fit")
        if math.isqrt(self.max_pixels) < self.patch_size:
            raise Refused(f"max_pixels {self.max_pixels} with patch_size {self.patch_size}; a picture must hold at least one patch")

    @property
    def side(self) -> int:
        """Pixels along a picture of the one size that a CLIP tower takes."""
        return math.isqrt(self.max_pixels) // self.patch_size * self.patch_size


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` within the block, as they were after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def make_twin(folder: Path, family: str, texts: Iterable[str], config: Tiny, seed: int) -> dict[str, Checkpoint]:
    """Writes the twin of a family, its parts drawn from the seed; its checkpoints, by the names of an encoder's parts."""
    if family not in FAMILIES:
        raise Refused(f"there is no twin of {family!r}; there are {', '.join(FAMILIES)}")
    with seeded(seed), quiet():
        return FAMILIES[family](Path(folder), texts, config)


def _qwen2_vl(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    vision = {"embed_dim": config.vision_width, "hidden_size": config.hidden_size, "mlp_ratio": 4}
    return _qwen(folder, texts, config, "qwen2_vl", vision=vision)


def _qwen2_5_vl(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    vision = {
        "hidden_size": config.vision_width,
        "out_hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.vision_width,
        "window_size": 2 * config.patch_size,  # of the tokens of a small picture, each has a window of its own
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
    """The twin of a Qwen-VL model: what its kin have in common, and what this one's towers, positions and pictures differ in."""
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
    normal = dict(zip(("image_mean", "image_std"), colours, strict=True)) if colours else {}
    # The pixel budget's floor is one token's worth of patches, so that a small picture stays small.
    floor = (2 * config.patch_size) ** 2
    Qwen2VLImageProcessorPil(patch_size=config.patch_size, min_pixels=floor, max_pixels=config.max_pixels, **normal).save_pretrained(folder)
    return {"model": Checkpoint(folder)}


def _t5_clip(folder: Path, texts: Iterable[str], config: Tiny) -> dict[str, Checkpoint]:
    from transformers import T5Config, T5Model

    tokenizer = _t5_tokenizer(texts, config.vocabulary)
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
        decoder_start_token_id=tokenizer.pad_token_id,
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


FAMILIES: dict[str, Callable[[Path, Iterable[str], Tiny], dict[str, Checkpoint]]] = {
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
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        additional_special_tokens=list(QWEN_TOKENS[1:]),
        model_max_length=32768,
    )


def _clip_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer()  # how text is split before entries are looked up
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trained.normalizer, trained.pre_tokenizer = plain._tokenizer.normalizer, plain._tokenizer.pre_tokenizer
    # Named here, as the trainer would number what stands at a word's end in another order in each process.
    ends = tuple(f"{byte}</w>" for byte in alphabet)
    trained.train_from_iterator(
        texts, _trainer(trainers.BpeTrainer, vocabulary, (*CLIP_TOKENS, *ends), alphabet, end_of_word_suffix="</w>")
    )
    model = _learnt(trained)
    return CLIPTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], model_max_length=CLIP_LENGTH)


def _bert_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    from transformers import BertTokenizer

    plain, texts = BertTokenizer(), list(texts)
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = plain._tokenizer.normalizer, plain._tokenizer.pre_tokenizer
    # Named here, as the trainer would number what stands within a word in another order in each process.
    signs = sorted({*SIGNS, *(sign for text in texts for sign in trained.normalizer.normalize_str(text) if not sign.isspace())})
    inner = tuple(f"##{sign}" for sign in signs)
    trained.train_from_iterator(texts, _trainer(trainers.WordPieceTrainer, vocabulary, (*BERT_TOKENS, *inner), signs))
    return BertTokenizer(vocab=_learnt(trained)["vocab"], model_max_length=512)


def _t5_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """T5's kind of tokenizer over the pieces of another: its own trainer gives another vocabulary in each process.

    Of a text's readings the likeliest is that of the fewest pieces, and among these of those that were found first.
    """
    from transformers import T5Tokenizer

    plain = T5Tokenizer()
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
    return json.loads(trained.to_str())["model"]
