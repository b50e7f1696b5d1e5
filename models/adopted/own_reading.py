"""What a checkpoint says about how its inputs are read, which a retriever that has its own prompt and pooling does not obey.

A base model, such as Qwen2-VL, says nothing: its chat template is for chats. A published embedding model says how its vectors are made, and
with another prompt or pooling its vectors are others, without an error.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mirepoix.models.adopted.folder import local_folder
from mirepoix.models.adopted.layout import MODULES, PROMPTS, TWO_TOWERS
from mirepoix.models.backbones.adapter import adapter_folder, base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused

SCRIPTS = ("gme_inference.py", "scripts/qwen3_vl_embedding.py", "scripts/qwen3_vl_reranker.py")
CHAT = ("chat_template.jinja", "chat_template.json")
_KINDS = {"qwen3_vl": "Qwen3-VL-Embedding", "qwen2_vl": "GME"}


def refuse_own_reading(checkpoint: Checkpoint, retriever: str, fetch: bool) -> None:
    """Refuses a checkpoint, or the model under an adapter, that says how it is read, unless all that it says is ignored by name.

    Of a hub id the files are fetched if `fetch` says so; else what is not here is not looked at.
    """
    ignore, adapter = checkpoint.ignore, adapter_folder(checkpoint, fetch)
    if str(checkpoint.name).startswith(("/", ".", "~")) and not Path(checkpoint.name).expanduser().is_dir():
        return  # whoever opens it says that it is not there
    model = base_of(checkpoint, adapter) if adapter else checkpoint
    for folder in (adapter, local_folder(model, fetch, weights=False)):
        if folder is not None:
            _refuse(folder, retriever, ignore)


def _refuse(folder: Path, retriever: str, ignore: Collection[str]) -> None:
    said = own_reading(folder)
    unobeyed = {name: what for name, what in said.items() if name not in ignore}
    if unobeyed:
        kind = _KINDS.get(str(_json(folder / "config.json").get("model_type")), "an embedding model")
        raise Refused(
            f"{folder} has the layout of {kind}, and {retriever} reads inputs in a way of its own, so it would not obey "
            f"{', '.join(f'{name} ({what})' for name, what in unobeyed.items())}; take a base model, or backbone.encoder=AdoptedConfig, "
            f"which obeys a sentence-transformers folder, or say that you know: backbone.ignore=[{','.join(said)}]"
        )


def own_reading(folder: Path) -> dict[str, str]:
    """What a folder says about how it is read: by name, where it says it."""
    said: dict[str, str] = {}
    listed = _content(folder / MODULES)
    scripts = [name for name in SCRIPTS if (folder / name).is_file()]
    plain = _json(folder / "config.json").get("model_type") in TWO_TOWERS and not _further(listed)
    if listed and not plain:
        said["modules"] = MODULES
    if any((_json(folder / PROMPTS).get("prompts") or {}).values()):
        said["prompts"] = PROMPTS
    if scripts:
        said["script"] = scripts[0]
    template = next((name for name in CHAT if (folder / name).is_file()), None)
    if not template and _json(folder / "tokenizer_config.json").get("chat_template"):
        template = "tokenizer_config.json"
    if template and said:
        said["chat_template"] = template
    return said


def _further(listed: Any) -> list[str]:
    """The modules after the first that do more than to normalise."""
    types = [str(each.get("type")) for each in listed[1:]] if isinstance(listed, list) else []
    return [each for each in types if not each.endswith("Normalize")]


def _json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file; none where it has none, which whoever opens the folder refuses."""
    content = _content(path)
    return content if isinstance(content, dict) else {}


def _content(path: Path) -> Any:
    """The content of a JSON file; None where it is not there or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
