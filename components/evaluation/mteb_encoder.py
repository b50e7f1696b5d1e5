"""An encoder, or that of a release, as mteb takes one: `mteb.evaluate(MtebEncoder(...), tasks)`.

It has mteb's EncoderProtocol, and not its SearchProtocol: mteb brings the documents of each task, which are in no release's index, and
searches them exactly, by the similarity below. Tasks that rank candidates of their own, or that ask for no search, need nothing else then.

Shapes: N items, Q queries, T rows an item, D width.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
import xxhash

from mirepoix.components.evaluation.mteb_inputs import Row, read_batch, windows
from mirepoix.models.encoder import Encoder
from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.vectors import Vectors, maxsim
from mirepoix.serving.in_process.searcher import instruction_for

_LOG = logging.getLogger(__name__)
VERSION = "2.26"
"""The version of mteb that this was written for, and is tested with."""
NUM_FRAMES, SAMPLING_RATE = 32, 16000
"""Frames of a clip where an encoder names no number, as mteb reads clips for UNITE; the rate of sound, which mteb's collator asks for."""
DOCUMENTS = 4096  # compared at once
ONE_VECTOR = ("classification", "clustering")
"""Types of tasks whose classifiers take one vector an item."""


class MtebEncoder:
    """An encoder with mteb's EncoderProtocol.

    `instructions` says in which words queries are asked. None: in those of the release, by what a query and the documents consist of.
    "task": in those of mteb's task, and documents too where it has words for them. A mapping has words by the name of a task, by what
    queries and documents consist of ("t->i"), and for all others under "". A query that brings an instruction of its own has that.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        *,
        revision: str | None = None,
        release_instructions: Mapping[str, str] | None = None,
        instructions: str | Mapping[str, str] | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
    ):
        if isinstance(instructions, str) and instructions != "task":
            raise Refused(f'instructions are {instructions!r}; give "task", words by task, as {{"t->i": "..."}}, or None')
        if num_frames is not None and fps is not None:
            raise Refused(f"num_frames is {num_frames} and fps {fps}; give one of the two")
        if max_frames is not None and fps is None:
            raise Refused(f"max_frames is {max_frames}, and bounds the frames that fps takes; give fps too, or num_frames alone")
        self.encoder, self.name = encoder, name
        self._revision, self._instructions = revision, instructions
        self._release_instructions = release_instructions or {}
        own = getattr(encoder.config, "max_frames", None) or NUM_FRAMES
        self._sampling = {"num_frames": own if num_frames is None and fps is None else num_frames, "fps": fps, "max_frames": max_frames}
        self._chosen = {"num_frames": num_frames, "fps": fps, "max_frames": max_frames}
        self._logged: set[tuple[str, str, str]] = set()

    def __repr__(self) -> str:
        return f"<encoder for mteb: {self.name}, {self.encoder.architecture}, on {self.encoder.device}>"

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = True,
        precision: str | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """The vectors of all rows: (N, D), or of an encoder with several rows an item (N, T, D), zeros after the rows of an item.

        A row with nothing in it has zeros alone; `similarity` has it behind all others.
        """
        role: Role = "query" if prompt_type == "query" else "document"
        self._refuse(task_metadata, inputs, precision, prompt_type)
        parts = [
            self._encoded(window, task_metadata, role, batch_size)
            for window in windows(self._rows(inputs, task_metadata.name, role, show_progress_bar))
        ]
        if not parts:
            raise Refused(f"{task_metadata.name} has no rows to encode in {hf_subset}, {hf_split}")
        rows_NTD = Vectors.cat(parts).rows_NTD
        return rows_NTD if self._several else rows_NTD[:, 0]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The scores of the first ones, as queries, with the second ones, (Q, N): cosines, or with several rows an item MaxSim."""
        queries, documents = self._vectors(embeddings1), self._vectors(embeddings2)
        blocks = [documents[start : start + DOCUMENTS] for start in range(0, len(documents), DOCUMENTS)]
        return torch.cat([self._scores(queries, block) for block in blocks], 1)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The scores of each pair of a first and a second one, (N,)."""
        first, second = self._vectors(embeddings1), self._vectors(embeddings2)
        return torch.cat([self._scores(first[row : row + 1], second[row : row + 1])[0] for row in range(len(first))])

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside its results, and finds earlier ones by: name, revision, and the settings that are no defaults."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        weights = [*self.encoder.parameters(), *self.encoder.buffers()]
        words = self._instructions or self._release_instructions
        given = dict(self._instructions) if isinstance(self._instructions, Mapping) else self._instructions
        settings: dict[str, Any] = {"instructions": given, **self._chosen}
        settings = {key: value for key, value in settings.items() if value is not None}
        about = {
            "name": self.name if "/" in self.name else f"mirepoix/{self.name}",
            "revision": self._revision or weights_digest(self.encoder),
            "modalities": [str(bit.name).lower() for bit in Modality if bit & self.encoder.reads],
            "embed_dim": self.encoder.dimension,
            "max_tokens": self._max_tokens,
            "n_parameters": sum(weight.numel() for weight in self.encoder.parameters()),
            "memory_usage_mb": round(sum(weight.numel() * weight.element_size() for weight in weights) / 2**20),
            "similarity_fn_name": ScoringFunction.MAX_SIM if self._several else ScoringFunction.COSINE,
            "model_type": ["late-interaction" if self._several else "dense"],
            "framework": ["PyTorch", "Transformers"],
            "use_instructions": bool(words),
            "experiment_kwargs": settings or None,
        }
        return ModelMeta.create_empty(about)

    @cached_property
    def _several(self) -> bool:
        """Whether an item has several rows."""
        text = Modality.TEXT in self.encoder.reads
        probe = read_batch({"text": ["a"]} if text else {"image": [_blank()]}, "probe", 0)
        vectors = self.encoder.encode([row.item for row in probe if row.item])
        return vectors.rows_NTD.shape[1] > 1

    @property
    def _max_tokens(self) -> int | None:
        """The most tokens that are read of a text."""
        longer = self.encoder.collator.overlong(Item("probe", "a " * 65536), "document") if Modality.TEXT in self.encoder.reads else None
        return longer.limit if longer else None

    def _refuse(self, task: Any, inputs: Any, precision: str | None, prompt_type: Any) -> None:
        if "audio" in (getattr(inputs.dataset, "features", None) or ()):
            raise Refused(f"{task.name} has audio, which no encoder here reads; leave the task out: its modalities are {task.modalities}")
        if precision not in (None, "float32"):
            raise Refused(f"precision is {precision!r}, and vectors are float32; leave precision out")
        if prompt_type is None and self._several and task.simplified_task_type in ONE_VECTOR:
            raise Refused(f"{task.name} takes one vector an item, and {self.encoder.architecture} has several; leave the task out")

    def _rows(self, inputs: Any, task: str, role: Role, show_progress_bar: bool) -> Iterator[Row]:
        if "video" in (getattr(inputs.dataset, "features", None) or ()):
            from mteb.models.modality_collators import VideoCollator

            inputs.collate_fn = VideoCollator(target_sampling_rate=SAMPLING_RATE, **self._sampling)
        from tqdm.auto import tqdm

        count = 0
        for batch in tqdm(inputs, desc=f"{task}: {role}", disable=not show_progress_bar):
            for row in read_batch(batch, f"{task}: {role}", count):
                count += 1
                yield row

    def _encoded(self, window: list[Row], task: Any, role: Role, batch_size: int) -> Vectors:
        """The vectors of rows, those of empty ones without a row."""
        items = [self._worded(row, task, role) for row in window if row.item is not None]
        for item in items:
            if why := self.encoder.refusal(item.modality):
                raise Refused(f"{item.id} has {item.modality.words}, and {why}; leave the task out")
        full = [place for place, row in enumerate(window) if row.item is not None]
        if len(full) < len(window):
            _LOG.warning("%s: %d of %d %ss are empty, and rank behind all others", task.name, len(window) - len(full), len(window), role)
        if not items:
            nothing = torch.zeros(len(window), 1, self.encoder.dimension)
            return Vectors(nothing, nothing[..., 0].bool())
        found = self.encoder.encode(items, batch_size, role=role)
        rows_NTD = torch.zeros(len(window), *found.rows_NTD.shape[1:])
        rows_NTD[full] = found.rows_NTD * found.mask_NT[..., None]
        return Vectors(rows_NTD, _mask(rows_NTD))

    def _worded(self, row: Row, task: Any, role: Role) -> Item:
        """The item of a row with the instruction that it is encoded with."""
        item = row.item
        assert item is not None
        if row.instructed:
            self._log(task.name, role, "each with its own instruction, such as", item.instruction)
            return item
        words, source = self._words(item, task, role)
        self._log(task.name, role, source, words)
        return Item(item.id, item.text, item.images, item.video, words)

    def _words(self, item: Item, task: Any, role: Role) -> tuple[str, str]:
        """The instruction of an item, and where it is from."""
        if self._instructions == "task":
            prompt = task.prompt.get(role) if isinstance(task.prompt, Mapping) else task.prompt if role == "query" else None
            if prompt:
                return prompt, "with the instruction of mteb's task"
        if role == "document":
            return "", ""
        target = _target(task)
        kind = f"{item.modality.letters}->{target.letters}" if target else ""
        given = self._instructions if isinstance(self._instructions, Mapping) else {}
        key = next((key for key in (task.name, kind, "") if key in given), None)
        if key is not None:
            return given[key], f"with the instruction given for {key or 'all tasks'}"
        source = f"with the instruction of the release for {kind}"
        if not kind or kind not in self._release_instructions:
            source = "with the general instruction of the release" + (f", which has none for {kind}" if kind else "")
        return instruction_for(self._release_instructions, item.modality, target), source

    def _log(self, task: str, role: Role, source: str, words: str) -> None:
        """Says once in which words the queries, or the documents, of a task are encoded."""
        key = (task, role, source if source.startswith("each") else words)
        if key in self._logged:
            return
        self._logged.add(key)
        many = "queries" if role == "query" else "documents"
        if words:
            _LOG.info("%s: %s are encoded %s: %r", task, many, source, words)
        else:
            _LOG.info("%s: %s are encoded without an instruction", task, many)

    def _vectors(self, given: Any) -> Vectors:
        rows = torch.as_tensor(given, dtype=torch.float32)
        rows_NTD = rows.reshape(-1, *rows.shape[-2:]) if self._several else rows.reshape(-1, 1, rows.shape[-1])
        return Vectors(rows_NTD, _mask(rows_NTD))

    def _scores(self, queries: Vectors, documents: Vectors) -> torch.Tensor:
        """Scores on the device of the encoder, returned on the CPU; those of a document without rows are the lowest that there are."""
        device = self.encoder.device
        near = [Vectors(part.rows_NTD.to(device), part.mask_NT.to(device)) for part in (queries, documents)]
        with torch.inference_mode():
            scores_QN = maxsim(*near).cpu()
            scores_QN[:, ~documents.mask_NT.any(1)] = -queries.mask_NT.sum(1, keepdim=True).float()
        return scores_QN


def weights_digest(encoder: Encoder) -> str:
    """A digest of an encoder's weights and settings, for one that is of no release."""
    state = xxhash.xxh3_128(repr(encoder.config).encode())
    for name, weight in sorted(encoder.state_dict().items()):
        state.update(name.encode())
        state.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()[:12]


def _mask(rows_NTD: torch.Tensor) -> torch.Tensor:
    """Which rows are rows of an item: these are of unit norm."""
    return (rows_NTD != 0).any(-1)


def _target(task: Any) -> Modality | None:
    """What the documents of a task consist of; None where it does not say."""
    if task.category is None:
        return None
    letters = "".join(letter for letter in task.category.partition("2")[2] if letter in "tiv")
    return Modality.of_letters(letters) if letters else None


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (32, 32), "white")
