"""What is encoded at once: the items of several requests, each of which gets its own vectors or its own refusal.

Shapes: T rows of an item, D width.
"""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.truncation import Cut, Truncate, cut

if TYPE_CHECKING:
    import torch

    from mirepoix.models.encoder import Collator, Encoder, Overlong


class EncodeRequest(NamedTuple):
    """Items to encode, all in one role."""

    items: list[Item]
    role: Role
    truncate: Truncate = "end"


class Encoded(NamedTuple):
    """The rows of an item, its number of tokens, and the seconds that it waited for its batch."""

    rows_TD: np.ndarray
    tokens: int
    waited_s: float = 0.0
    note: str = ""  # which of its words were not read


class Counted:
    """A collator that records the number of tokens of each item."""

    def __init__(self, collator: "Collator"):
        self.collator = collator
        self.tokens: dict[str, int] = {}

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> "dict[str, torch.Tensor]":
        batch = self.collator(queries, documents)
        names = (item.id for item in (*queries, *documents))
        self.tokens.update(zip(names, batch["attention_mask"].sum(1).tolist(), strict=True))
        return batch

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        return self.collator.lengths(queries, documents)

    def overlong(self, item: Item, role: Role) -> "Overlong | None":
        return self.collator.overlong(item, role)


class BatchEncoder:
    """Encodes the items of several requests in one batch for each role."""

    def __init__(self, encoder: "Encoder"):
        self.encoder = encoder
        self.encoder.collator = self.counted = Counted(encoder.collator)

    def __call__(self, requests: Sequence[EncodeRequest]) -> list[list[Encoded] | str]:
        """The encoded items of each request, or the reason of its refusal, so that one request does not fail the others of its batch."""
        encoded: list[list[Encoded] | str] = [[]] * len(requests)
        cuts: dict[int, Cut] = {}
        for place, request in enumerate(requests):
            try:
                cuts[place] = cut(self.counted, request.items, request.role, request.truncate)
            except Refused as refused:
                encoded[place] = str(refused)
        for role in dict.fromkeys(requests[place].role for place in cuts):
            places = [place for place in cuts if requests[place].role == role]
            for place, found in zip(places, self._of_role([cuts[place].items for place in places], role), strict=True):
                encoded[place] = found if isinstance(found, str) else _noted(found, cuts[place].notes)
        return encoded

    def _of_role(self, requests: list[list[Item]], role: Role) -> list[list[Encoded] | str]:
        items = [Item(str(n), item.text, item.images, (), item.instruction) for n, item in enumerate(chain(*requests))]
        try:
            vectors = self.encoder.encode(items, batch_size=len(items), role=role)
        except Refused as refused:
            return [str(refused)] if len(requests) == 1 else [self._of_role([request], role)[0] for request in requests]
        encoded = [Encoded(rows_TD, self.counted.tokens.pop(item.id)) for item, rows_TD in zip(items, vectors.ragged(), strict=True)]
        ends = np.cumsum([len(request) for request in requests])
        return [encoded[end - len(request) : end] for request, end in zip(requests, ends, strict=True)]


def _noted(encoded: list[Encoded], notes: list[str]) -> list[Encoded]:
    return [one._replace(note=note) if note else one for one, note in zip(encoded, notes, strict=True)]
