"""Turns items into the calls of a model that reads one modality at a time: for each call a sub-batch of tensors, and whose items they are.

A collated batch is flat, as engines move tensors and nothing else: NAME.FEATURE for every tensor of call NAME, and NAME.places, the index
of each row's item in the batch. A row with the place -1 is of no item: a blank that training adds where a batch has nothing for a call, so
that all ranks run the same modules in the same order. Its vector is multiplied by zero.

Shapes: N items, P rows of a call, L tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.encoder import Overlong, refuse_empty
from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

PLACES = "places"
VECTORS = "vectors"  # of a call that was made before the forward
BLANK = -1
AGAIN = "#"  # between a call and its number, where its parts are read in several goes


class Part(NamedTuple):
    """An item, or the part of it that one call reads, with the text that is put before its words."""

    item: Item
    role: Role
    prompt: str = ""


class Reader(Protocol):
    """Makes the tensors of a model's calls, on the CPU, without its weights; picklable."""

    @property
    def reads(self) -> Modality: ...

    @property
    def together(self) -> bool:
        """Whether an item of several modalities is read by one call."""

    @property
    def prompts(self) -> Mapping[str, str]: ...

    @property
    def calls(self) -> tuple[str, ...]:
        """In the order in which a forward makes them."""

    def call_of(self, part: Part) -> str:
        """The call that reads a part."""

    def tensors(self, call: str, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
        """The tensors of a call; the first dimension of what the model returns for them is that of the parts."""

    def lengths(self, call: str, parts: Sequence[Part]) -> list[int]:
        """The tokens of each part, or its patches, without decoding a picture; near them where a model's library alone could say."""

    def overlong(self, call: str, part: Part) -> Overlong | None:
        """Whether words of a part are cut."""

    def apart(self, parts: Sequence[Part]) -> list[list[int]]:
        """The places of the parts of a call that can be read at once; most models read all of them at once."""

    def blank(self, call: str, parts: Sequence[Part]) -> Part | None:
        """A part to add to those of a call in training, so that it runs all that any batch runs; None where these do already."""


class AdoptedCollator:
    """Turns items into the sub-batches of a reader's calls."""

    def __init__(self, config: AdoptedConfig, reader: Reader, name: str, training: bool = False):
        self.config = config
        self.reader = reader
        self.name = name
        self.training = training
        self.prompts: dict[Role, str] = {
            "query": _prompt(reader.prompts, config.query_prompt, ("query",), "query_prompt"),
            "document": _prompt(reader.prompts, config.document_prompt, ("document", "passage", "corpus"), "document_prompt"),
        }

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_empty(items)
        grouped = self._grouped(queries, documents)
        batch: dict[str, torch.Tensor] = {}
        tokens_N = torch.zeros(len(items), dtype=torch.long)
        for call, placed in grouped.items():
            blank = self.reader.blank(call, [part for _, part in placed]) if self.training else None
            placed = [*placed, *([(BLANK, blank)] if blank else [])]
            if not placed:
                continue
            groups = self.reader.apart([part for _, part in placed])
            if self.training and len(groups) > 1:
                raise Refused(
                    f"texts of one batch have {len(groups)} prompts or instructions, and {self.name} leaves the prompt out of its pooling, "
                    "which it does for one prompt at a time: ranks would differ in what they run; give pairs.without_instruction=1"
                )
            for number, group in enumerate(groups):
                tensors = self.reader.tensors(call, [placed[place][1] for place in group])
                places_P = torch.tensor([placed[place][0] for place in group])
                prefix = f"{call}{AGAIN}{number}" if number else call
                batch |= {f"{prefix}.{name}": tensor for name, tensor in tensors.items()} | {f"{prefix}.{PLACES}": places_P}
                if (mask := tensors.get("attention_mask")) is not None and len(mask) == len(places_P):
                    own = places_P >= 0
                    tokens_N.index_add_(0, places_P[own], mask.sum(1)[own].long())
        length = max(1, int(tokens_N.max()))
        return {"attention_mask": (torch.arange(length)[None] < tokens_N[:, None]).long(), **batch}

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item, of all the calls that read a part of it."""
        lengths = [0] * (len(queries) + len(documents))
        for call, placed in self._grouped(queries, documents).items():
            if placed:
                for (place, _), length in zip(placed, self.reader.lengths(call, [part for _, part in placed]), strict=True):
                    lengths[place] += length
        return lengths

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        """Whether words of an item are cut, by the part that has them; the prompt counts."""
        worded = (part for part in self._parts(item, role) if part.item.text.strip())
        return next((over for part in worded if (over := self.reader.overlong(self.reader.call_of(part), part))), None)

    def _grouped(self, queries: Sequence[Item], documents: Sequence[Item]) -> dict[str, list[tuple[int, Part]]]:
        """The parts that each call reads, with the place of their items."""
        grouped: dict[str, list[tuple[int, Part]]] = {call: [] for call in self.reader.calls}
        for place, item in enumerate((*queries, *documents)):
            for part in self._parts(item, "query" if place < len(queries) else "document"):
                grouped[self.reader.call_of(part)].append((place, part))
        return grouped

    def refusal(self, modality: Modality) -> str | None:
        """Why items of a modality are not read; None where they are."""
        if modality & ~self.reader.reads:
            return f"{self.name} reads {self.reader.reads.words} alone; leave such items out, or take a model that reads them"
        if self.reader.together or self.config.several == "sum" or modality.bit_count() == 1:
            return None
        return (
            f"{self.name} reads one of them at a time; give backbone.encoder.several=sum, which adds the vectors of its parts, or items of "
            "one modality"
        )

    def _parts(self, item: Item, role: Role) -> list[Part]:
        """The parts in which an item is read: itself, or one for each of its modalities and pictures."""
        if why := self.refusal(item.modality):
            raise Refused(f"item {item.id!r} ({item.source}:{item.line}) has {item.modality.words}, and {why}")
        prompt = self.config.instructed.format(instruction=item.instruction.strip()) if item.instruction.strip() else self.prompts[role]
        if self.reader.together:
            return [Part(item, role, prompt)]
        bits = [bit for bit in Modality if bit and item.modality & bit]
        parts = {
            Modality.TEXT: [replace(item, images=(), video=())],
            Modality.IMAGE: [replace(item, text="", images=(picture,), video=()) for picture in item.images],
            Modality.VIDEO: [replace(item, text="", images=())],
        }
        return [Part(part, role, prompt) for bit in bits for part in parts[bit]]


def _prompt(prompts: Mapping[str, str], named: str | None, usual: Sequence[str], option: str) -> str:
    """The prompt of a name, or the first of the usual names that the folder has."""
    if named is not None and named not in prompts:
        known = ", ".join(prompts) or "none"
        raise Refused(f"backbone.encoder.{option} is {named!r}, and the folder's prompts are {known}; give one of them, or null")
    return next((prompts[name] for name in ((named,) if named else usual) if prompts.get(name)), "")
