"""Serves the release on the cluster of the run, and asks the endpoint whether it says what the release promised."""

import base64
import json
import math
import os
from pathlib import Path
from typing import Any

import httpx

from mirepoix.models.errors import Refused
from mirepoix.serving.app import ServeConfig, start
from mirepoix.serving.http.client import KEY
from mirepoix.serving.release import COSINE
from mirepoix.serving.store import Context, Outcome, Rows

RECEIPT = "endpoint.json"


def work(context: Context, config: ServeConfig, release: Path) -> Outcome:
    """Starts the endpoint, and encodes the golden items over HTTP; it goes on serving as long as the cluster lives."""
    server = start(str(release), config)
    golden = json.loads((release / "golden.json").read_text())
    asked = [(item, rows[0]) for item, rows in zip(golden["items"], golden["vectors"], strict=True) if _askable(item)]
    cosines = [_cosine(expected, _embedding(server.url, item)) for item, expected in asked]
    if not all(cosine >= COSINE for cosine in cosines):
        raise Refused(f"{server.url} gives golden vectors at cosine {min(cosines):.4f}, {COSINE} is needed: it encodes differently")
    receipt = {"url": server.url, "release": server.version, "name": server.name}
    (context.folder / RECEIPT).write_text(json.dumps(receipt, indent=2, sort_keys=True) + "\n")
    rows = Rows(read=len(golden["items"]), written=len(asked), rejected=len(golden["items"]) - len(asked))
    return Outcome(rows, {"golden_cosine": min(cosines)} if cosines else {})


def stands(folder: Path, _: ServeConfig) -> bool:
    """Whether the endpoint that was started still serves that release."""
    receipt = json.loads((folder / RECEIPT).read_text())
    try:
        reply = httpx.get(f"{receipt['url']}/health", timeout=3)
        return reply.status_code == 200 and reply.json().get("release") == receipt["release"]
    except (httpx.HTTPError, ValueError):
        return False


def _askable(item: dict[str, Any]) -> bool:
    """Whether a request can carry the item as it is; the others were checked by the replicas when they opened the release."""
    return len(item["images"]) <= 1 and not item["video"] and not item["instruction"]


def _embedding(url: str, item: dict[str, Any]) -> list[float]:
    key = os.environ.get(KEY)
    thing = {"text": item["text"], "image": _data_uri(item["images"])}
    reply = httpx.post(
        f"{url}/v1/embeddings",
        json={"input": [{name: value for name, value in thing.items() if value}], "encoding_format": "float"},
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=60,
    )
    if reply.status_code != 200:
        raise Refused(f"{url} declined golden item {item['id']!r} ({reply.status_code}): {' '.join(reply.text.split())[:200]}")
    return reply.json()["data"][0]["embedding"]


def _data_uri(images: list[str]) -> str | None:
    if not images:
        return None
    kind = "png" if base64.b64decode(images[0][:24]).startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{images[0]}"


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
