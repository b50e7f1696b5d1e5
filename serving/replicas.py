"""The deployments on Ray Serve: encoder replicas, index replicas, and the HTTP ingress that calls them.

Replicas are constructed from the path or URI of a release, and open the encoder or index themselves.

Shapes: T rows of an item, D width.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.serving.heartbeat import Heartbeat, served_mark
from mirepoix.serving.http.api import About, Busy, Encoded, build_app
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.release import open_release
from mirepoix.serving.searcher import Searcher, SearchResult

_LOG = logging.getLogger("ray.serve")  # shown by Serve, from its level WARNING on

if TYPE_CHECKING:
    import torch

    from mirepoix.models.encoder import Collator, Overlong


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


class EncodeRequest(NamedTuple):
    """Items to encode, all in one role."""

    items: list[Item]
    role: Role


class EncoderReplica:
    """Encodes the items of several requests in one batch."""

    def __init__(self, target: str, batch_size: int, batch_wait_s: float, trust_remote_code: bool = False):
        import torch  # not at the top of the module: the ingress and the process that starts the replicas encode nothing

        self.encoder = open_release(target).open_encoder("cuda" if torch.cuda.is_available() else "cpu", trust_remote_code)
        self.encoder.collator = self.counted = Counted(self.encoder.collator)
        batched: Any = self._batched  # the annotation of `serve.batch` leaves out what it adds to the method
        batched.set_max_batch_size(batch_size)
        batched.set_batch_wait_timeout_s(batch_wait_s)

    async def encode(self, items: list[Item], role: Role) -> list[Encoded]:
        encoded = await self._batched(EncodeRequest(items, role))
        if isinstance(encoded, str):
            raise Refused(encoded)
        return encoded

    async def ready(self) -> None:
        """Returns at once; a replica that cannot run this is not ready."""

    @serve.batch(batch_size_fn=lambda requests: sum(len(request.items) for request in requests))
    async def _batched(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        return await asyncio.to_thread(self.encode_together, requests)

    def encode_together(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
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


class IndexReplica:
    """Searches the index, and reads the documents of the hits; with a mark, it is recorded in the storage that the release is served."""

    def __init__(self, target: str, mark: tuple[str, str] | None = None):
        self._mark = _entered(*mark) if mark else None  # before the release is read, so that `gc` sees it
        self.searcher = Searcher(open_release(target))

    def __del__(self) -> None:
        """Serve calls this when it ends a replica; a record that is left by one that was killed does not count."""
        mark = getattr(self, "_mark", None)
        if mark is not None:
            with suppress(OSError, RuntimeError):
                mark.__exit__()

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        return await asyncio.to_thread(self.searcher.search, rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return self.searcher.thumbnail(id)

    async def ready(self) -> None:
        """Returns at once; a replica that cannot run this is not ready."""


def _entered(target: str, url: str) -> Heartbeat | None:
    """The record that a release is served, once it is written; None where it lies in no storage, or in one that may not be written."""
    mark = served_mark(target, url)
    try:
        return None if mark is None else mark.__enter__()
    except OSError as error:
        _LOG.warning("it cannot be recorded that %s is served (%s); `mirepoix gc` does not see it, so pin its run", target, error)
        return None


class Replicas:
    """The Backend over Serve's replicas; a call is repeated once where a replica died, as encoding and searching have no side effects."""

    def __init__(self, encoder: DeploymentHandle[Any], index: DeploymentHandle[Any], batch_size: int):
        self.encoder, self.index, self.batch_size = encoder, index, batch_size

    async def encode(self, items: Sequence[Item], role: Role) -> list[Encoded]:
        parts = [list(items[start : start + self.batch_size]) for start in range(0, len(items), self.batch_size)]
        encoded = await asyncio.gather(*(_called(self.encoder.encode.remote, part, role) for part in parts))
        return [one for part in encoded for one in part]

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]:
        found: list[SearchResult] = await _called(self.index.search.remote, rows_TD, k, target)
        return found

    async def thumbnail(self, id: str) -> bytes | None:
        picture: bytes | None = await _called(self.index.thumbnail.remote, id)
        return picture

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(_called(self.encoder.ready.remote), _called(self.index.ready.remote))
        except TimeoutError:
            raise Busy from None


async def _called(remote: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
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
    """The HTTP application, in front of the replicas."""

    def __init__(
        self,
        about: About,
        limits: Limits,
        api_key: str | None,
        batch_size: int,
        encoder: DeploymentHandle[Any],
        index: DeploymentHandle[Any],
    ):
        self.build: Callable[[], FastAPI] = lambda: build_app(Replicas(encoder, index, batch_size), about, limits, api_key)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.build()
