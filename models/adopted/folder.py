"""The folder of a published model on this machine: given, or fetched from the hub."""

from pathlib import Path

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused

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


def local_folder(checkpoint: Checkpoint, fetch: bool = True) -> Path | None:
    """The folder of a checkpoint; of a hub id its snapshot, fetched if `fetch` says so, else None where it is not here."""
    folder = Path(checkpoint.name).expanduser()
    if folder.is_dir():
        return folder
    if str(checkpoint.name).startswith(("/", ".", "~")):
        raise Refused(f"backbone folder {checkpoint.name} is not there; give an existing folder, or a hub id")
    # Imported for a hub id alone: a folder needs no client of the hub.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                str(checkpoint.name), revision=checkpoint.revision, ignore_patterns=list(OTHER_FORMATS), local_files_only=not fetch
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if not fetch:
            return None
        raise Refused(
            f"backbone {str(checkpoint.name)!r} is neither a folder here nor a model that the hub has "
            f"({str(error).splitlines()[0]}); give an existing folder, or a hub id"
        ) from error
