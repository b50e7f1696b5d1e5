"""The folder of a published model on this machine: given, or fetched from the hub."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from mirepoix.models.adopted.layout import MODULES
from mirepoix.models.backbones.adapter import base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused, first_line

OTHER_FORMATS = (
    "*.onnx",
    "*.onnx_data",
    "onnx/*",
    "openvino/*",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "*.gguf",
    "*.mlmodel",
    "coreml/*",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DESCRIBING = ("*.json", "*.jinja", "*.py")


def resolved(adopted: Checkpoint, adapter: Path | None, fetch: bool = True) -> tuple[Checkpoint, Path | None]:
    """The model that is opened, and its folder: of an adapter the model under it, unless its folder has modules of its own too."""
    if adapter is None or not (adapter / MODULES).is_file():
        model = adopted if adapter is None else base_of(adopted, adapter)
        return model, local_folder(model, fetch)
    if adopted.base is not None:
        raise Refused(
            f"{adopted.name} is an adapter with modules of its own, which sentence-transformers opens over the model that it names; leave "
            "backbone.base out, or name that model in its adapter_config.json"
        )
    local_folder(base_of(adopted, adapter), fetch)  # the library looks for it among what is here
    return adopted, adapter


def local_folder(checkpoint: Checkpoint, fetch: bool = True, weights: bool = True) -> Path | None:
    """The folder of a checkpoint; of a hub id its snapshot, fetched if `fetch` says so, else None where it is not here.

    Without `weights` only files that say what it is are fetched; with them not those of other libraries, nor pickles beside safetensors.
    """
    folder = Path(checkpoint.name).expanduser()
    if folder.is_dir():
        return folder
    if str(checkpoint.name).startswith(("/", ".", "~")):
        raise Refused(f"backbone folder {checkpoint.name} is not there; give an existing folder, or a hub id")
    # Imported for a hub id alone: a folder needs no client of the hub.
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = str(checkpoint.name)
    pinned: dict[str, Any] = {"revision": checkpoint.revision}
    try:
        if not fetch:
            return Path(snapshot_download(name, local_files_only=True, **pinned))
        if not weights:
            return Path(snapshot_download(name, allow_patterns=list(DESCRIBING), **pinned))
        files = list_repo_files(name, **pinned)
        other = [*OTHER_FORMATS, *(PICKLES if any(file.endswith(".safetensors") for file in files) else ())]
        return Path(snapshot_download(name, ignore_patterns=other, **pinned))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if fetch and weights:
            with suppress(HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
                return Path(snapshot_download(name, local_files_only=True, **pinned))  # the hub cannot be asked, and all of it is here
        if not fetch:
            return None
        raise Refused(
            f"backbone {name!r} is neither a folder here nor a model that the hub has ({first_line(error)}); give an existing "
            "folder, or a hub id"
        ) from error
