"""Checkpoints of a training, read from outside while it goes on: which of them is the newest that is whole, and the encoder that
it would make.

Nothing here starts an engine or needs the ranks that wrote the shards. torch and DeepSpeed are imported where weights are read, so that
what is refused before that does not wait for them.
"""

import io
import json
import os
import pickle
import time
from collections.abc import Iterator, Mapping
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
LIST_SECONDS, LIST_POLL_SECONDS = 2.0, 0.1
"""How long, and how often, the list of checkpoints is read again where it cannot be: Ray Train empties it before it writes it anew."""
READINGS = 3
"""So often it is begun anew where a checkpoint is removed while it is read, as newer ones were saved."""


class DamagedCheckpoint(ValueError):
    """A checkpoint whose files are not those that were written; says what is wrong with which."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A committed checkpoint that is whole: its files, valid while it is open, are those that were written."""

    folder: Path
    step: int
    saved: float  # seconds since 1970


@dataclass(frozen=True)
class NewestEncoder:
    """The encoder of the newest checkpoint that is whole."""

    encoder: "Encoder"
    step: int
    saved: float  # seconds since 1970
    damaged: Mapping[str, str]  # what is wrong with the newer ones, by their names


def newest_encoder(scratch: str, encoder: Path, config: TrainConfig) -> NewestEncoder | None:
    """The encoder of the newest committed checkpoint that is whole, in the scratch of a training; None if there is no checkpoint.

    A checkpoint may be removed while it is read, as the training goes on and keeps the last ones alone; then it is begun with the newest
    again. Refused if that happens too often, and if checkpoints are there and none is whole.
    """
    for _ in range(READINGS):
        damaged: dict[str, str] = {}
        for name in committed_checkpoints(scratch):
            target = store.join(scratch, RUN, name)
            try:
                with opened_checkpoint(target) as opened:
                    return NewestEncoder(checkpoint_encoder(opened.folder, encoder, config), opened.step, opened.saved, damaged)
            except UNREADABLE as error:
                if name not in committed_checkpoints(scratch):
                    break
                if isinstance(error, DamagedCheckpoint):
                    damaged[name] = str(error)
                elif isinstance(error, Refused):
                    raise
                else:
                    raise Refused(f"checkpoint {target} cannot be read ({' '.join(str(error).split())})") from error
        else:
            if not damaged:
                return None
            raise Refused(_none_whole(store.join(scratch, RUN), damaged))
    raise Refused(
        f"checkpoint {target} was removed while it was read, as newer ones were saved, and so were {READINGS - 1} before it; "
        "save them less often (save_steps), or keep more of them (keep_checkpoints)"
    )


def _none_whole(home: str, damaged: Mapping[str, str]) -> str:
    count, which = f"none of the {len(damaged)} checkpoints in {home} is whole", "one of them"
    if len(damaged) == 1:
        count, which = f"the only checkpoint in {home} is damaged", "it"
    faults = "; ".join(f"{name}: {fault}" for name, fault in damaged.items())
    return f"{count} ({faults}); try again when the training has saved the next, or restore the files of {which}"


def committed_checkpoints(scratch: str) -> list[str]:
    """The names of the checkpoints that were committed in the scratch of a training, the newest first.

    There are none before the first, and where the scratch is gone. Refused where the list of them stays one that cannot be read.
    """
    path, start = store.join(scratch, RUN, COMMITTED), time.monotonic()
    while (content := store.read(path)) is not None:
        try:
            return [each["checkpoint_dir_name"] for each in reversed(json.loads(content)["checkpoint_results"])]
        except (ValueError, KeyError, TypeError):
            if time.monotonic() - start > LIST_SECONDS:
                raise Refused(
                    f"{path}, the list of the checkpoints of a training, cannot be read: a kill tore it; run the same config again, which "
                    "goes on from the checkpoints beside it"
                ) from None
        time.sleep(LIST_POLL_SECONDS)
    return []


@contextmanager
def opened_checkpoint(target: str) -> Iterator[SavedCheckpoint]:
    """A checkpoint, where it lies if that is local, else a copy that is removed again; DamagedCheckpoint if it is not whole."""
    if store.is_local(target):
        yield _verified(target, store.local_path(target))
        return
    with TemporaryDirectory(prefix="mirepoix-checkpoint-") as copy:
        yield _verified(target, Path(copy))


def _verified(target: str, folder: Path) -> SavedCheckpoint:
    from mirepoix.components.training.workers.shards import damage  # which imports torch

    try:
        saved = store.usage(store.join(target, PROGRESS)).newest
        if not store.is_local(target):
            store.copy_files(target, folder)
        fault = damage(folder, 0, 1)
        step = 0 if fault else json.loads((folder / PROGRESS).read_text())["step"]
    except OSError as error:
        fault = f"it cannot be read: {error}"
    if fault:
        raise DamagedCheckpoint(fault)
    return SavedCheckpoint(folder, step, saved)


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
