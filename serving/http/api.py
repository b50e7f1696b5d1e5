"""The HTTP API over a Backend; it holds no model and no index.

POST /v1/embeddings     as OpenAI's; an input may also be {"text", "image"}, and messages may carry pictures as data URIs
POST /v1/search         JSON or multipart; text, a picture or both in, ranked documents out
GET  /v1/items/{id}/image, /v1/models, /metrics, / (the search page)
GET  /live (the port is open), /ready and /health (a release is loaded and reproduces its golden vectors); HEAD too

Shapes: T rows of an item, D width.
"""

import mimetypes
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused, first_line
from mirepoix.models.item import Item, Modality
from mirepoix.models.picture_formats import picture_format
from mirepoix.serving.engine.batcher import EncoderDied, Overloaded, TooSlow
from mirepoix.serving.engine.current import About, Starting
from mirepoix.serving.engine.telemetry.metrics import CLASSES, Figures
from mirepoix.serving.engine.telemetry.tracing import Tracer
from mirepoix.serving.engine.truncation import SHORTEN, Truncate
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.guard import KEY, RELEASE, ApiError, Guard, busy, error_reply, starting, too_many
from mirepoix.serving.http.inputs import address_notes
from mirepoix.serving.http.keys import Key, Keys
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.http.replies import embeddings_body, search_body
from mirepoix.serving.http.schemas import Reader
from mirepoix.serving.in_process.searcher import SearchResult, instruction_for
from mirepoix.serving.pictures import PictureRefused

_PAGE = Path(__file__).parent / "page"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PROBES = ["GET", "HEAD"]  # some load balancers send HEAD
_NOWHERE = "there is nothing at this path; POST to /v1/search or /v1/embeddings"
_TARGETS = 'target is unknown; give letters of t (text), i (picture) and v (clip), such as "it", or null'
_DIED = "the encoder process died each time it encoded this request; send it alone, or smaller"

_TOO_SLOW = "encoding one input took longer than this server lets a request take (limits.timeout_s); send a smaller one"


class Answers(Protocol):
    """A release, held for one request; it raises Refused for items that the encoder does not take, and Overloaded where they would wait
    too long."""

    about: About

    @property
    def ready(self) -> bool:
        """Whether an encoder is there."""

    async def encode(self, items: Sequence[Item], role: Role, truncate: Truncate) -> list[Encoded]: ...

    async def search(self, rows_TD: np.ndarray, k: int, target: Modality | None) -> list[SearchResult]: ...

    async def thumbnail(self, id: str) -> bytes | None: ...


class Backend(Protocol):
    """What answers: the current release."""

    def held(self) -> AbstractAsyncContextManager[Answers]:
        """The release that answers, for one request from its begin to its end; Starting where none does yet."""

    def excess(self, entering: int = 0) -> float:
        """By how many seconds the next short request would be late if so many others came before; 0 or less if it would not."""

    def version(self) -> str:
        """The version of the release that answers; empty while none does."""

    def waiting(self) -> Mapping[str, int]:
        """The items that wait, of interactive and of bulk requests."""


