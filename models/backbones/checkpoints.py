"""Opens published checkpoints, by folder or hub id, with transformers' Auto classes: multimodal models, text towers, vision towers."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from mirepoix.models.backbones.adapter import adapter_folder, base_of, merge_adapter
from mirepoix.models.backbones.checkpoint_config import Checkpoint, Kind
from mirepoix.models.errors import Refused, first_line

TRUSTED = "backbone.trust_remote_code=true"


class LoadedCheckpoint(NamedTuple):
    """An opened checkpoint: the model, with its tokenizer and image processor as far as its kind has them."""

    model: Any  # a transformers model, whose config and parts differ by family
    tokenizer: Any = None
    image_processor: Any = None
    unread: tuple[str, ...] = ()  # weights of the checkpoint that the model does not use: those of a language head or another tower

    def save(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """Writes a checkpoint folder with the weights in `state`; `open_checkpoint` opens it."""
        with quiet(), saving():
            self.model.save_pretrained(folder, state_dict=state)
        for reader in (self.tokenizer, self.image_processor):
            if reader is not None:
                reader.save_pretrained(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and its warnings about what is not needed here (torchvision)."""
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


@contextlib.contextmanager
def without_library(name: str) -> Iterator[None]:
    """In this block, an optional library that is not loaded yet counts as not installed."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """In this block transformers saves a model without loading DeepSpeed, which accelerate does to see whether it is one of its engines.

    Accelerate itself is loaded first: without DeepSpeed it would lack what transformers' trainer, and so sentence-transformers, imports.
    """
    import accelerate.utils  # noqa: F401

    with without_library("deepspeed"):
        yield


def open_checkpoint(checkpoint: Checkpoint, kind: Kind) -> LoadedCheckpoint:
    """Opens a checkpoint: its model, tokenizer and image processor, as far as its kind has them; images are read with Pillow.

    Of a checkpoint with both towers, kind "vision" gives the vision tower alone. Text towers have no pooler, as no retriever uses it. An
    adapter is merged into the model under it. Code that a checkpoint brings is run only where the user said so: else, where transformers
    has no class of its own for it, the checkpoint is refused.
    """
    if (adapter := adapter_folder(checkpoint)) is not None:
        opened = open_checkpoint(base_of(checkpoint, adapter), kind)
        with quiet():
            merge_adapter(opened.model, adapter)
        return opened
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils.hub import cached_file

    name, pinned = str(checkpoint.name), {"revision": checkpoint.revision}
    # Never left out: without it, transformers asks on standard input whether to run a checkpoint's code.
    auto = {**pinned, "trust_remote_code": checkpoint.trust_remote_code}
    tokenizer = image_processor = None
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, **auto)
            if kind == "vision":
                config = getattr(config, "vision_config", config)
            model, notes = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True, **auto)
            if kind != "vision":
                tokenizer = AutoTokenizer.from_pretrained(name, **auto)
                files = _vocabulary_files(tokenizer)
                found = [cached_file(name, file, _raise_exceptions_for_missing_entries=False, **pinned) for file in files]
                if files and not any(found):
                    raise ValueError(f"it has none of {', '.join(files)}, so its tokenizer has no vocabulary")
            if kind != "text":
                image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **auto)
    except (OSError, ValueError) as error:  # what transformers raises where a checkpoint is missing, incomplete or of an unknown type
        raise Refused(_unusable(name, error)) from error
    except (
        UnpicklingError,
        RuntimeError,
        SafetensorError,
    ) as error:  # weights that are damaged, of other shapes, or a pickle of more than tensors
        raise Refused(f"the weights of checkpoint {name} cannot be read: {first_line(error)}; give a whole one, as safetensors") from error
    if kind == "text" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    absent = sorted(weight for weight in notes["missing_keys"] if kind != "text" or not weight.startswith("pooler."))
    if absent:
        raise Refused(
            f"checkpoint {name} lacks {len(absent)} weights ({', '.join(absent[:3])}, ...), which would be random; give a complete one"
        )
    return LoadedCheckpoint(model, tokenizer, image_processor, tuple(notes["unexpected_keys"]))


def _vocabulary_files(tokenizer: Any) -> list[str]:
    """The files that may hold a tokenizer's vocabulary; where all are missing, transformers makes a tokenizer with an empty one."""
    return list(tokenizer.vocab_files_names.values())


def refused_code(error: Exception, allowed_by: str = "") -> str | None:
    """The refusal of a checkpoint that only its own code opens; None for any other error. `allowed_by` is the option that allows it."""
    if "trust_remote_code" not in str(error):
        return None
    unless = f" unless you say so: read it, then give {allowed_by}" if allowed_by else ""
    return (
        f"it needs code of its own (auto_map), and code from a checkpoint is not run{unless}; "
        "give a checkpoint whose model, tokenizer and image processor are classes of transformers itself"
    )


def _unusable(name: str, error: Exception) -> str:
    if refused := refused_code(error, TRUSTED):
        return f"checkpoint {name} cannot be opened: {refused}"
    if Path(name).is_dir():
        return f"backbone folder {name} cannot be opened: {first_line(error)}; it needs config.json, weights, tokenizer"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return f"backbone {name!r} is neither a folder here nor a model that the hub has{offline}; give an existing folder, a hub id, or 'tiny'"
