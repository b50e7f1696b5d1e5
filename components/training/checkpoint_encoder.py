"""Checkpoints of a training, read from outside while it goes on: which of them is the newest, and the encoder that it would make.

Nothing here starts an engine or needs the ranks that wrote the shards. torch and DeepSpeed are imported where weights are read, so that
what is refused before that does not wait for them.
"""

import io
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mirepoix.components.training.train_config import TrainConfig
from mirepoix.components.training.workers.layout import COMMITTED, ENCODER, PROGRESS, RUN
from mirepoix.models.errors import Refused
from mirepoix.serving import store

if TYPE_CHECKING:
    import torch

    from mirepoix.models.encoder import Encoder

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError)
"""Raised by reading a checkpoint whose files are damaged, or are removed meanwhile."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A committed checkpoint."""

    target: str  # folder or URI
    step: int
    saved: float  # seconds since 1970


def newest_checkpoint(scratch: str) -> SavedCheckpoint | None:
    """The newest committed checkpoint in the scratch of a training; None before the first, and where the scratch is gone."""
    home = store.join(scratch, RUN)
    for name in reversed(_committed(home)):
        target = store.join(home, name)
        progress = store.read(store.join(target, PROGRESS))
        if progress is not None:  # of one that is removed just now, an older one may stand in the list still
            return SavedCheckpoint(target, json.loads(progress)["step"], store.usage(store.join(target, PROGRESS)).newest)
    return None


def _committed(home: str) -> list[str]:
    """The names of the committed checkpoints, the oldest first; none where the list is being written just now."""
    try:
        listed = json.loads(store.read(store.join(home, COMMITTED)) or b"{}")
    except ValueError:
        return []
    return [each["checkpoint_dir_name"] for each in listed.get("checkpoint_results", ())]


@contextmanager
def opened_checkpoint(target: str) -> Iterator[Path]:
    """The folder of a checkpoint: its own where it is local, else a copy that is removed again."""
    if store.is_local(target):
        yield store.local_path(target)
        return
    with TemporaryDirectory(prefix="mirepoix-checkpoint-") as folder:
        store.copy_files(target, Path(folder))
        yield Path(folder)


def checkpoint_encoder(folder: Path, encoder: Path, config: TrainConfig) -> "Encoder":
    """The encoder that a training would write if it ended with the checkpoint in `folder`; `encoder` is the one that it started from."""
    from mirepoix.components.training.engine.chunked_encoder import PREFIX, with_weights
    from mirepoix.models.encoder import load_own_encoder

    if (folder / ENCODER).is_dir():
        return load_own_encoder(folder / ENCODER)
    opened = load_own_encoder(encoder).tune(config.tuning)
    objective = config.loss.resolved(opened.temperature, opened.dimension)
    weights = checkpoint_weights(folder)
    trained = [name for name, parameter in opened.named_parameters() if parameter.requires_grad]
    if missing := [name for name in trained if f"{PREFIX}{name}" not in weights]:
        raise Refused(f"checkpoint {folder} lacks {len(missing)} of {len(trained)} trained weights: {', '.join(missing[:3])}")
    return with_weights(opened, objective, weights)


def checkpoint_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """The trained weights of a checkpoint, whole and in fp32, by the names of the module that the engine wrapped."""
    import torch

    from mirepoix.components.training.engine.deepspeed_engine import TAG
    from mirepoix.models.backbones.checkpoints import without_library

    if not any((folder / TAG).glob("*_optim_states.pt")):  # ZeRO-0, which is trained in fp32 and shards nothing
        state = torch.load(folder / TAG / "mp_rank_00_model_states.pt", map_location="cpu", mmap=True, weights_only=False)
        whole: dict[str, torch.Tensor] = state["module"]
        return whole
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints what it does, and draws bars
        with without_library("mlflow"):
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
        merged: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG, exclude_frozen_parameters=True)
    return {name: weight.detach() for name, weight in merged.items()}
