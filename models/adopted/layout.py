"""What the folder of a published model says about itself, read from its JSON files before any weight is loaded.

modules.json                       the modules of sentence-transformers, in their order; each is a class and a folder
config_sentence_transformers.json  prompts by name, the similarity, the width that vectors are cut to
sentence_bert_config.json          of its first module: which modalities it reads, by which methods, how many tokens
config.json                        of transformers: the family of the model (model_type), its towers and widths
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.encoder_config import CODE, READERS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

TWO_TOWERS = ("clip", "siglip", "siglip2", "chinese_clip")
"""Families whose model in transformers has `get_text_features` and `get_image_features`: they are opened without another library."""
MODULES, PROMPTS, MODEL = "modules.json", "config_sentence_transformers.json", "config.json"
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
FIRST = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
ADAPTER = "adapter_config.json"
LIBRARY = "sentence_transformers."
SIMILARITY = "similarity_fn_name"
ROUTER = "router_config.json"
LOADING = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
"""Fields of a first module whose settings the library hands on to whoever loads the weights, and the settings that may be handed on: others
could turn off what keeps a pickle from running code."""
HARMLESS = {
    *("attn_implementation", "dtype", "torch_dtype", "use_cache", "low_cpu_mem_usage", "add_pooling_layer", "is_decoder"),
    *("use_fast", "backend", "padding_side", "truncation_side", "model_max_length", "do_lower_case", "trust_remote_code"),
}
NAME = re.compile(r"[\w+-]+")
_OTHER_TASKS = {
    "SparseEncoder": "a sparse encoder",
    "CrossEncoder": "a reranker",
    "MultiVectorEncoder": "a late-interaction encoder",
    "ColBERT": "a late-interaction encoder",
}
_MODALITIES = {"text": Modality.TEXT, "image": Modality.IMAGE, "video": Modality.VIDEO}
_PLAIN = {"text": "get_text_features", "image": "get_image_features"}
_READ_HERE = {"transformer_task", "modality_config", "module_output_name", "max_seq_length", "do_lower_case", "processor_kwargs"}
"""Settings of a first module with which transformers alone gives the library's vectors; with any other, the library opens the folder."""


@dataclass(frozen=True)
class Layout:
    """What a folder says: who opens it, what it reads, and how texts are worded for it."""

    opened_by: Literal["transformers", "sentence-transformers"]
    family: str  # model_type of its config.json
    place: str = ""  # the folder of the transformers model in it
    reads: Modality = Modality.TEXT
    together: bool = False  # whether an item of several modalities is read as one
    towers: tuple[str, ...] | None = ("text",)  # None: known once it is opened
    width: int | None = None  # None: known once it is opened
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    custom_code: tuple[str, ...] = ()  # what of it is code of its own
    files: Mapping[str, str] = field(default_factory=dict)  # its settings beside the model's own, by their places, to be written again


def read_layout(folder: Path, ignore: Collection[str] = ()) -> Layout:
    """The layout of a folder; refused by name where it holds no dense encoder that can be opened.

    `ignore` names what the folder says and is not obeyed, in the user's own decision.
    """
    if (folder / MODULES).is_file():
        return _library_layout(folder, ignore)
    config = _json(folder / MODEL)
    if not config:
        raise Refused(f"{folder} {_holds(folder)}; give the folder of a model: {MODULES} or {MODEL}, weights, and what reads its inputs")
    family = str(config.get("model_type", ""))
    if family in TWO_TOWERS:
        both, code = Modality.TEXT | Modality.IMAGE, _code_of_readers(folder)
        return Layout("transformers", family, reads=both, towers=("text", "vision"), width=_projected(config), custom_code=code)
    raise Refused(
        f"{folder} is {_named(config, family)}, and nothing in it says how a vector is made of it: it has no {MODULES}; give a folder of "
        f"sentence-transformers, or one of {', '.join(TWO_TOWERS)}, or build a retriever over it (backbone.encoder, see docs/retrievers.md)"
    )


