"""The command `release`: the recipe `search`, up to its release, over an encoder that is named alone."""

import json
from collections.abc import Sequence
from pathlib import Path

from mirepoix.models.encoder_config import describes_encoder, saved_config
from mirepoix.models.errors import Refused

RECIPE, LAST = "search", "release"
"""The recipe whose release is made, and its last stage that is run."""
CONFIGS = ("config.json", "modules.json", "adapter_config.json")
WEIGHTS = ("*.safetensors", "*.bin")
"""Files that the folder of a published checkpoint has, one of each."""


def settings(encoder: str, corpora: Sequence[str], name: str | None = None) -> tuple[str, ...]:
    """The overrides of the recipe for an encoder, given by its folder or its hub id, and for the corpora that it is to search.

    The retriever of a saved encoder is read from its folder, as the stages that open it are known by their retriever. Refused where the
    folder holds no encoder, or not all of one; no weight is read.
    """
    chosen = [f"sources.path={json.dumps(list(corpora))}"]
    if describes_encoder(encoder):
        chosen.append(f"backbone.encoder={type(saved_config(encoder)).__name__}")
    elif (folder := Path(encoder).expanduser()).exists() or not may_be_hub_id(encoder):
        refuse_no_checkpoint(folder, encoder)
    here = Path(encoder).expanduser()
    chosen.append(f"backbone.name={here.resolve() if here.exists() else encoder}")
    return (*chosen, f"release.name={name}") if name else tuple(chosen)


def may_be_hub_id(name: str) -> bool:
    """Whether a name that is no folder here may be that of a model on the hub."""
    return "://" not in name and name.count("/") <= 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/")


def refuse_no_checkpoint(folder: Path, encoder: str) -> None:
    """Refuses what is not the folder of a published checkpoint."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is no folder here"
        raise Refused(f"{encoder} {what}; give the folder of an encoder or of a checkpoint, or a hub id")
    if describes_encoder(folder / "encoder"):
        raise Refused(f"{encoder} is a release already; `mirepoix serve` serves it, and {folder / 'encoder'} is its encoder")
    if not any((folder / file).is_file() for file in CONFIGS):
        if (folder / "report.json").is_file():
            raise Refused(f"{encoder} is the folder of a run; give that of an encoder which it made, as its report.json names it")
        raise Refused(
            f"{encoder} holds no encoder: neither mirepoix.json, as every encoder that was trained or saved here has, nor config.json, as "
            "published checkpoints have, nor adapter_config.json, as adapters have; give the folder of one, or a hub id"
        )
    if not any(found for pattern in WEIGHTS for found in folder.rglob(pattern)):
        raise Refused(f"{encoder} holds no weights, {' or '.join(WEIGHTS)}; give the folder of a whole checkpoint")
