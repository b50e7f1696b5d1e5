"""The HTTP API over a Backend; it holds no model and no index.

POST /v1/embeddings     as OpenAI's; an input may also be {"text", "image"}, and messages may carry pictures as data URIs
POST /v1/search         JSON or multipart; text, a picture or both in, ranked documents out
GET  /v1/items/{id}/image, /v1/models, /health, /metrics, / (the search page)

Shapes: T rows of an item, D width.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.picture_formats import picture_format
from mirepoix.serving.encoding.truncation import TooLong
from mirepoix.serving.http.guard import ApiError, Figures, Guard, error_reply
from mirepoix.serving.http.inputs import address_notes
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.http.schemas import Reader
from mirepoix.serving.pictures import PictureRefused
from mirepoix.serving.searcher import SearchResult, instruction_for

_PAGE = Path(__file__).parent / "page"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PROBE_SECONDS = 1.0
_NOWHERE = "there is nothing at this path; POST to /v1/search or /v1/embeddings"


@dataclass(frozen=True)
class About:
    """The release behind the API: what replies name, and the widths and instructions that requests use."""

    name: str
    version: str
    widths: tuple[int, ...]
    instructions: dict[str, str]
    documents: dict[str, int] = field(default_factory=dict)  # how many there are of each modality, by its letters


class Encoded(NamedTuple):
    """The rows of an item, its number of tokens, and the number of items in its batch."""

    rows_TD: np.ndarray
    tokens: int
    batch: int


class Busy(Exception):
    """No replica has room for the request."""


class Backend(Protocol):
    """Encodes and searches; raises Refused for items that the encoder does not take, and Busy where no replica has room."""

    async def encode(self, items: Sequence[Item], role: Role) -> list[Encoded]: ...

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]: ...

    async def thumbnail(self, id: str) -> bytes | None: ...

    async def ready(self) -> None: ...


class HealthProbe:
    """Checks that the backend answers; concurrent callers share one check, and its result is kept for PROBE_SECONDS."""

    def __init__(self, ready: Callable[[], Awaitable[None]]):
        self._ready = ready
        self._check: asyncio.Task[None] | None = None
        self._checked_at = 0.0

    async def wait(self) -> None:
        """Returns when the backend has answered, or raises its exception."""
        if self._check is None or (self._check.done() and time.monotonic() - self._checked_at > PROBE_SECONDS):
            self._check = asyncio.create_task(self._run())
        await asyncio.shield(self._check)

    async def _run(self) -> None:
        try:
            await self._ready()
        finally:
            self._checked_at = time.monotonic()


def build_app(backend: Backend, about: About, limits: Limits, api_key: str | None = None) -> FastAPI:
    """The application that answers from the backend."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    figures = Figures()
    reader = Reader(limits)
    probe = HealthProbe(backend.ready)

    async def encode(items: Sequence[Item], role: Role) -> list[Encoded]:
        encoded = await backend.encode(items, role)
        for one in encoded:
            figures.batch_size.observe(one.batch)
        return encoded

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = await reader.embeddings(request)
        _check_model(body.model, about)
        if body.dimensions is not None and body.dimensions not in about.widths:
            trained = ", ".join(map(str, about.widths))
            raise ApiError(400, f"dimensions is {body.dimensions}; this encoder was trained for {trained}", "dimensions")
        items = await reader.items(body)
        encoded = await encode(items, body.role)
        data = [
            {"object": "embedding", "index": n, **_embedding(one.rows_TD, body.dimensions, body.encoding_format)}
            for n, one in enumerate(encoded)
        ]
        tokens = sum(one.tokens for one in encoded)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        reply = {"object": "list", "data": data, "model": about.name, "usage": usage}
        return JSONResponse(reply | {"warnings": notes} if (notes := address_notes(items)) else reply)

    @app.post("/v1/search")
    async def search(request: Request) -> Response:
        start = time.perf_counter()
        body, upload = await reader.search(request)
        _check_model(body.model, about)
        target = _target(body.target)
        item = await reader.query(body, upload)
        if body.instruction is None:
            item = Item(
                id=item.id, text=item.text, images=item.images, instruction=instruction_for(about.instructions, item.modality, target)
            )
        (encoded,) = await encode([item], "query")
        found = await backend.search(encoded.rows_TD, body.k, target)
        results = [
            {
                "id": one.id,
                "score": one.score,
                "rank": rank,
                "modality": one.modality,
                "text": one.text,
                "image": f"/v1/items/{quote(one.id, safe='')}/image" if one.pictured else None,
                "source": one.source,
            }
            for rank, one in enumerate(found, start=1)
        ]
        took = round((time.perf_counter() - start) * 1000, 1)
        reply = {"object": "search", "release": about.version, "model": about.name, "took_ms": took, "results": results}
        return JSONResponse(reply | {"warnings": warnings} if (warnings := _warnings(target, about)) else reply)

    @app.get("/v1/items/{id:path}/image")
    async def item_image(id: str) -> Response:
        data = await backend.thumbnail(id)
        if data is None:
            raise ApiError(404, "no item of this id has a picture", "id")
        media = "image/png" if picture_format(data) == "PNG" else "image/jpeg"
        return Response(data, media_type=media, headers={"Cache-Control": "private, max-age=60"})

    @app.get("/v1/models")
    async def models() -> Response:
        model = {"id": about.name, "object": "model", "created": 0, "owned_by": "mirepoix"}
        served = {"release": about.version, "dimensions": about.widths, "documents": about.documents}
        return JSONResponse({"object": "list", "data": [model | served]})

    @app.get("/health")
    async def health() -> Response:
        await probe.wait()
        return JSONResponse({"status": "ok", "release": about.version, "model": about.name, "key": api_key is not None})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(figures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers={"Content-Security-Policy": _CONTENT_POLICY, "Cache-Control": "no-cache"})

    for file in ("style.css", "page.js", "icon.svg"):
        app.add_api_route(f"/{file}", partial(_page_file, file), include_in_schema=False)

    _map_error(app, ApiError, lambda error: error)
    _map_error(app, PictureRefused, _picture_error)
    _map_error(app, TooLong, lambda error: ApiError(400, str(error), error.param, "too_many_tokens"))
    _map_error(app, Refused, lambda error: ApiError(400, str(error).splitlines()[0]))
    _map_error(app, Busy, lambda error: ApiError(503, "the server is busy; try again", headers={"Retry-After": "1"}))
    _map_error(app, HTTPException, _http_error)
    app.add_middleware(Guard, figures=figures, api_key=api_key, max_in_flight=limits.max_in_flight, timeout_s=limits.timeout_s)
    return app


