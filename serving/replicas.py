"""What runs on Serve: the encoder's replicas, the index's, and the ingress that speaks HTTP and asks them.

Replicas are given a release's path or URI and light settings, and open the heavy parts themselves.

Shapes: T rows of an item, D width.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mirepoix.models.encoder import Collator, Encoder, Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.vectors import Vectors
from mirepoix.serving.http.api import About, Busy, Encoded, SearchResults, build_app
from mirepoix.serving.http.schemas import Limits
from mirepoix.serving.release import Release, open_release


def verified_encoder(release: Release) -> Encoder:
    """The release's encoder on this machine's device; refused unless it reproduces the golden vectors there."""
    encoder = release.open_encoder().to("cuda" if torch.cuda.is_available() else "cpu")
    release.verify(encoder)
    return encoder


class Counted:
    """A collator that also notes how many tokens each item took."""

    def __init__(self, collator: Collator):
        self.collator = collator
        self.tokens: dict[str, int] = {}

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        batch = self.collator(queries, documents)
        names = (item.id for item in (*queries, *documents))
        self.tokens.update(zip(names, batch["attention_mask"].sum(1).tolist(), strict=True))
        return batch


class Reply(NamedTuple):
    """The items of a request, and what they are."""

    items: list[Item]
    role: Role


class EncoderReplica:
    """Encodes what several requests brought, together."""

    def __init__(self, target: str, batch_size: int, batch_wait_s: float):
        self.encoder = verified_encoder(open_release(target))
        self.encoder.collator = self.counted = Counted(self.encoder.collator)
        self._together.set_max_batch_size(batch_size)
        self._together.set_batch_wait_timeout_s(batch_wait_s)

    async def encode(self, items: list[Item], role: Role) -> list[Encoded]:
        encoded = await self._together(Reply(items, role))
        if isinstance(encoded, str):
            raise Refused(encoded)
        return encoded

    async def ready(self) -> None:
        """Answers."""

    @serve.batch(batch_size_fn=lambda requests: sum(len(request.items) for request in requests))
    async def _together(self, requests: list[Reply]) -> list[list[Encoded] | str]:
        return await asyncio.to_thread(self.encode_together, requests)

    def encode_together(self, requests: list[Reply]) -> list[list[Encoded] | str]:
        """Each request's items encoded; or, if they are refused, why: one visitor's item must not fail the others'."""
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
            Encoded(rows_TD[mask_T].numpy(), self.counted.tokens.pop(item.id), len(items))
            for item, rows_TD, mask_T in zip(items, vectors.rows_NTD, vectors.mask_NT, strict=True)
        ]
        ends = np.cumsum([len(request) for request in requests])
        return [encoded[end - len(request) : end] for request, end in zip(requests, ends, strict=True)]


class IndexReplica:
    """Searches the index, and reads the documents that it finds."""

    def __init__(self, target: str):
        release = open_release(target)
        self.index, self.documents = release.open_index(), release.open_documents()

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResults]:
        return await asyncio.to_thread(self._search, rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        position = self.index.position(id)
        return None if position is None else self.documents.thumbnail(position)

    async def ready(self) -> None:
        """Answers."""

    def _search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResults]:
        query = Vectors(torch.tensor(rows_TD)[None], torch.ones(1, len(rows_TD), dtype=torch.bool))
        (hits,) = self.index.search(query, k, None if target is None else {target})
        shown = [self.documents[self.index.position(hit.id)] for hit in hits]
        return [
            SearchResults(hit.id, hit.score, document.modality.letters, document.text, document.pictured)
            for hit, document in zip(hits, shown, strict=True)
        ]


class Replicas:
    """The Backend that asks Serve's replicas, and asks once more where one died: to encode and to search change nothing."""

    def __init__(self, encoder: DeploymentHandle, index: DeploymentHandle, batch_size: int):
        self.encoder, self.index, self.batch_size = encoder, index, batch_size

    async def encode(self, items: Sequence[Item], role: Role) -> list[Encoded]:
        parts = [list(items[start : start + self.batch_size]) for start in range(0, len(items), self.batch_size)]
        encoded = await asyncio.gather(*(_asked(self.encoder.encode.remote, part, role) for part in parts))
        return [one for part in encoded for one in part]

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResults]:
        return await _asked(self.index.search.remote, rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return await _asked(self.index.thumbnail.remote, id)

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(_asked(self.encoder.ready.remote), _asked(self.index.ready.remote))
        except TimeoutError:
            raise Busy from None


async def _asked(remote: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    for last in (False, True):
        try:
            return await remote(*arguments)
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise Busy from error
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Refused) else error from None
        except RayActorError as error:
            if last:
                raise Busy from error
    raise AssertionError


@serve.ingress()
class IngressReplica:
    """Speaks HTTP."""

    def __init__(
        self, about: About, limits: Limits, api_key: str | None, batch_size: int, encoder: DeploymentHandle, index: DeploymentHandle
    ):
        self.build = lambda: build_app(Replicas(encoder, index, batch_size), about, limits, api_key)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.build()
