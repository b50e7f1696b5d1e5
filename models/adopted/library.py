"""Any dense model that sentence-transformers opens. Only this file imports that library, which is an extra, and only to open a model.

Importing it costs some 7 CPU seconds from nothing, of which torch takes 1.7, transformers 3.7 and the library 1.7, for scikit-learn, scipy
and pandas (`python bench/search.py`). Its `preprocess` is called for the items of one call at a time, since it refuses mixed ones; what it
returns beside tensors, the names of the modality and of the task, is put back when the modules run.

Shapes: P rows of a call, D width.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from mirepoix.models.adopted.collate import Part
from mirepoix.models.adopted.layout import SIMILARITY, Layout
from mirepoix.models.adopted.two_towers import BLANKS, own_temperature
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import TRUSTED, quiet, refused_code, saving
from mirepoix.models.backbones.pictures import decoded, patch_count, picture_size
from mirepoix.models.backbones.plain_tokens import most_tokens
from mirepoix.models.encoder import Overlong
from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused, first_line
from mirepoix.models.item import Item, Modality

_BITS = {"text": Modality.TEXT, "image": Modality.IMAGE, "video": Modality.VIDEO}
_NAMES = {bit: name for name, bit in _BITS.items()}
_ROUTED = "Router"
_MESSAGE = "message"
PROMPT_LENGTH = "prompt_length"
UNOPENED = (
    ImportError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)
"""What the library and those below it raise where a folder is damaged, incomplete, or of another kind."""
LOADED: dict[str, Any] = {"weights_only": True, "dtype": torch.float32}
"""How weights are loaded, whatever a folder says: pickles as tensors alone, an adapter at the precision that it has."""
UNCUT = {"text": {"truncation": False}}
TEMPLATE = 64
"""More than the tokens that a tokenizer puts around a text, or a usual chat template around a conversation."""
POOLER = "pooler"  # part of a tower that is read where a modality's output is the pooler's, and not otherwise


class LibraryReader:
    """Makes the tensors of a call by the library's own `preprocess`, with a copy of the model without weights."""

    def __init__(self, model: Any, layout: Layout):
        self.model = weightless(model)
        self.prompts = layout.prompts
        modalities = model.modalities
        self.message = _MESSAGE in modalities
        self.reads = Modality.NONE
        for name in modalities:
            for part in (name,) if isinstance(name, str) else name:
                self.reads |= _BITS.get(part, Modality.NONE)
        self.together = self.message
        self.routed = type(model[0]).__name__ == _ROUTED
        self.excluded = any(not getattr(module, "include_prompt", True) for module in model.modules())
        self.plain = self.reads == Modality.TEXT  # strings; else a text that looks like the address of a picture would be fetched as one
        names = (_MESSAGE,) if self.message else tuple(name for name, bit in _BITS.items() if self.reads & bit)
        # A prompt that pooling leaves out has one length for a whole call, and a router has one way for each role.
        apart = self.routed or self.excluded
        self.calls = tuple(f"{name}-{role}" for name in names for role in ("query", "document")) if apart else names
        self.most = _least_limit(model)

    def call_of(self, part: Part) -> str:
        name = _MESSAGE if self.message else _NAMES[part.item.modality]
        return f"{name}-{part.role}" if self.routed or self.excluded else name

    def tensors(self, call: str, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        return self._made(call, parts)

    def _made(self, call: str, parts: Sequence[Part], **more: Any) -> dict[str, torch.Tensor]:
        name, _, role = call.partition("-")
        given: dict[str, Any] = {**more, "task": role} if role else more
        if self.excluded and role and name == "text":
            given["prompt"] = parts[0].prompt or None
        made = self.model.preprocess([self._input(part, "prompt" in given) for part in parts], **given)
        tensors = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
        if (length := made.get(PROMPT_LENGTH)) is not None:
            tensors[PROMPT_LENGTH] = torch.full((len(parts),), int(length))
        return tensors

    def lengths(self, call: str, parts: Sequence[Part]) -> list[int]:
        """By the tokenizer alone, without the template of a conversation, and as many tokens a picture as its size or the model says."""
        texts = [part.prompt + part.item.text for part in parts]
        try:
            words = [len(ids) for ids in self.model.tokenizer(texts, truncation=True, max_length=self.model.max_seq_length)["input_ids"]]
        except (TypeError, AttributeError, KeyError):  # it has no tokenizer of transformers
            words = [len(text) for text in texts]
        read = self.message or call.partition("-")[0] == "text"
        views = [[*part.item.images, *part.item.video] for part in parts]
        return [max(1, (count if read else 0) + sum(map(self._picture_length, own))) for count, own in zip(words, views, strict=True)]

    def overlong(self, call: str, part: Part) -> Overlong | None:
        """By reading a part as it is read and once more without a limit, unless its text is surely short."""
        views = sum(map(self._picture_length, (*part.item.images, *part.item.video)))
        if not self.most or most_tokens(part.prompt) + most_tokens(part.item.text) + views + TEMPLATE <= self.most:
            return None
        with quiet():
            read, whole = self._made(call, [part]), self._made(call, [part], processing_kwargs=UNCUT)
        if "attention_mask" not in read:
            return None
        tokens, limit = (int(made["attention_mask"].sum()) for made in (whole, read))
        return Overlong(tokens, limit) if tokens > limit else None

    def _picture_length(self, picture: bytes) -> int:
        processor: Any = getattr(getattr(self.model[0], "processor", None), "image_processor", None)
        if hasattr(processor, "merge_size"):
            width, height = picture_size(picture)
            with suppress(ValueError):
                return int(processor.get_number_of_image_patches(height, width, {})) // int(processor.merge_size) ** 2
        vision = getattr(getattr(self.model.transformers_model, "config", None), "vision_config", None)
        return patch_count(vision) if hasattr(vision, "image_size") and hasattr(vision, "patch_size") else 1

    def _input(self, part: Part, prompted: bool) -> Any:
        """An item as the library takes it, its prompt before its words, or as the system's turn of a conversation."""
        item = part.item
        if self.message:
            contents = [{"type": "image", "image": picture} for picture in decoded(item, item.images)]
            contents += [{"type": "video", "video": decoded(item, item.video)}] if item.video else []
            contents += [{"type": "text", "text": item.text}] if item.text.strip() else []
            turns = [{"role": "user", "content": self._contents(contents)}]
            system = [{"role": "system", "content": self._contents([{"type": "text", "text": part.prompt}])}] if part.prompt else []
            return [*system, *turns]
        if item.video:
            return {"video": decoded(item, item.video)}
        if item.images:
            return {"image": decoded(item, item.images)[0]}
        text = item.text if prompted else part.prompt + item.text
        return text if self.plain else {"text": text}

    def _contents(self, contents: list[dict[str, Any]]) -> Any:
        """The content of a turn, as text where the chat template takes no other."""
        if self.model[0].input_formatter.message_format == "flat":
            return "\n".join(each["text"] for each in contents)
        return contents

    def apart(self, parts: Sequence[Part]) -> list[list[int]]:
        """By prompt, where the pooling leaves it out: the library does that for one length of the prompt at a time."""
        if not self.excluded or self.message:
            return [list(range(len(parts)))]
        groups: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            groups.setdefault(part.prompt, []).append(place)
        return list(groups.values())

    def blank(self, call: str, parts: Sequence[Part]) -> Part | None:
        name, _, said = call.partition("-")
        role: Role = "query" if said == "query" else "document"
        if name != _MESSAGE:
            return None if parts else Part(BLANKS[name], role)
        pictures = () if any(part.item.images for part in parts) or not self.reads & Modality.IMAGE else BLANKS["image"].images
        clip = () if any(part.item.video for part in parts) or not self.reads & Modality.VIDEO else BLANKS["video"].video
        if pictures or clip:  # a tower that reads both is run once for each
            return Part(Item("blank", images=pictures, video=clip), role)
        return None if parts else Part(BLANKS["text"], role)


class LibraryModel:
    """An opened model of the library: the part of an encoder that holds it."""

    unread: tuple[str, ...] = ()

    def __init__(self, model: Any, layout: Layout):
        self.model = model
        self.reader = LibraryReader(model, layout)
        own_temperature(model)
        inner = model.transformers_model
        self.temperature = None if inner is None else own_temperature(inner)

    @property
    def dimension(self) -> int:
        width = self.model.truncate_dim or self.model.get_embedding_dimension()
        if width is None:
            raise Refused("the model's modules do not say how wide its vectors are; give a model whose last module does")
        return int(width)

    @property
    def transformers_model(self) -> Any:
        """The model that an adapter is made for."""
        if self.model.transformers_model is None:
            raise Refused("an adapter needs a model of transformers under it, and this folder has none; give another as backbone.base")
        return self.model.transformers_model

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        """The parts that read pictures, and all the others; without a pooler that nothing reads."""
        vision: dict[str, torch.nn.Module] = {}
        text: dict[str, torch.nn.Module] = {}
        for name, module in _leaves(self.model):
            seen = [part for part in name.split(".") if "vis" in part]
            if POOLER not in name.split(".") or _reads_pooler(self.model):
                (vision if seen else text)[name.replace(".", "/")] = module
        return {name: torch.nn.ModuleDict(parts) for name, parts in (("text", text), ("vision", vision)) if parts}

    def vectors(self, call: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of a call, as the last module gives them, cut to the width that the folder names."""
        name, _, role = call.partition("-")
        given = {"task": role} if role else {}
        vectors_PD: torch.Tensor = self.model({**tensors, "modality": name, **given}, **given)["sentence_embedding"]
        return vectors_PD[:, : self.dimension]

    def frozen(self, call: str) -> bool:
        """False: a folder does not say which of its modules a call runs."""
        return False

    def save(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        """Writes the library's own layout with the weights in `state`, which have the names of the model without adapters."""
        with quiet(), saving(), _holding(self.model, state):
            self.model.save(str(folder), create_model_card=False)


def open_library(folder: Path, layout: Layout, checkpoint: Checkpoint, length: int | None) -> LibraryModel:
    """The model of a folder; refused where the library is not installed, or does not open it whole."""
    try:
        with quiet():
            from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise Refused(
            f"{checkpoint.name} is a sentence-transformers folder, and that library is not installed ({error}); install mirepoix with the "
            "extra sentence-transformers"
        ) from error
    problems: list[str] = []
    try:
        with quiet(), _reported(problems):
            model: Any = SentenceTransformer(
                str(folder), device="cpu", trust_remote_code=checkpoint.trust_remote_code, local_files_only=True, model_kwargs=LOADED
            )
    except UNOPENED as error:
        raise Refused(f"{checkpoint.name} cannot be opened: {_reason(error)}") from error
    problems = [name for name in problems if POOLER not in name.split(".") or _reads_pooler(model)]
    if problems:
        shown = ", ".join(problems[:3]) + (", ..." if len(problems) > 3 else "")
        raise Refused(f"checkpoint {checkpoint.name} lacks {len(problems)} weights ({shown}), which would be random; give a complete one")
    _refuse_empty_tokenizers(model, checkpoint)
    if SIMILARITY in checkpoint.ignore:
        model.similarity_fn_name = "cosine"
    if length is not None:
        try:
            model.max_seq_length = min(length, model.max_seq_length or length)
        except AttributeError as error:
            raise Refused(
                f"backbone.encoder.max_length is {length}, and {checkpoint.name} begins with a {type(model[0]).__name__}, which has no "
                "length to set; give null"
            ) from error
    return LibraryModel(model.float().eval(), layout)


def _reads_pooler(model: Any) -> bool:
    """Whether a first module takes the output of a pooler."""
    ways = [way for module in model.modules() for way in getattr(module, "modality_config", {}).values()]
    return any("pooler" in str(way.get("method_output_name")) for way in ways)


def _refuse_empty_tokenizers(model: Any, checkpoint: Checkpoint) -> None:
    """Refuses a tokenizer without words: transformers makes one where its file is missing, and to that all texts are alike."""
    from transformers import PreTrainedTokenizerBase

    for module in model.modules():
        tokenizer = getattr(module, "tokenizer", None)
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            files = ", ".join(tokenizer.vocab_files_names.values())
            raise Refused(f"{checkpoint.name} has a tokenizer without a vocabulary ({files}); give a whole model folder")


def _reason(error: Exception) -> str:
    """Why a model could not be opened, in one line."""
    text = str(error)
    if "orchvision" in text:
        return f"{text.split(' requires')[0].split()[-1]} of it needs torchvision, which is not installed; install it, or take another"
    if refused := refused_code(error, TRUSTED):
        return refused
    return f"{first_line(error)}; give a whole sentence-transformers folder"


@contextmanager
def _reported(problems: list[str]) -> Iterator[None]:
    """Collects the weights that are missing or of another shape where transformers loads a model, which it only logs."""
    from transformers import PreTrainedModel

    kept = PreTrainedModel.__dict__["_finalize_model_loading"]

    def finalized(model: Any, load_config: Any, loading_info: Any) -> Any:
        info = kept.__func__(model, load_config, loading_info)
        problems.extend(sorted(info.missing_and_mismatched()))
        return info

    PreTrainedModel._finalize_model_loading = staticmethod(finalized)  # type: ignore[method-assign]
    try:
        yield
    finally:
        PreTrainedModel._finalize_model_loading = kept  # type: ignore[method-assign]


def _least_limit(model: Any) -> int:
    """The fewest tokens that a part of a model reads of a text; 0 where all read any number."""
    inner = (module for module in model.modules() if module is not model and type(module).__name__ != _ROUTED)
    readers = [module for module in inner if hasattr(module, "preprocess")]
    limits = [getattr(reader, name, None) for reader in readers for name in ("max_seq_length", "query_length", "document_length")]
    return min((limit for limit in limits if limit is not None and limit < math.inf), default=0)


def weightless(model: Any) -> Any:
    """A copy of a model whose weights take no memory: it preprocesses, and cannot run."""
    empty: dict[int, torch.Tensor] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), False) for weight in model.parameters()
    }
    empty |= {id(weight): torch.empty_like(weight, device="meta") for weight in model.buffers()}
    return copy.deepcopy(model, dict(empty))


def _leaves(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """The smallest modules that have parameters of their own, by name."""
    for name, child in module.named_children():
        inner = f"{prefix}.{name}" if prefix else name
        if any(True for _ in child.parameters(recurse=False)):
            yield inner, child
        else:
            yield from _leaves(child, inner)


@contextmanager
def _holding(model: Any, state: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """In this block the model has these weights, and no adapters; it is as it was after it."""
    adapted = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "base_layer")]
    for name, layer in adapted:
        _put(model, name, layer.base_layer)
    before = {}
    try:
        for name, weight in (*model.named_parameters(), *model.named_buffers()):
            if name in state:
                before[name] = weight.data
                weight.data = state[name].to(weight.dtype)
        yield
    finally:
        for name, weight in (*model.named_parameters(), *model.named_buffers()):
            if name in before:
                weight.data = before[name]
        for name, layer in adapted:
            _put(model, name, layer)


def _put(model: Any, name: str, layer: torch.nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, layer)
