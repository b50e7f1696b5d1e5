"""The deploy stage: serves the release on the cluster of the run, and compares the endpoint's vectors with the golden vectors."""

import base64
import json
import math
import os
from pathlib import Path
from typing import Any

import httpx

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.picture_formats import picture_format
from mirepoix.serving.golden import COSINE, GOLDEN
from mirepoix.serving.http.client import KEY
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import is_local, join, read_manifest


def work(context: Context, config: ServeConfig, release: Path) -> Outcome:
    """Starts the endpoint, and encodes the golden items over HTTP; the endpoint keeps serving as long as the cluster runs."""
    from mirepoix.serving.ray_serve.app import start

    stored = _stored(context.scratch, release)
    swap = f"`mirepoix serve {stored or release} --address HEAD:6379 --pause`"  # a run has no such flag
    server = start(str(release), config, stored=stored, pause_by=swap)
    golden = json.loads((release / GOLDEN).read_text())
    checked = [(item, rows[0]) for item, rows in zip(golden["items"], golden["vectors"], strict=True) if _expressible(item)]
    cosines = [_cosine(expected, _embedding(server.url, item)) for item, expected in checked]
    if not all(cosine >= COSINE for cosine in cosines):
        raise Refused(
            f"{server.url} returns golden vectors at cosine {min(cosines):.4f}, and {COSINE} is needed; run its nodes with the library "
            "versions that the release was made with"
        )
    Receipt(server.url, server.version, server.name).write(context.folder)
    rows = Rows(read=len(golden["items"]), written=len(checked), rejected=len(golden["items"]) - len(checked))
    return Outcome(rows, {"golden_cosine": min(cosines)} if cosines else {})


def _stored(scratch: str, release: Path) -> str | None:
    """Where a release lies in an object store, of which the stage is given a copy; None of one in a local storage."""
    manifest = None if is_local(scratch) else read_manifest(release)
    if manifest is None:
        return None
    path, mark, query = scratch.partition("?")
    return join(path.rpartition("/work/")[0] + mark + query, "artefacts", manifest.fields["stage"], manifest.fields["key"][:16])


def _expressible(item: dict[str, Any]) -> bool:
    """Whether a request can contain the item unchanged; the replicas checked the others when they opened the release."""
    return len(item["images"]) <= 1 and not item["video"] and not item["instruction"]


def _embedding(url: str, item: dict[str, Any]) -> list[float]:
    key = os.environ.get(KEY)
    content = {"text": item["text"], "image": _data_uri(item["images"])}
    reply = httpx.post(
        f"{url}/v1/embeddings",
        json={"input": [{name: value for name, value in content.items() if value}], "encoding_format": "float"},
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=60,
    )
    if reply.status_code != 200:
        raise Refused(f"{url} declined golden item {item['id']!r} ({reply.status_code}): {' '.join(reply.text.split())[:200]}")
    return reply.json()["data"][0]["embedding"]


def _data_uri(images: list[str]) -> str | None:
    if not images:
        return None
    kind = "png" if picture_format(base64.b64decode(images[0][:24])) == "PNG" else "jpeg"
    return f"data:image/{kind};base64,{images[0]}"


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
