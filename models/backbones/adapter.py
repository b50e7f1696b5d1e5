"""A PEFT adapter over its base: a folder of low-rank changes of another model, which are merged into that model's weights on opening."""

import json
from pathlib import Path
from typing import Any

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused, first_line

CONFIG = "adapter_config.json"
RENAMES = "_weight_conversions"  # by which transformers saves a model under the names that it was loaded by
MAGNITUDE = "lora_magnitude_vector"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_folder(checkpoint: Checkpoint, fetch: bool = True) -> Path | None:
    """The folder of an adapter; None for a model. A hub id is looked for on the hub if `fetch` says so, else among what is here."""
    folder = Path(checkpoint.name).expanduser()
    if not folder.is_dir():
        found = None if str(checkpoint.name).startswith(("/", ".", "~")) else _fetched(checkpoint, fetch)
        if found is None:
            return None
        folder = found
    if not (folder / CONFIG).is_file():
        return None
    if (folder / "config.json").is_file():
        raise Refused(
            f"{folder} holds a model and an adapter ({CONFIG}), and does not say whether the model has the adapter in it; give a folder "
            "with one of them, and the model under the adapter as backbone.base"
        )
    return folder


def _fetched(checkpoint: Checkpoint, fetch: bool) -> Path | None:
    """The snapshot of a hub id that is an adapter."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(str(checkpoint.name), CONFIG, revision=checkpoint.revision, local_files_only=not fetch)
        return Path(snapshot_download(str(checkpoint.name), revision=checkpoint.revision, local_files_only=not fetch))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None  # whoever opens the model says what is wrong with the id


def base_of(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The model under the adapter in `folder`: the one that the user names, or the adapter itself."""
    settings = _settings(folder)
    if (kind := settings.get("peft_type")) != "LORA":
        raise Refused(
            f"{folder} is an adapter of the kind {kind}, and only low-rank ones (LORA) can be merged; give one, or a merged model"
        )
    if further := settings.get("modules_to_save"):
        raise Refused(f"{folder} replaces whole modules ({', '.join(further)}) besides its low-rank changes; merge it where it was made")
    base = checkpoint.base or settings.get("base_model_name_or_path")
    if not base:
        raise Refused(f"{folder} is an adapter and names no model under it; give backbone.base=FOLDER_OR_ID")
    revision = None if checkpoint.base else settings.get("revision")
    return checkpoint._replace(name=base, revision=revision, base=None)


def merge_adapter(model: Any, folder: Path) -> int:
    """Merges the adapter of a folder into a model; returns the number of its tensors, each of which was put in.

    `load_adapter` of transformers renames the layers of adapters that were made with its older versions; PEFT itself does not, and leaves
    such an adapter empty with a warning.
    """
    from peft import PeftConfig

    tensors, renames = _tensors(folder), getattr(model, RENAMES, None)
    try:
        info = model.load_adapter(
            peft_config=PeftConfig.from_pretrained(str(folder)), adapter_state_dict=tensors, adapter_name="adopted", is_trainable=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"adapter {folder} does not fit {type(model).__name__}: {first_line(error)}") from error
    loaded = sum("lora_" in name and ".adopted" in name for name in model.state_dict())
    wrong = sorted([*info.missing_keys, *info.unexpected_keys, *(name for name, *_ in info.mismatched_keys)])
    if wrong or loaded != len(tensors) or not tensors:
        shown = ", ".join(wrong[:2]) or ", ".join(sorted(tensors)[:2])
        raise Refused(
            f"adapter {folder} has {len(tensors)} tensors and {loaded - len(info.missing_keys)} fit {type(model).__name__} ({shown}, ...); "
            "give the model that it was made for: backbone.base=FOLDER_OR_ID"
        )
    _merge(model, renames)
    return len(tensors)


def merge_loaded_adapter(model: Any, folder: Path) -> None:
    """Merges the adapter of a folder that a library has put into a model already; refused unless all of its tensors are there."""
    tensors = _tensors(folder)
    loaded = [weight for name, weight in model.named_parameters() if "lora_" in name]
    same = sorted(float(weight.double().sum()) for weight in loaded), sorted(float(weight.double().sum()) for weight in tensors.values())
    if len(loaded) != len(tensors) or not loaded or any(abs(one - other) > 1e-4 for one, other in zip(*same, strict=True)):
        raise Refused(f"adapter {folder} has {len(tensors)} tensors, and its library did not put all of them into {type(model).__name__}")
    _merge(model, None)


def _merge(model: Any, renames: Any) -> None:
    """Puts what the adapters of a model add into its weights, and takes the adapters away, with the names that they are saved under."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.no_grad():
        for name, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                merging: Any = layer
                merging.merge()
                owner, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(owner), attribute, merging.get_base_layer())
    model.requires_grad_(True)
    model._hf_peft_config_loaded = False
    del model.peft_config
    if renames is not None:
        setattr(model, RENAMES, renames)
    elif hasattr(model, RENAMES):
        delattr(model, RENAMES)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: Any = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise Refused(f"{folder / CONFIG} cannot be read ({error}); give a whole adapter") from error
    if not isinstance(settings, dict):
        raise Refused(f"{folder / CONFIG} holds a {type(settings).__name__} and no fields; give a whole adapter")
    return settings


def _tensors(folder: Path) -> dict[str, Any]:
    """The tensors of an adapter; a pickle is read with tensors and containers alone, and refused where it names anything else."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise Refused(f"{folder} has an {CONFIG} and no weights ({' or '.join(WEIGHTS)}); give a whole adapter")
    try:
        whole = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise Refused(f"{path} cannot be read as weights: {first_line(error)}; give an adapter as safetensors") from error
    # PEFT leaves the last part of this one's name out, and transformers does not put it in again.
    return {name + ".weight" * name.endswith(MAGNITUDE): tensor for name, tensor in whole.items()}