async def _page_file(name: str) -> Response:
    return FileResponse(_PAGE / name, headers={"Cache-Control": "no-cache"})


def _map_error(app: FastAPI, kind: type[Exception], convert: Callable[[Any], ApiError]) -> None:
    async def handler(request: Request, error: Exception) -> Response:
        return error_reply(convert(error))

    app.add_exception_handler(kind, handler)


def _http_error(error: HTTPException) -> ApiError:
    """What the framework refuses: a path that there is not, and a method that a path does not take, with those that it takes."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return ApiError(405, f"this path takes {allowed}", headers=error.headers)
    return ApiError(error.status_code, _NOWHERE if error.status_code == 404 else "the request is malformed")


def _picture_error(error: PictureRefused) -> ApiError:
    return ApiError(413 if error.reason == "too many bytes" else 400, str(error), "image", error.reason.replace(" ", "_"))


def _check_model(model: str | None, about: About) -> None:
    if model is not None and model != about.name:
        raise ApiError(404, f"this server has no model of that name; it serves {about.name}", "model", "model_not_found")


def _target(letters: str | None) -> Modality | None:
    if letters is None:
        return None
    try:
        return Modality.of_letters(letters)
    except ValueError:
        raise ApiError(400, 'target is unknown; give "t", "i", "it" or null', "target") from None


def _warnings(target: Modality | None, about: About) -> list[str]:
    """Why a search has no result that could have some: the release has no document of the target."""
    if target is None or not about.documents or target.letters in about.documents:
        return []
    there = ", ".join(f"{count:,} {_plural(letters)}" for letters, count in about.documents.items())
    return [f"the release has no {_plural(target.letters)}; it has {there}"]


def _plural(letters: str) -> str:
    words = {"t": "texts", "i": "pictures", "it": "pictures with text", "v": "clips", "vt": "clips with text"}
    return words.get(letters, f"documents of {letters}")


def _embedding(rows_TD: np.ndarray, width: int | None, form: str) -> dict[str, Any]:
    """One row as a plain embedding; several rows as a list of rows, or in base64 with their shape."""
    if width is not None and width < rows_TD.shape[1]:
        rows_TD = rows_TD[:, :width] / np.linalg.norm(rows_TD[:, :width], axis=1, keepdims=True)
    single = len(rows_TD) == 1
    if form == "base64":
        packed = base64.b64encode(rows_TD.astype("<f4").tobytes()).decode()
        return {"embedding": packed} if single else {"embedding": packed, "shape": list(rows_TD.shape)}
    return {"embedding": rows_TD[0].tolist() if single else rows_TD.tolist()}
