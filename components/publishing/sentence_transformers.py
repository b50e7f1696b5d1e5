"""The files that sentence-transformers reads beside a checkpoint, written by hand: the modules, how each is set, and the prompts.

Module types and pooling keys are those of its older releases: every release reads these, and so do servers that parse the files themselves.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mirepoix.components.publishing.chat_template import reads_clips
from mirepoix.models.encoder import Encoder
from mirepoix.models.item import Modality

MODULE = "sentence_transformers.models."
POOLING = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
WRITTEN_FOR = "6.0.0"  # of sentence-transformers
COUNTED = '''\
"""Positions that count tokens, as in training; transformers by itself gives pictures the positions of their grid."""

from sentence_transformers.base.modules import Transformer


class CountedTransformer(Transformer):
    def forward(self, features, **kwargs):
        counts = features["attention_mask"].cumsum(-1) - 1
        features["position_ids"] = counts.clamp(min=0).expand(3, -1, -1)
        return super().forward(features, **kwargs)
'''
_NAMES = ((Modality.IMAGE, "image"), (Modality.TEXT, "text"), (Modality.VIDEO, "video"))


def write_json(path: Path, content: Any) -> None:
    """Writes content as JSON, its folder made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def amend_json(path: Path, **changes: Any) -> None:
    """Sets some fields of a JSON file, which may be new."""
    write_json(path, (json.loads(path.read_text()) if path.is_file() else {}) | changes)


def write_modules(folder: Path, *modules: str, first: str = MODULE + "Transformer") -> None:
    """modules.json: what reads the checkpoint, then modules that each have a folder named by place and kind."""
    told = [_module(0, "", first)]
    told += [_module(place, f"{place}_{kind}", MODULE + kind) for place, kind in enumerate(modules, 1)]
    write_json(folder / "modules.json", told)


def _module(place: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": place, "name": str(place), "path": path, "type": kind}


def write_prompts(folder: Path, instructions: Mapping[str, str], **more: Any) -> None:
    """config_sentence_transformers.json: the wording of each task; a plain query has that of no task, as at the endpoint, or none."""
    prompts = {"query": instructions.get("", ""), "document": "", **{task: words for task, words in instructions.items() if task}}
    told = {
        "__version__": {"sentence_transformers": WRITTEN_FOR, "transformers": version("transformers"), "pytorch": version("torch")},
        "default_prompt_name": None,
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", told | more)


def write_pooling(folder: Path, width: int, way: str) -> None:
    """1_Pooling: one of the ways to pool, each of which has a key."""
    ways = {f"pooling_mode_{known}": known == way for known in POOLING}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **ways, "include_prompt": True})


def write_chat(folder: Path, encoder: Encoder, instructions: Mapping[str, str], counted: bool) -> None:
    """A multimodal language model: whatever is given becomes a conversation, which the chat template renders.

    Nothing in the files of a module can tell it to count tokens for positions, so a folder that does brings a module of its own.
    """
    if counted:
        (folder / "counted.py").write_text(COUNTED)
    write_modules(folder, "Pooling", "Normalize", **{"first": "counted.CountedTransformer"} if counted else {})
    write_pooling(folder, encoder.dimension, "mean_tokens" if getattr(encoder.config, "pooling", "last") == "mean" else "lasttoken")
    write_prompts(folder, instructions)
    (folder / "2_Normalize").mkdir()
    reads = encoder.READS if reads_clips(encoder) else encoder.READS & ~Modality.VIDEO
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    length = min(encoder.tokenizer.model_max_length, encoder.model.config.get_text_config().max_position_embeddings)
    told = {
        "transformer_task": "feature-extraction",
        "modality_config": {**dict.fromkeys(_mixtures(reads), states), "message": {**states, "format": "structured"}},
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"video": {"do_sample_frames": False}},
        "processor_kwargs": {"use_fast": False},  # pictures by Pillow; `backend` would ask it of clips too, which have no such reader
        "max_seq_length": length,
        "unpad_inputs": False,
    }
    write_json(folder / "sentence_bert_config.json", told)
    # Nothing here has torchvision, so the file is written and not saved; transformers takes the class from the model.
    images = json.loads((folder / "preprocessor_config.json").read_text())
    images.pop("image_processor_type")
    write_json(
        folder / "video_preprocessor_config.json",
        {**images, "size": encoder.collator.frame_size, "do_sample_frames": False, "cap_pixels_per_frame": False},
    )


def _mixtures(reads: Modality) -> list[str]:
    """Every mixture of what is read, as sentence-transformers spells it."""
    names = [name for bit, name in _NAMES if reads & bit]
    return ["+".join(name for place, name in enumerate(names) if code & 1 << place) for code in range(1, 1 << len(names))]


def write_clip(folder: Path, encoder: Encoder, instructions: Mapping[str, str]) -> None:
    """A model with a tower for texts and one for pictures, whose vectors meet in one space."""
    write_modules(folder, "Normalize")
    write_prompts(folder, _before_words(instructions))
    (folder / "1_Normalize").mkdir()
    told = {
        "transformer_task": "feature-extraction",
        "modality_config": {name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"} for name in ("text", "image")},
        "module_output_name": "sentence_embedding",
        "processor_kwargs": {"backend": "pil"},
        "max_seq_length": encoder.config.max_length,
    }
    write_json(folder / "sentence_bert_config.json", told)


def _before_words(instructions: Mapping[str, str]) -> dict[str, str]:
    """The wordings as they stand before a text in one line."""
    return {task: f"{words.strip()} " for task, words in instructions.items()}


def write_late(folder: Path, encoder: Encoder, instructions: Mapping[str, str]) -> None:
    """The text side of late interaction as PyLate keeps it: a text tower, a projection of its tokens, and how each side is read."""
    weights = {name.removeprefix("text."): weight for name, weight in encoder.state_dict().items() if name.startswith("text.")}
    save_dense(folder / "1_Dense", weights.pop("linear.weight"))
    encoder.parts["text"].save(folder, weights)
    write_json(folder / "modules.json", [_module(0, "", MODULE + "Transformer"), _module(1, "1_Dense", "pylate.models.Dense.Dense")])
    config, signs = encoder.config, sorted(encoder.collator.punctuation)
    told = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "query_prefix": config.query_marker,
        "document_prefix": config.document_marker,
        "query_length": config.query_length,
        "document_length": config.document_length,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": encoder.collator.tokenizer.convert_ids_to_tokens(signs),
    }
    write_prompts(folder, _before_words(instructions), **told)
    length = max(config.query_length, config.document_length)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def save_dense(folder: Path, weight: torch.Tensor) -> None:
    """A projection without bias."""
    outputs, inputs = weight.shape
    told = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    write_json(folder / "config.json", told)
    save_file({"linear.weight": weight.contiguous()}, folder / "model.safetensors", {"format": "pt"})