def build_app(
    backend: Backend,
    limits: Limits,
    keys: Keys | None = None,
    figures: Figures | None = None,
    tracer: Tracer | None = None,
    admission: Admission | None = None,
    all_metrics: Callable[[], Awaitable[bytes]] | None = None,
) -> FastAPI:
    """The application that answers from the backend; `all_metrics` gives those of several processes, where it is one of them."""
    # A redirect of a path with a slash too many would name the scheme and the host that the client said, with the key sent after it.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    figures = figures or Figures()
    tracer = tracer or Tracer(figures)
    admission = admission or Admission(backend.excess)
    reader = Reader(limits)
    for kind in CLASSES:
        figures.queue_items.labels(kind).set_function(partial(_waiting, backend, kind))

    @asynccontextmanager
    async def answering(request: Request) -> AsyncIterator[Answers]:
        async with backend.held() as release:
            request.scope[RELEASE] = release.about.version
            yield release

    async def encode(request: Request, release: Answers, items: Sequence[Item], role: Role, truncate: Truncate) -> list[Encoded]:
        admission.leave(request.scope)
        began = time.perf_counter()
        encoded = await release.encode(items, role, truncate)
        queued = max(one.waited_s for one in encoded)
        tracer.spent("queue", queued)
        tracer.spent("encode", time.perf_counter() - began - queued)
        figures.tokens.inc(sum(one.tokens for one in encoded))
        figures.pictures.inc(sum(len(item.images) for item in items))
        return encoded

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = await reader.embeddings(request)
        with tracer.part("decode"):
            items = await reader.items(body)
        _admit_inputs(request, len(items), figures)
        async with answering(request) as release:
            about = release.about
            _check_model(body.model, about)
            _check_width(body.dimensions, about)
            encoded = await encode(request, release, items, body.role, body.truncate)
        with tracer.part("render"):
            content = await embeddings_body(encoded, body, about, [*address_notes(items), *_notes(encoded)])
        return Response(content, media_type="application/json")

    @app.post("/v1/search")
    async def search(request: Request) -> Response:
        start = time.perf_counter()
        body, upload = await reader.search(request)
        target = _target(body.target)
        with tracer.part("decode"):
            item = await reader.query(body, upload)
        _admit_inputs(request, 1, figures)
        async with answering(request) as release:
            about = release.about
            _check_model(body.model, about)
            if body.instruction is None:
                wording = instruction_for(about.instructions, item.modality, target)
                item = Item(id=item.id, text=item.text, images=item.images, instruction=wording)
            (encoded,) = await encode(request, release, [item], "query", body.truncate)
            with tracer.part("search"):
                found = await release.search(encoded.rows_TD, body.k, target)
        with tracer.part("render"):
            notes = [*_warnings(target, about), *_notes([encoded])]
            return JSONResponse(search_body(found, about, 1000 * (time.perf_counter() - start), notes))

    @app.get("/v1/items/{id:path}/image")
    async def item_image(request: Request, id: str) -> Response:
        async with answering(request) as release:
            data = await release.thumbnail(id)
        if data is None:
            raise ApiError(404, "no item of this id has a picture", "id")
        media = "image/png" if picture_format(data) == "PNG" else "image/jpeg"
        return Response(data, media_type=media, headers={"Cache-Control": "private, max-age=60"})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        async with answering(request) as release:
            about = release.about
        model = {"id": about.name, "object": "model", "created": 0, "owned_by": "mirepoix"}
        served = {"release": about.version, "dimensions": about.widths, "documents": about.documents}
        return JSONResponse({"object": "list", "data": [model | served]})

    @app.api_route("/live", methods=_PROBES)
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.api_route("/ready", methods=_PROBES)
    @app.api_route("/health", methods=_PROBES)
    async def ready(request: Request) -> Response:
        async with answering(request) as release:
            about = release.about
            if not release.ready:
                raise Starting
        return JSONResponse({"status": "ok", "release": about.version, "model": about.name, "key": keys is not None})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await all_metrics() if all_metrics else figures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> Response:
        return _page_file("index.html", {"Content-Security-Policy": _CONTENT_POLICY})

    for file in ("style.css", "page.js", "icon.svg"):
        app.add_api_route(f"/{file}", partial(_shown, file), include_in_schema=False)

    _map_error(app, ApiError, partial(_counted, figures))
    _map_error(app, PictureRefused, lambda error: _counted(figures, _picture_error(error)))
    _map_error(app, Refused, _refused)
    _map_error(app, Overloaded, partial(_late, figures))
    _map_error(app, TooSlow, lambda error: ApiError(503, _TOO_SLOW, code="input_too_slow"))
    _map_error(app, EncoderDied, lambda error: ApiError(503, _DIED, code="encoder_died"))
    _map_error(app, Starting, lambda error: starting())
    _map_error(app, HTTPException, _http_error)
    app.add_middleware(Guard, figures=figures, keys=keys, limits=limits, admission=admission, release=backend.version, tracer=tracer)
    return app