def refuse_code(layout: Layout, checkpoint: Checkpoint) -> None:
    """Refuses a folder that needs code of its own, unless the user allows it."""
    if layout.custom_code and not checkpoint.trust_remote_code:
        raise Refused(
            f"{checkpoint.name} needs code of its own ({', '.join(layout.custom_code)}), and code from a checkpoint is not run unless you "
            "say so: read it, then give backbone.trust_remote_code=true; or take a model without code"
        )


def _library_layout(folder: Path, ignore: Collection[str]) -> Layout:
    """The layout of a sentence-transformers folder."""
    listed = _listed(folder)
    settings = _json(folder / PROMPTS)
    kind = settings.get("model_type", "SentenceTransformer")
    if kind in _OTHER_TASKS:
        raise Refused(f"{folder} is {_OTHER_TASKS[kind]} (model_type {kind} in {PROMPTS}); only dense encoders are adopted: give one")
    types, paths = [each["type"] for each in listed], [each.get("path", "") for each in listed]
    first = types[0].rpartition(".")[2]
    place = folder / paths[0]
    config = _json(place / MODEL)
    routed = [name for each in paths for name in _json(folder / each / ROUTER).get("types", {}).values()]
    code = [each for each in (*types, *map(str, routed)) if not each.startswith(LIBRARY)]
    code += [f"{CODE} in {MODEL}"] * (CODE in config and CODE not in ignore) + [*_code_of_readers(place)]
    family = str(config.get("model_type", first))
    _refuse_loading(folder)
    _refuse_routes(folder)
    reader: Mapping[str, Any] = next((found for name in FIRST if (found := _json(place / name))), {})
    reads, together = _modalities(reader, first, family)
    described: dict[str, Any] = {
        "family": family,
        "place": paths[0],
        "reads": reads,
        "together": together,
        "towers": None if routed else ("text", "vision") if "vision_config" in config else ("text",),
        "prompts": {name: text or "" for name, text in (settings.get("prompts") or {}).items()},
        "max_length": reader.get("max_seq_length"),
        "custom_code": tuple(dict.fromkeys(code)),
    }
    if routed:  # which modules read what is in their own folders
        described |= {"reads": Modality.TEXT | Modality.IMAGE | Modality.VIDEO, "together": True}
    if SIMILARITY not in ignore:
        _refuse_similarity(folder, settings, types)
    further = [name.rpartition(".")[2] for name in types[1:]]
    if family in TWO_TOWERS and further in ([], ["Normalize"]) and not code and _plain(first, reader) and not settings.get("truncate_dim"):
        files = [folder / MODULES, folder / PROMPTS, *(place / name for name in FIRST), *(folder / path / MODEL for path in paths[1:])]
        kept = {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files if file.is_file()}
        if SIMILARITY in ignore and PROMPTS in kept:
            kept[PROMPTS] = json.dumps(settings | {SIMILARITY: "cosine"}, indent=2)
        return Layout("transformers", **described, width=_projected(config), files=kept)
    return Layout("sentence-transformers", **described, width=settings.get("truncate_dim"))


def _modalities(reader: Mapping[str, Any], first: str, family: str) -> tuple[Modality, bool]:
    """What the first module reads, and whether it reads an item of several modalities as one."""
    if first == "CLIPModel":
        return Modality.TEXT | Modality.IMAGE, False
    names = set(reader.get("modality_config") or (_PLAIN if family in TWO_TOWERS else ("text",)))
    reads = Modality.NONE
    for name in names:
        for part in name.split("+"):
            reads |= _MODALITIES.get(part, Modality.NONE)
    return reads, "message" in names or any("+" in name for name in names)


def _plain(first: str, reader: Mapping[str, Any]) -> bool:
    """Whether transformers' own reading of a two-tower model is what the first module does."""
    if first == "CLIPModel":
        return True
    methods = {name: way.get("method") for name, way in (reader.get("modality_config") or {}).items()}
    return (
        first == "Transformer"
        and methods in ({}, _PLAIN)
        and set(reader) <= _READ_HERE
        and not reader.get("do_lower_case")
        and set(reader.get("processor_kwargs") or {}) <= {"backend"}
    )


