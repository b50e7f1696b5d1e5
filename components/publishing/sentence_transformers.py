"""The files that sentence-transformers reads in addition to a checkpoint: the modules, their settings, and the prompts.

Module types and pooling keys are those of its older releases, which every release reads, and servers that parse the files themselves too.
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
    """Writes content as JSON; makes the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; empty where it is not there."""
    return json.loads(path.read_text()) if path.is_file() else {}


def amend_json(path: Path, **changes: Any) -> None:
    """Sets some fields of a JSON file, which may be new."""
    write_json(path, read_json(path) | changes)


def write_modules(folder: Path, *modules: str, first: str = MODULE + "Transformer") -> None:
    """Writes modules.json: the module that reads the checkpoint, then modules that each have a folder named by place and kind."""
    further = [_module(place, f"{place}_{kind}", MODULE + kind) for place, kind in enumerate(modules, 1)]
    write_json(folder / "modules.json", [_module(0, "", first), *further])


def _module(place: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": place, "name": str(place), "path": path, "type": kind}


def write_prompts(folder: Path, instructions: Mapping[str, str], **more: Any) -> None:
    """Writes config_sentence_transformers.json with the instruction of each task; "query" is that of a search without a target, if any."""
    prompts = {"query": instructions.get("", ""), "document": "", **{task: words for task, words in instructions.items() if task}}
    settings = {
        "__version__": {"sentence_transformers": WRITTEN_FOR, "transformers": version("transformers"), "pytorch": version("torch")},
        "default_prompt_name": None,
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", settings | more)


def write_pooling(folder: Path, width: int, way: str) -> None:
    """Writes 1_Pooling, where every way of pooling has a key and one is true."""
    ways = {f"pooling_mode_{known}": known == way for known in POOLING}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **ways, "include_prompt": True})


def write_chat(folder: Path, encoder: Encoder, instructions: Mapping[str, str], counted: bool) -> None:
    """Writes the files of a multimodal language model: every input becomes a conversation, which the chat template renders.

    No setting of the stock module makes positions count tokens, so a folder that needs it contains a module of its own.
    """
    if counted:
        (folder / "counted.py").write_text(COUNTED)
    write_modules(folder, "Pooling", "Normalize", **{"first": "counted.CountedTransformer"} if counted else {})
    write_pooling(folder, encoder.dimension, "mean_tokens" if getattr(encoder.config, "pooling", "last") == "mean" else "lasttoken")
    write_prompts(folder, instructions)
    (folder / "2_Normalize").mkdir()
    reads = encoder.config.READS if reads_clips(encoder) else encoder.config.READS & ~Modality.VIDEO
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    own: Any = encoder  # with the tokenizer, model and collator that multimodal language models have
    length = min(own.tokenizer.model_max_length, own.model.config.get_text_config().max_position_embeddings)
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {**dict.fromkeys(_mixtures(reads), states), "message": {**states, "format": "structured"}},
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"video": {"do_sample_frames": False}},
        "processor_kwargs": {"use_fast": False},  # pictures by Pillow; `backend` would apply to clips too, which have no such processor
        "max_seq_length": length,
        "unpad_inputs": False,
    }
    write_json(folder / "sentence_bert_config.json", settings)
    # Saving a video processor needs torchvision, which is not required here, so its file is written by hand, without the class.
    images = json.loads((folder / "preprocessor_config.json").read_text())
    images.pop("image_processor_type")
    write_json(
        folder / "video_preprocessor_config.json",
        {**images, "size": own.collator.frame_size, "do_sample_frames": False, "cap_pixels_per_frame": False},
    )


def _mixtures(reads: Modality) -> list[str]:
    """Every combination of the modalities, in the spelling of sentence-transformers."""
    names = [name for bit, name in _NAMES if reads & bit]
    return ["+".join(name for place, name in enumerate(names) if code & 1 << place) for code in range(1, 1 << len(names))]


def write_clip(folder: Path, encoder: Encoder, instructions: Mapping[str, str]) -> None:
    """Writes the files of a model with a text tower and a picture tower, whose vectors are in one space."""
    write_modules(folder, "Normalize")
    write_prompts(folder, _before_words(instructions))
    (folder / "1_Normalize").mkdir()
    config: Any = encoder.config
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"} for name in ("text", "image")},
        "module_output_name": "sentence_embedding",
        "processor_kwargs": {"backend": "pil"},
        "max_seq_length": config.max_length,
    }
    write_json(folder / "sentence_bert_config.json", settings)


def _before_words(instructions: Mapping[str, str]) -> dict[str, str]:
    """The instructions in the form of prefixes of a text."""
    return {task: f"{words.strip()} " for task, words in instructions.items()}


def write_late(folder: Path, encoder: Encoder, instructions: Mapping[str, str]) -> None:
    """Writes the text side of late interaction in PyLate's format: text tower, projection of its tokens, and settings."""
    weights = {name.removeprefix("text."): weight for name, weight in encoder.state_dict().items() if name.startswith("text.")}
    save_dense(folder / "1_Dense", weights.pop("linear.weight"))
    encoder.parts["text"].save(folder, weights)
    write_json(folder / "modules.json", [_module(0, "", MODULE + "Transformer"), _module(1, "1_Dense", "pylate.models.Dense.Dense")])
    config: Any = encoder.config
    collator: Any = encoder.collator
    signs = sorted(collator.punctuation)
    settings = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "query_prefix": config.query_marker,
        "document_prefix": config.document_marker,
        "query_length": config.query_length,
        "document_length": config.document_length,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": collator.tokenizer.convert_ids_to_tokens(signs),
    }
    write_prompts(folder, _before_words(instructions), **settings)
    length = max(config.query_length, config.document_length)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})


def save_dense(folder: Path, weight: torch.Tensor) -> None:
    """Writes a projection without bias."""
    outputs, inputs = weight.shape
    settings = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    write_json(folder / "config.json", settings)
    save_file({"linear.weight": weight.contiguous()}, folder / "model.safetensors", {"format": "pt"})