def _waiting(backend: Backend, kind: str) -> int:
    return backend.waiting().get(kind, 0)


async def _shown(name: str) -> Response:
    return _page_file(name, {})


def _page_file(name: str, headers: Mapping[str, str]) -> Response:
    """A file of the search page, whole: the framework's own reply takes ranges, and refuses some in words of its own."""
    media, _ = mimetypes.guess_type(name)
    return Response((_PAGE / name).read_bytes(), media_type=media, headers={"Cache-Control": "no-cache", **headers})


def _map_error(app: FastAPI, kind: type[Exception], convert: Callable[[Any], ApiError]) -> None:
    async def handler(request: Request, error: Exception) -> Response:
        return error_reply(convert(error))

    app.add_exception_handler(kind, handler)


def _http_error(error: HTTPException) -> ApiError:
    """What the framework refuses: a path that there is not, and a method that a path does not take, with those that it takes."""
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "another method").split(", ")))
        return ApiError(405, f"this path takes {allowed}", headers={"Allow": allowed})
    return ApiError(error.status_code, _NOWHERE if error.status_code == 404 else "the request is malformed")


def _counted(figures: Figures, error: ApiError) -> ApiError:
    """The same error; pictures of too many pixels are counted among what is rejected before its work."""
    if error.code == "too_many_pixels":
        figures.rejected.labels("pixels").inc()
    return error


def _late(figures: Figures, error: Overloaded) -> ApiError:
    """The refusal of a request that would be late, counted among what is rejected before its work."""
    figures.rejected.labels("deadline").inc()
    return busy(error.after_s)


def _picture_error(error: PictureRefused) -> ApiError:
    return ApiError(413 if error.reason == "too many bytes" else 400, str(error), "image", error.reason.replace(" ", "_"))


def _refused(error: Refused) -> ApiError:
    """A refusal of the encoder, which begins with the field of the request that is at fault: items have the names of their fields."""
    line = first_line(error)
    name = re.split(r"[\[ ]", line)[0]
    code = "too_many_tokens" if line.endswith(SHORTEN) else None
    return ApiError(400, line, name if name in ("input", "text", "messages") else None, code)


def _admit_inputs(request: Request, count: int, figures: Figures) -> None:
    """Refuses a request with more inputs than its key may still send in this minute."""
    key: Key | None = request.scope.get(KEY)
    if key is not None and (wait_s := key.admit_inputs(count, time.monotonic())) > 0:
        figures.rejected.labels("rate_limit").inc()
        raise too_many(f"{key.entry.inputs_per_minute} inputs a minute", wait_s)


def _check_model(model: str | None, about: About) -> None:
    if model is not None and model != about.name:
        raise ApiError(404, f"this server has no model of that name; it serves {about.name}", "model", "model_not_found")


def _check_width(width: int | None, about: About) -> None:
    if width is not None and width not in about.widths:
        trained = ", ".join(map(str, about.widths))
        raise ApiError(400, f"dimensions is {width}; this encoder was trained for {trained}", "dimensions")


def _target(letters: str | None) -> Modality | None:
    if letters is None:
        return None
    try:
        return Modality.of_letters(letters)
    except ValueError:
        raise ApiError(400, _TARGETS, "target") from None


def _notes(encoded: Sequence[Encoded]) -> list[str]:
    """Which texts were not read whole."""
    return [one.note for one in encoded if one.note]


def _warnings(target: Modality | None, about: About) -> list[str]:
    """Why a search has no result that could have some: the release has no document of the target."""
    if target is None or not about.documents or target.letters in about.documents:
        return []
    there = ", ".join(f"{count:,} {_plural(letters)}" for letters, count in about.documents.items())
    return [f"the release has no {_plural(target.letters)}; it has {there}"]


def _plural(letters: str) -> str:
    words = {"t": "texts", "i": "pictures", "it": "pictures with text", "v": "clips", "vt": "clips with text"}
    return words.get(letters, f"documents of {letters}")