def _refuse_similarity(folder: Path, settings: Mapping[str, Any], types: list[str]) -> None:
    """Refuses vectors that are compared by something else than their angle: rows of an index have unit length."""
    similarity, normalised = settings.get(SIMILARITY) or "cosine", types[-1].endswith("Normalize")
    if similarity == "cosine" or (normalised and similarity in ("dot", "euclidean")):  # of unit vectors, these rank as the angle does
        return
    raise Refused(
        f"{folder} compares its vectors by {similarity} ({SIMILARITY} in {PROMPTS}), and here they are compared by their angle; give a "
        f"model with cosine, or compare these so all the same: backbone.ignore=[{SIMILARITY}]"
    )


def _listed(folder: Path) -> list[dict[str, str]]:
    """The modules of a folder, each with a class and a folder inside it."""
    whole = _content(folder / MODULES)
    if not isinstance(whole, list) or not whole or not all(isinstance(each, dict) and isinstance(each.get("type"), str) for each in whole):
        raise Refused(f"{folder / MODULES} lists no modules; give a whole sentence-transformers folder")
    for each in whole:
        path = PurePosixPath(str(each.setdefault("path", "")).replace("\\", "/"))
        if not isinstance(each["path"], str) or path.is_absolute() or ".." in path.parts or ":" in str(path):
            raise Refused(f"{folder / MODULES} names a module outside its folder ({path}); give a folder as the library saved it")
    return whole


def _refuse_loading(folder: Path) -> None:
    """Refuses settings that would be handed on to whoever loads the weights, beyond the harmless ones."""
    for path in (path for name in FIRST for path in folder.rglob(name)):
        fields = _json(path)
        for field_name in LOADING:
            given = fields.get(field_name) or {}
            if isinstance(given, dict) and "/" in str(given.get("attn_implementation")):  # a kernel of the hub
                raise Refused(f"{path} names an attention of the hub ({given['attn_implementation']}), which is code; take that out")
            if odd := sorted(set(given) - HARMLESS if isinstance(given, dict) else [field_name]):
                raise Refused(f"{path} sets how weights are loaded ({field_name}: {', '.join(odd)}), which a folder may not; take that out")


def _refuse_routes(folder: Path) -> None:
    """Refuses a router whose routes are no plain names: it saves the modules of a route into a folder of its name."""
    for path in (*folder.rglob(ROUTER), *folder.rglob(MODEL)):
        fields = _json(path)
        for name in (*(fields.get("structure") or {}), *(fields.get("types") or {})) if "structure" in fields else ():
            if not NAME.fullmatch(str(name)):
                raise Refused(f"{path} has the route {name!r}, which is no name of a folder; give a folder as the library saved it")


def _code_of_readers(place: Path) -> tuple[str, ...]:
    """The files by which the readers of inputs name classes of their own."""
    return tuple(f"{CODE} in {name}" for name in READERS if CODE in _json(place / name))


def _projected(config: Mapping[str, Any]) -> int | None:
    """The width of the vectors of a two-tower model; None where its config leaves it to a default."""
    width = config.get("projection_dim") or (config.get("text_config") or {}).get("projection_size")
    return None if width is None else int(width)


def _named(config: Mapping[str, Any], family: str) -> str:
    classes = config.get("architectures") or []
    if not family:
        return f"a model of no family ({MODEL} has no model_type)"
    return f"a {classes[0]} ({family})" if classes else f"a model of {family}"


def _holds(folder: Path) -> str:
    """What a folder holds in place of a model."""
    if not folder.is_dir():
        return "is not there"
    files = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in files if name.endswith((".pt", ".pth"))]
    if pickles:
        return f"holds no {MODEL}, only weights as a pickle ({', '.join(pickles[:3])}), which says nothing of the model that they are of"
    return f"holds no model ({', '.join(files[:3]) + (', ...' if len(files) > 3 else '') or 'it is empty'})"


def _json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file; none where it is not there."""
    content = _content(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Refused(f"{path} holds a {type(content).__name__} and no fields; give a whole model folder")
    return content


def _content(path: Path) -> Any:
    """The content of a JSON file; None where it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read ({error}); give a whole model folder") from error
