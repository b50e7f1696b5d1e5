"""The bodies of replies. One of many vectors is written piece by piece, so that short requests are answered in between.

Shapes: T rows of an item, D width.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from mirepoix.serving.engine.current import About
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.http.schemas import EmbeddingsBody
from mirepoix.serving.in_process.searcher import SearchResult

PIECE = 16
"""Vectors that are written at once: a millisecond or two."""


async def embeddings_body(encoded: Sequence[Encoded], body: EmbeddingsBody, about: About, notes: Sequence[str]) -> bytes:
    """The reply to a request for embeddings, as JSON."""
    pieces = []
    for start in range(0, len(encoded), PIECE):
        if start:
            await asyncio.sleep(0)
        pieces.append(
            ",".join(
                _dumped({"object": "embedding", "index": n, **_embedding(one.rows_TD, body.dimensions, body.encoding_format)})
                for n, one in enumerate(encoded[start : start + PIECE], start)
            )
        )
    tokens = sum(one.tokens for one in encoded)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest: dict[str, Any] = {"model": about.name, "release": about.version, "usage": usage}
    if notes:
        rest["warnings"] = list(notes)
    return f'{{"object":"list","data":[{",".join(pieces)}],{_dumped(rest)[1:]}'.encode()


def search_body(found: Sequence[SearchResult], about: About, took_ms: float, notes: Sequence[str]) -> Mapping[str, Any]:
    """The reply to a search."""
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
    reply = {"object": "search", "release": about.version, "model": about.name, "took_ms": round(took_ms, 1), "results": results}
    return reply | ({"warnings": list(notes)} if notes else {})


def _dumped(plain: Mapping[str, Any]) -> str:
    """JSON as the framework writes it."""
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _embedding(rows_TD: np.ndarray, width: int | None, form: str) -> dict[str, Any]:
    """One row as a plain embedding; several rows as a list of rows, or in base64 with their shape."""
    if width is not None and width < rows_TD.shape[1]:
        rows_TD = rows_TD[:, :width] / np.linalg.norm(rows_TD[:, :width], axis=1, keepdims=True)
    single = len(rows_TD) == 1
    if form == "base64":
        packed = base64.b64encode(rows_TD.astype("<f4").tobytes()).decode()
        return {"embedding": packed} if single else {"embedding": packed, "shape": list(rows_TD.shape)}
    return {"embedding": rows_TD[0].tolist() if single else rows_TD.tolist()}
