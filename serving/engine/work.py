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

if TYPE_CHECKING:
    import torch

    from mirepoix.models.encoder import Collator, Encoder


class EncodeRequest(NamedTuple):
    """Items to encode, all in one role."""

    items: list[Item]
    role: Role


class Encoded(NamedTuple):
    """The rows of an item, its number of tokens, the number of items in its batch, and the seconds that it waited for that."""

    rows_TD: np.ndarray
    tokens: int
    batch: int
    waited_s: float = 0.0


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


class BatchEncoder:
    """Encodes the items of several requests in one batch for each role."""

    def __init__(self, encoder: "Encoder"):
        self.encoder = encoder
        self.encoder.collator = self.counted = Counted(encoder.collator)

    def __call__(self, requests: Sequence[EncodeRequest]) -> list[list[Encoded] | str]:
        """The encoded items of each request, or the reason of its refusal, so that one request does not fail the others of its batch."""
        encoded: list[list[Encoded] | str] = [[]] * len(requests)
        for role in dict.fromkeys(request.role for request in requests):
            places = [place for place, request in enumerate(requests) if request.role == role]
            for place, found in zip(places, self._of_role([requests[place].items for place in places], role), strict=True):
                encoded[place] = found
        return encoded

    def _of_role(self, requests: list[list[Item]], role: Role) -> list[list[Encoded] | str]:
        items = [Item(str(n), item.text, item.images, (), item.instruction) for n, item in enumerate(chain(*requests))]
        try:
            vectors = self.encoder.encode(items, batch_size=len(items), role=role)
        except Refused as refused:
            return [str(refused)] if len(requests) == 1 else [self._of_role([request], role)[0] for request in requests]
        encoded = [
            Encoded(rows_TD, self.counted.tokens.pop(item.id), len(items)) for item, rows_TD in zip(items, vectors.ragged(), strict=True)
        ]
        ends = np.cumsum([len(request) for request in requests])
        return [encoded[end - len(request) : end] for request, end in zip(requests, ends, strict=True)]
