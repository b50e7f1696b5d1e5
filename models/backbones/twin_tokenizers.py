"""Tokenizers of the tiny twins: the same classes and files as published ones, trained on the corpus."""

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mirepoix.models.backbones.twin_config import QWEN_TOKENS

CLIP_TOKENS = ("<|startoftext|>", "<|endoftext|>")
BERT_TOKENS = ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
T5_TOKENS = ("<pad>", "</s>", "<unk>")
SIGLIP2_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SIGNS = string.ascii_letters + string.digits + string.punctuation
CLIP_LENGTH = 77
SIGLIP_LENGTH = 64


def qwen_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Qwen2's tokenizer, of bytes."""
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


def clip_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """CLIP's tokenizer, of bytes, whose words end in an entry of their own."""
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


def bert_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """BERT's tokenizer, of word pieces."""
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


def t5_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
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


def siglip_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int) -> Any:
    """SigLIP's tokenizer over a sentencepiece model, which is written into the folder."""
    import sentencepiece
    from transformers import SiglipTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.lower() for text in texts),
        model_prefix=str(place),
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        model_type="unigram",
        unk_id=2,
        bos_id=-1,
        eos_id=1,
        pad_id=0,
        required_chars="".join(sorted({*SIGNS.lower()})),
        num_threads=1,
        minloglevel=2,
    )
    place.with_suffix(".vocab").unlink()
    return SiglipTokenizer(str(place.with_suffix(".model")), model_max_length=SIGLIP_LENGTH)


def siglip2_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """SigLIP 2's tokenizer, of Gemma's kind: words in lower case, unknown signs as bytes, padding at the left."""
    from transformers import Siglip2Tokenizer

    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "\u2581")])
    trained.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    trained.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    trained.train_from_iterator(texts, _trainer(trainers.BpeTrainer, vocabulary, (*SIGLIP2_TOKENS, *BYTES), SIGNS))
    model = _learnt(trained)
    merges: Any = [tuple(merge) for merge in model["merges"]]  # transformers annotates them as texts
    return Siglip2Tokenizer(vocab=model["vocab"], merges=merges, model_max_length=SIGLIP_LENGTH)


def _trainer(kind: Any, vocabulary: int, special: tuple[str, ...], alphabet: Iterable[str], **more: Any) -> Any:
    tokens = [AddedToken(token, special=True) for token in special]
    return kind(vocab_size=vocabulary, special_tokens=tokens, show_progress=False, initial_alphabet=list(alphabet), **more)


def _learnt(trained: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(trained.to_str())["model"]
    return model
