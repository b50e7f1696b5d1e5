"""Published checkpoints by name or folder, opened through transformers' own Auto classes: multimodal models, text towers, vision towers."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from mirepoix.models.errors import Refused

Kind = Literal["multimodal", "text", "vision"]


class Checkpoint(NamedTuple):
    """Where weights come from: a folder, or a hub id at a revision."""

    name: str | Path
    revision: str | None = None


class LoadedCheckpoint(NamedTuple):
    """A checkpoint, opened: the model, and what reads for it."""

    model: torch.nn.Module
    tokenizer: Any = None
    image_processor: Any = None
    unread: tuple[str, ...] = ()  # weights of the checkpoint that the model has not: published ones may have a language head, another tower

    def save(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """Writes a checkpoint that `open_part` opens, with the weights in `state`."""
        with quiet():
            self.model.save_pretrained(folder, state_dict=state)
        for reader in (self.tokenizer, self.image_processor):
            if reader is not None:
                reader.save_pretrained(folder)


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


def open_part(checkpoint: Checkpoint, kind: Kind) -> LoadedCheckpoint:
    """A checkpoint's model, tokenizer and image processor, as far as its kind has them; pictures go through Pillow, without torchvision.

    Of a checkpoint with both towers, a vision part is the vision half. Text towers come without a pooler, which no retriever reads.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import cached_file

    name, told = str(checkpoint.name), {"revision": checkpoint.revision}
    tokenizer = image_processor = None
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, **told)
            if kind == "vision":
                config = getattr(config, "vision_config", config)
            model, notes = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True, **told)
            if kind != "vision":
                tokenizer = AutoTokenizer.from_pretrained(name, **told)
                words = [cached_file(name, file, _raise_exceptions_for_missing_entries=False, **told) for file in _words_of(tokenizer)]
                if words and not any(words):
                    raise ValueError(f"it has none of {', '.join(_words_of(tokenizer))}, so no words that a tokenizer could know")
            if kind != "text":
                image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **told)
    except (OSError, ValueError) as error:  # transformers' own refusals: not there, not complete, not of a known kind
        raise Refused(_unusable(name, error)) from error
    if kind == "text" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    absent = sorted(weight for weight in notes["missing_keys"] if kind != "text" or not weight.startswith("pooler."))
    if absent:
        raise Refused(
            f"checkpoint {name} lacks {len(absent)} weights ({', '.join(absent[:3])}, ...): it would be half random; give a complete one"
        )
    return LoadedCheckpoint(model, tokenizer, image_processor, tuple(notes["unexpected_keys"]))


def _words_of(tokenizer: Any) -> list[str]:
    """The files in any of which a tokenizer's words may stand; where there is none of them, transformers makes one without words."""
    return list(tokenizer.vocab_files_names.values())


def _unusable(name: str, error: Exception) -> str:
    if Path(name).is_dir():
        return f"backbone folder {name} cannot be opened: {str(error).splitlines()[0]}; it needs config.json, weights, tokenizer"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return (
        f"backbone {name!r} is neither a folder here nor a model that the hub gave{offline}; give an existing folder, a hub id, or 'tiny'"
    )
